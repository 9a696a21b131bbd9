"""Batches of A+B by one owner, and claims beside a million ready jobs, beside another release of Muster:
BEFORE=FOLDER python -m benchmarks --only before,before_owners

FOLDER is a checkout of that release, as `git worktree add --detach ../before COMMIT` makes it; it runs with the same
Python packages, so they have to do for it. Both take turns on one PostgreSQL, each with a database of its own. What is
compared is processor time, which depends little on what else the machine does.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.limits import FLAT, READY_KINDS, add_ready_jobs, without_checkpoints
from benchmarks.measure import Bench, Finding, benchmark
from benchmarks.servers import BASE_DIR, Servers, muster_environment, require, run

# So much more may a batch take than before there were turns of owners.
AT_MOST = 1.05
BATCH = 1_000
# What both programs begin with. They use nothing that earlier releases do not have.
BEGINNING = """
import json, sys, time
import django, psutil
django.setup()
from django.db import connection
from orchestrator.kinds import kind_named
from orchestrator.worker.process import WorkerProcess
from orchestrator.worker.runner import run_next

def used():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
    return time.process_time() + sum(psutil.Process(pid).cpu_times()[:2])
"""

PROGRAM = """
from decimal import Decimal
from scheduler.services.tasks import NewTask, create_tasks

batches, size = map(int, sys.argv[1:])
tasks = [NewTask(a=Decimal(number), b=Decimal("0.5"), owner="ada") for number in range(size)]
add, process = kind_named("scheduler.add"), WorkerProcess("before@here", ["default"]).start()
assert process.lease.registered.wait(30)
create_tasks(tasks)
while run_next(add, process):
    pass
began = used()
for _ in range(batches):
    create_tasks(tasks)
submitted = used()
done = 0
while done < batches * size:
    assert run_next(add, process)
    done += add.batch_size
ended = used()
process.end()
connection.close()
print(json.dumps({"submitting": submitted - began, "running": ended - submitted}))
"""

# No-op jobs that wait. An earlier release may know of no owners that have come.
CLAIMS = """
def run(jobs):
    done = 0
    while done < jobs:
        ran = run_next(kind, process)
        assert ran, done
        done += ran
    return done

count = int(sys.argv[3])
kind, process = kind_named(sys.argv[1]), WorkerProcess("before@here", [sys.argv[2]]).start()
assert process.lease.registered.wait(30)
try:
    from orchestrator.queue import turns
except ImportError:
    pass
else:
    while turns.absorb(kind.name):
        pass
run(count // 5)
began_at, used_before = time.perf_counter(), used()
done = run(count)
seconds, processor_seconds = time.perf_counter() - began_at, used() - used_before
process.end()
connection.close()
print(json.dumps({"a second": done / seconds, "a second of processors": done / processor_seconds}))
"""


@benchmark("before", "Batches of A+B by one owner, beside an earlier release", only_by_name=True)
def before(bench: Bench) -> Iterator[Finding]:
    batches, rounds = bench.size(20, 2), bench.size(8, 2)
    folders = _folders()
    urls = {name: _migrated(bench.servers, name, each) for name, each in folders.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    for number in range(rounds):
        for name in sorted(folders, reverse=number % 2 == 1):
            environment = muster_environment(bench.servers, urls[name])
            command = [sys.executable, "-c", BEGINNING + PROGRAM, str(batches), str(BATCH)]
            one = json.loads(run(command, environment, folder=folders[name]))
            found[name].append(one)
            told = ", ".join(f"{what} {_micro(seconds, batches):.1f} µs" for what, seconds in one.items())
            bench.say(f"round {number + 1}, {name}: {told}")
    pairs = list(zip(found["now"], found["before"], strict=True))
    yield Finding(
        what="batches of A+B by one owner: processor time to submit and run them, share of what it was before",
        value=statistics.median(sum(now.values()) / sum(earlier.values()) for now, earlier in pairs),
        unit="×",
        target=AT_MOST,
        at_most=True,
        note=f"Batches of {BATCH:,}; one process submits them and runs them, and PostgreSQL's time for it counts.",
    )
    for what in ("submitting", "running"):
        for name, each in found.items():
            value = statistics.median(_micro(one[what], batches) for one in each)
            yield Finding(what=f"{what} a task, {name}", value=value, unit="µs")


@benchmark(
    "before_owners",
    "Claims beside a million jobs of ten thousand owners, and by an earlier release",
    only_by_name=True,
)
def before_owners(bench: Bench) -> Iterator[Finding]:
    """Both beside as many ready jobs of as many owners who came in turn, in the order that each release takes them."""
    ready, owners = bench.size(1_000_000, 8_000), bench.size(10_000, 100)
    count, rounds = bench.size(5_000, 300), bench.size(8, 2)
    folders = _folders()
    without_checkpoints(bench.servers)
    urls = {name: _migrated(bench.servers, f"{name}_owners", each) for name, each in folders.items()}
    for url in urls.values():
        add_ready_jobs(url, ready, owners)
    for kind, queue in READY_KINDS.items():
        found: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
        for number in range(rounds):
            for name in sorted(folders, reverse=number % 2 == 1):
                environment = muster_environment(bench.servers, urls[name])
                command = [sys.executable, "-c", BEGINNING + CLAIMS, kind, queue, str(count)]
                one = json.loads(run(command, environment, folder=folders[name]))
                found[name].append(one)
                bench.say(f"round {number + 1}, {kind}, {name}: {one['a second']:,.0f} jobs/s")
        for unit in found["now"][0]:
            pairs = zip(found["now"], found["before"], strict=True)
            yield Finding(
                what=f"{kind}, {ready:,} ready of {owners:,} owners: jobs {unit}, share of what it was before",
                value=statistics.median(now[unit] / earlier[unit] for now, earlier in pairs),
                unit="×",
                target=FLAT,
                note="No-op jobs that one thread claims, runs and completes, in turn.",
            )
        for name, each in found.items():
            value = statistics.median(one["a second"] for one in each)
            yield Finding(what=f"{kind}, {name}", value=value, unit="jobs/s")


def _folders() -> dict[str, Path]:
    folder = Path(os.environ.get("BEFORE", ""))
    require((folder / "manage.py").exists(), "BEFORE has to be the folder of a checkout of Muster.")
    return {"now": BASE_DIR, "before": folder.resolve()}


def _micro(seconds: float, batches: int) -> float:
    """Microseconds of a task."""
    return seconds / (batches * BATCH) * 1e6


def _migrated(servers: Servers, name: str, folder: Path) -> str:
    def migrate(url: str) -> None:
        command = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
        run(command, muster_environment(servers, url), folder=folder)

    return servers.fresh(f"muster_{name}", migrate)
