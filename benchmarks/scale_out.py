"""10. One, two and four worker processes, and two sets of workers: how the rate of tasks grows, and what bounds it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing

from benchmarks.measure import Bench, Finding, benchmark
from benchmarks.servers import connect, muster, procfile, queues, rows, run, spent, value
from benchmarks.tasks import PATIENCE_SECONDS, UNFINISHED, require_right

# How many workers there are, and how many processes each has.
SETS = {"1 process": (1, 1), "2 processes": (1, 2), "4 processes": (1, 4), "two sets of 2 processes": (2, 2)}
PLOT = "Tasks a second by workers, submitted beforehand"


@benchmark("scale_out", "Scale out: worker processes and sets of workers")
def scale_out(bench: Bench) -> Iterator[Finding]:
    for name, (workers, processes) in SETS.items():
        yield from with_workers(bench, name, workers, processes)


def with_workers(bench: Bench, name: str, workers: int, processes: int) -> Iterator[Finding]:
    """The rate at which those workers do tasks that were submitted before they began, once each of them has begun."""
    count = bench.size(60_000, 4_000)
    with (
        muster(bench.servers, ["control", "beat"], QUEUES=queues(processes=processes)) as stack,
        closing(connect(stack.database_url)) as connection,
    ):
        probe = [sys.executable, "-m", "benchmarks.probe"]
        run([*probe, "create_tasks", str(count - 1), str(count - 1)], stack.environment)
        for number in range(workers):
            command = procfile()["worker-default"].replace("-n default@%h", f"-n default{number}@%h")
            stack.start(f"worker-{number}", command)
        done = "SELECT count(*) FROM orchestrator_job WHERE status = 'COMPLETED'"
        stack.wait_until(lambda: value(connection, done) > count / 10)
        before, began_at, at_first = stack.cpu_seconds(), time.perf_counter(), value(connection, done)
        stack.wait_until(lambda: not value(connection, UNFINISHED), PATIENCE_SECONDS)
        seconds, used = time.perf_counter() - began_at, spent(before, stack.cpu_seconds())
        require_right(stack.database_url, count)
        shares = rows(connection, "SELECT worker_name, count(*) FROM orchestrator_job GROUP BY 1 ORDER BY 1")
    cores = {
        "PostgreSQL": used["postgres"] / seconds,
        "the workers": sum(value for part, value in used.items() if part.startswith("worker")) / seconds,
        "all of them together": sum(used.values()) / seconds,
    }
    told = ", ".join(f"{part} {value:.2f}" for part, value in cores.items())
    bench.say(f"{name}: {told} of {os.cpu_count()} cores; tasks of each worker: {dict(shares)}")
    yield Finding(
        what=f"Muster, {name}",
        value=(count - at_first) / seconds,
        unit="tasks/s",
        plot=PLOT,
        note="The rate after the first tenth of the tasks. The use of the cores shows what limits it.",
    )
    for part, share in cores.items():
        yield Finding(what=f"cores that {part} use with {name}", value=share, unit="cores")
