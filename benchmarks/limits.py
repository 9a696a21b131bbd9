"""What limits and turns cost: claims of a kind whose keys block a million jobs, of kinds without limits beside them,
and of kinds of which ten thousand owners have ready jobs.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import closing

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
# Ready jobs of so many owners. The claim learns of the owners as of any other.
READY = """
INSERT INTO orchestrator_job (id, kind, queue, owner, payload, ready, rank)
SELECT gen_random_uuid(), %(kind)s, %(queue)s, 'owner ' || n %% %(owners)s, '{}', true,
       now() - interval '1 hour' + n * interval '1 microsecond'
FROM generate_series(1, %(count)s) AS n
"""
READY_KINDS = {"bench.step": "default", "bench.leased_step": "io"}
# Of claims with a million blocked jobs, the rate is this share of that without limits, and without blocked jobs.
FLAT = 0.85


@benchmark("limits", "Claims while a million jobs wait for the limits of their keys")
def limits(bench: Bench) -> Iterator[Finding]:
    blocked, count, rounds = bench.size(1_000_000, 2_000), bench.size(5_000, 300), bench.size(7, 2)
    names = {"none blocked": 0, f"{blocked:,} blocked": blocked}
    urls = {name: filled(bench.servers, f"muster_limits_{number}", number) for name, number in names.items()}
    rates: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for name, kind in sorted(((name, kind) for name in urls for kind in KINDS), reverse=number % 2 == 1):
            rates.setdefault((name, kind), []).append(rate(bench.servers, urls[name], kind, count))
            bench.say(f"round {number + 1}, {kind}, {name}: {rates[name, kind][-1]:,.0f} jobs/s")
    none, full = names
    free, keyed = KINDS
    for what, measured, base in (
        ("a kind without limits", (full, free), (none, free)),
        ("a kind with a limit per key", (full, keyed), (none, keyed)),
        ("a kind with a limit per key, compared with one without limits", (full, keyed), (none, free)),
    ):
        ratios = [one / other for one, other in zip(rates[measured], rates[base], strict=True)]
        yield Finding(
            what=f"{what}: rate with {full}, share of the rate with none",
            value=statistics.median(ratios),
            unit="×",
            target=FLAT,
            note="No-op leased jobs that one thread claims in groups, runs and completes, in turn.",
        )
    for (name, kind), found in rates.items():
        yield Finding(what=f"{kind}, {name}", value=statistics.median(found), unit="jobs/s")


@benchmark("owners", "Claims while a million jobs of ten thousand owners are ready")
def owners(bench: Bench) -> Iterator[Finding]:
    ready, most, rounds = bench.size(1_000_000, 4_000), bench.size(10_000, 100), bench.size(7, 2)
    count = bench.size(5_000, 300)
    names = {"one owner": 1, f"{most:,} owners": most}
    urls = {
        name: with_ready_jobs(bench.servers, f"muster_owners_{number}", ready, number)
        for name, number in names.items()
    }
    rates: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for name, kind in sorted(((name, kind) for name in urls for kind in READY_KINDS), reverse=number % 2 == 1):
            rates.setdefault((name, kind), []).append(rate(bench.servers, urls[name], f"ready_{kind}", count))
            bench.say(f"round {number + 1}, {kind}, {name}: {rates[name, kind][-1]:,.0f} jobs/s")
    one, many = names
    for kind in READY_KINDS:
        ratios = [of_many / of_one for of_many, of_one in zip(rates[many, kind], rates[one, kind], strict=True)]
        yield Finding(
            what=f"{kind}: rate with {ready:,} ready jobs of {many}, share of the rate with as many of one",
            value=statistics.median(ratios),
            unit="×",
            target=FLAT,
            note="No-op jobs that one thread claims, runs and completes, in turn.",
        )
    for (name, kind), found in rates.items():
        yield Finding(what=f"{kind}, {name}", value=statistics.median(found), unit="jobs/s")


def with_ready_jobs(servers: Servers, name: str, count: int, owners: int) -> str:
    """A database in which half of the jobs are of each kind."""
    url = servers.fresh(name, migrated(servers))
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        for kind, queue in READY_KINDS.items():
            cursor.execute(READY, {"kind": kind, "queue": queue, "owners": owners, "count": count // 2})
        cursor.execute("VACUUM (ANALYZE) orchestrator_job")
    return url


def filled(servers: Servers, name: str, blocked: int) -> str:
    url = servers.fresh(name, migrated(servers))
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(BLOCKED, [blocked])
        cursor.execute(RUNNING)
        cursor.execute("VACUUM (ANALYZE) orchestrator_job")
    return url


def rate(servers: Servers, url: str, kind: str, count: int) -> float:
    """Jobs a second."""
    servers.execute("postgres", "CHECKPOINT")
    command = [sys.executable, "-m", "benchmarks.probe", f"run_{kind.replace('bench.', '')}s", str(count)]
    return float(json.loads(run(command, muster_environment(servers, url)))["rate"])
