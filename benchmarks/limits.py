"""What limits and turns cost: claims of a kind whose keys block a million jobs, of kinds without limits beside them,
and of kinds of which ten thousand owners have ready jobs.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from benchmarks.measure import Bench, Finding, benchmark
from benchmarks.servers import Servers, connect, migrated, muster_environment, run

KINDS = {"bench.leased_step": "without limits", "bench.keyed_step": "with a limit per key"}
# Blocked by a thousand keys, each of which has a job that runs.
BLOCKED = """
INSERT INTO orchestrator_job (id, kind, queue, payload, limit_key, blocked_by, rank)
SELECT gen_random_uuid(), 'bench.keyed_step', 'io', '{}', 'key ' || n %% 1000, 'max_running_per_key:key ' || n %% 1000,
       now() - interval '1 hour' + n * interval '1 microsecond'
FROM generate_series(1, %s) AS n
"""
RUNNING = """
INSERT INTO orchestrator_worker (name, queues, host, pid, process_started, lost, trying)
VALUES ('blocker@there', '[]', 'there', 1, '1', false, '{}');
INSERT INTO orchestrator_job (id, kind, queue, payload, limit_key, limited, status, attempt, worker_id, started_at)
SELECT gen_random_uuid(), 'bench.keyed_step', 'io', '{}', 'key ' || n, true, 'RUNNING', 1,
       (SELECT max(id) FROM orchestrator_worker), now()
FROM generate_series(0, 999) AS n
"""
# Ready jobs of so many owners, with ids that rise as those of jobs do. The claim learns of the owners as of any other.
READY = """
INSERT INTO orchestrator_job (id, kind, queue, owner, payload, ready, rank)
SELECT ('018f0000' || lpad(to_hex(n), 8, '0') || '8000' || substr(md5(%(kind)s || n), 1, 12))::uuid,
       %(kind)s, %(queue)s, 'owner ' || n %% %(owners)s, '{}', true,
       now() - interval '1 hour' + n * interval '1 microsecond'
FROM generate_series(1, %(count)s) AS n
"""
READY_KINDS = {"bench.step": "default", "bench.leased_step": "io"}
# With a million jobs that wait, claims are this share of what they are without: by the clock, and by what they take of
# processors, which does not depend on what else the machine does.
FLAT = 0.85


class Claims(NamedTuple):
    """Jobs that were claimed, run and completed in a second, and in a second of processors."""

    rate: float
    a_processor: float

    def __str__(self) -> str:
        return f"{self.rate:,.0f} jobs/s, {1_000 / self.a_processor:.3f} ms of processors each"


Measured = dict[tuple[str, str], list[Claims]]


@benchmark("limits", "Claims while a million jobs wait for the limits of their keys")
def limits(bench: Bench) -> Iterator[Finding]:
    blocked, count, rounds = bench.size(1_000_000, 2_000), bench.size(5_000, 300), bench.size(7, 2)
    names = {"none blocked": 0, f"{blocked:,} blocked": blocked}
    urls = {name: filled(bench.servers, f"muster_limits_{number}", number) for name, number in names.items()}
    found: Measured = {}
    for number in range(rounds):
        for name, kind in sorted(((name, kind) for name in urls for kind in KINDS), reverse=number % 2 == 1):
            bench.servers.execute("postgres", "CHECKPOINT")
            found.setdefault((name, kind), []).append(claims(bench.servers, urls[name], kind, count))
            bench.say(f"round {number + 1}, {kind}, {name}: {found[name, kind][-1]}")
    none, full = names
    free, keyed = KINDS
    for what, measured, base in (
        (f"a kind without limits: with {full}", (full, free), (none, free)),
        (f"a kind with a limit per key: with {full}", (full, keyed), (none, keyed)),
        (f"a kind with a limit per key: with {full}, compared with one without limits", (full, keyed), (none, free)),
    ):
        yield from shares(what, found[measured], found[base], "those with none")
    yield from medians(found)


@benchmark("owners", "Claims while a million jobs of ten thousand owners are ready")
def owners(bench: Bench) -> Iterator[Finding]:
    """Beside as many as are claimed of one owner, and a million of one.

    There is no checkpoint from the time when the tables are filled. After one, each page is written whole when it is
    first changed, which is once for each job where neighbours are of other owners, but once in five minutes at most.
    """
    few, ready, most = bench.size(120_000, 4_000), bench.size(1_000_000, 8_000), bench.size(10_000, 100)
    count, rounds = bench.size(5_000, 300), bench.size(7, 2)
    names = {
        f"{few:,} of one owner": (few, 1),
        f"{ready:,} of one": (ready, 1),
        f"{ready:,} of {most:,}": (ready, most),
    }
    without_checkpoints(bench.servers)
    # Each new database is a checkpoint.
    urls = {
        name: bench.servers.fresh(f"muster_owners_{number}", migrated(bench.servers))
        for number, name in enumerate(names)
    }
    for name, url in urls.items():
        add_ready_jobs(url, *names[name])
    found: Measured = {}
    for number in range(rounds):
        for name, kind in sorted(((name, kind) for name in urls for kind in READY_KINDS), reverse=number % 2 == 1):
            found.setdefault((name, kind), []).append(claims(bench.servers, urls[name], f"ready_{kind}", count))
            bench.say(f"round {number + 1}, {kind}, {name}: {found[name, kind][-1]}")
    base, *others = names
    for kind in READY_KINDS:
        for name in others:
            yield from shares(f"{kind}: with {name}", found[name, kind], found[base, kind], f"those with {base}")
    yield from medians(found)


def shares(what: str, measured: Sequence[Claims], base: Sequence[Claims], of: str) -> Iterator[Finding]:
    """Round by round, since what else happens to the machine happens to both."""
    pairs = list(zip(measured, base, strict=True))
    for unit, ratios in (
        ("a second", [one.rate / other.rate for one, other in pairs]),
        ("a second of processors", [one.a_processor / other.a_processor for one, other in pairs]),
    ):
        yield Finding(
            what=f"{what}, jobs {unit}, share of {of}",
            value=statistics.median(ratios),
            unit="×",
            target=FLAT,
            note="No-op jobs that one thread claims, runs and completes, in turn.",
        )


def medians(found: Measured) -> Iterator[Finding]:
    for (name, kind), each in found.items():
        yield Finding(what=f"{kind}, {name}", value=statistics.median(one.rate for one in each), unit="jobs/s")
        milliseconds = statistics.median(1_000 / one.a_processor for one in each)
        yield Finding(what=f"{kind}, {name}: processor time of a job", value=milliseconds, unit="ms")


def without_checkpoints(servers: Servers) -> None:
    """None begins by the clock, after which each page is written whole when it is first changed."""
    servers.execute("postgres", "ALTER SYSTEM SET checkpoint_timeout = '1h'")
    servers.execute("postgres", "SELECT pg_reload_conf()")


def add_ready_jobs(url: str, count: int, owners: int) -> None:
    """Half of the jobs are of each kind."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        for kind, queue in READY_KINDS.items():
            cursor.execute(READY, {"kind": kind, "queue": queue, "owners": owners, "count": count // 2})
        cursor.execute("VACUUM (ANALYZE) orchestrator_job")


def filled(servers: Servers, name: str, blocked: int) -> str:
    url = servers.fresh(name, migrated(servers))
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(BLOCKED, [blocked])
        cursor.execute(RUNNING)
        cursor.execute("VACUUM (ANALYZE) orchestrator_job")
    return url


def claims(servers: Servers, url: str, kind: str, count: int) -> Claims:
    command = [sys.executable, "-m", "benchmarks.probe", f"run_{kind.replace('bench.', '')}s", str(count)]
    found = json.loads(run(command, muster_environment(servers, url)))
    return Claims(found["rate"], 1 / found["processor"])
