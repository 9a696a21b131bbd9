"""8. Leased jobs that wait at once on one worker, a thousand on threads, ten thousand on its event loop: what their
leases cost.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing

import psutil

from benchmarks.measure import Bench, Finding, benchmark
from benchmarks.servers import Stack, connect, cpu_seconds, muster, queues, require, rows, run, until, value

RUNNING = "SELECT count(*) FROM orchestrator_job WHERE status = 'RUNNING'"


@benchmark("heartbeats", "A thousand leased jobs asleep on one worker")
def heartbeats(bench: Bench) -> Iterator[Finding]:
    count, seconds = bench.size(1_000, 50), bench.size(60.0, 3.0)
    with (
        muster(bench.servers, QUEUES=queues(threads=count)) as stack,
        closing(connect(stack.database_url)) as connection,
    ):
        idle = share_of_a_core(stack, seconds / 2)
        began_at = time.perf_counter()
        run([sys.executable, "-m", "benchmarks.probe", "submit_waits", str(count), str(int(3 * seconds) + 600)],
            stack.environment)  # fmt: skip
        until(lambda: value(connection, RUNNING) == count, 300)
        bench.say(f"{count:,} jobs were running after {time.perf_counter() - began_at:.1f} s")
        time.sleep(bench.size(10, 1))
        busy = share_of_a_core(stack, seconds)
        [(running, leases, attempts)] = rows(
            connection,
            "SELECT count(*), count(DISTINCT worker_id), max(attempt) FROM orchestrator_job WHERE status = 'RUNNING'",
        )
        require((running, leases, attempts) == (count, 1, 1), f"{running} jobs are leased by {leases} workers.")
    yield Finding(
        what="processor time of 1,000 leases, all that the worker and its connections use",
        value=100 * sum(busy),
        unit="% of a core",
        target=5,
        at_most=True,
        note="Includes all that the worker does while its jobs sleep: heartbeats, reading cancellations, Celery.",
    )
    yield Finding(what="the worker's process, 1,000 leases", value=100 * busy[0], unit="% of a core")
    yield Finding(what="its connections in PostgreSQL, 1,000 leases", value=100 * busy[1], unit="% of a core")
    yield Finding(what="the worker's process, no job", value=100 * idle[0], unit="% of a core")
    yield Finding(what="its connections in PostgreSQL, no job", value=100 * idle[1], unit="% of a core")
    yield from on_event_loop(bench, bench.size(10_000, 100), bench.size(30.0, 2.0))


def on_event_loop(bench: Bench, count: int, seconds: float) -> Iterator[Finding]:
    with (
        muster(bench.servers, ("worker-io", "control", "beat"), ASYNC_SLOTS=str(count)) as stack,
        closing(connect(stack.database_url)) as connection,
    ):
        began_at = time.perf_counter()
        run([sys.executable, "-m", "benchmarks.probe", "submit_async_waits", str(count), str(int(3 * seconds) + 600)],
            stack.environment)  # fmt: skip
        until(lambda: value(connection, RUNNING) == count, 300)
        started = time.perf_counter() - began_at
        busy = share_of_a_core(stack, seconds)
        [waiting, leases] = rows(
            connection, "SELECT count(*), count(DISTINCT worker_id) FROM orchestrator_job WHERE status = 'RUNNING'"
        )[0]
        require(leases == 1, f"The jobs are leased by {leases} workers.")
        memory = stack.memory()["worker-io"]
    yield Finding(what="async jobs that wait at once in one process", value=waiting, unit="jobs", target=10_000)
    yield Finding(what="10,000 async jobs, until all of them have started", value=started, unit="s")
    yield Finding(what="processor time of 10,000 async jobs that wait", value=100 * sum(busy), unit="% of a core")
    yield Finding(what="memory of the worker with 10,000 async jobs that wait", value=memory, unit="MB")


def share_of_a_core(stack: Stack, seconds: float) -> tuple[float, float]:
    """What the worker, and the PostgreSQL processes that serve it, use of a core meanwhile."""
    worker = stack.pid("worker-io")
    backends = backends_of(stack, worker)
    before = cpu_seconds(worker), sum(map(cpu_seconds, backends))
    began_at = time.perf_counter()
    time.sleep(seconds)
    passed = time.perf_counter() - began_at
    after = cpu_seconds(worker), sum(map(cpu_seconds, backends))
    return (after[0] - before[0]) / passed, (after[1] - before[1]) / passed


def backends_of(stack: Stack, pid: int) -> list[int]:
    """The PostgreSQL processes at the other ends of the process's connections."""
    process = psutil.Process(pid)
    ports = {
        connection.laddr.port
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("tcp")
        if connection.raddr
    }
    with closing(connect(stack.database_url)) as connection:
        answer = rows(connection, "SELECT pid, client_port FROM pg_stat_activity WHERE client_port IS NOT NULL")
    return [backend for backend, port in answer if port in ports]
