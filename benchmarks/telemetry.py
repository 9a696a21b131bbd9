"""15. Telemetry: what traces cost jobs, sent to a collector and switched off."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from benchmarks import client
from benchmarks.measure import Bench, Finding, benchmark
from benchmarks.servers import Stack, connect, muster, muster_environment, run, spent, value
from benchmarks.tasks import PATIENCE_SECONDS, UNFINISHED

TASKS, ORDINARY = "A+B tasks in batches", "ordinary jobs on threads"
# How often a job asks whether traces are on: when it is submitted, when it begins, when its handler is called.
ASKS_A_JOB = 3
ASK = """
import timeit, django
django.setup()
from orchestrator.telemetry import tracing
print(min(timeit.repeat(tracing.is_on, number=100_000, repeat=5)) / 100_000)
"""


class Cost(NamedTuple):
    """What jobs of a sort cost."""

    jobs_a_second: float
    # Of a job, of all processes and servers.
    processor_seconds: float


class Discarding(BaseHTTPRequestHandler):
    """A collector that keeps nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.server.received += len(self.rfile.read(int(self.headers["Content-Length"])))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def collecting() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Discarding)
    server.received = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@benchmark("telemetry", "Traces: exported, and off")
def telemetry(bench: Bench) -> Iterator[Finding]:
    rounds = bench.size(3, 1)
    off: list[dict[str, Cost]] = []
    on: list[dict[str, Cost]] = []
    with collecting() as collector:
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        for number in range(rounds):
            # In turn the one and the other first, since a machine may get slower or faster meanwhile.
            for traced in (False, True) if number % 2 == 0 else (True, False):
                if traced:
                    on.append(costs(bench, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint))
                else:
                    off.append(costs(bench))
        bench.say(f"The collector got {collector.received:,} bytes")  # type: ignore[attr-defined]
    environment = muster_environment(bench.servers, bench.servers.url("muster"))
    ask_seconds = float(run([sys.executable, "-c", ASK], environment))
    for what in (TASKS, ORDINARY):
        pairs = [(without[what], with_traces[what]) for without, with_traces in zip(off, on, strict=True)]
        rate_without = statistics.median(each.jobs_a_second for each, _ in pairs)
        yield Finding(
            what=f"{what}: share that is left with traces exported",
            value=statistics.median(each.jobs_a_second / without.jobs_a_second for without, each in pairs),
            unit="×",
            target=0.9,
        )
        # It says more than the rates where other programs use the processors meanwhile.
        yield Finding(
            what=f"{what}: processor time with traces exported, of that without",
            value=statistics.median(each.processor_seconds / without.processor_seconds for without, each in pairs),
            unit="×",
            target=1.1,
            at_most=True,
        )
        yield Finding(
            what=f"{what}: share of a job's time that it asks whether traces are on, which are off",
            value=100 * ASKS_A_JOB * ask_seconds * rate_without,
            unit="%",
            target=2,
            at_most=True,
        )
        yield Finding(what=f"{what}, traces off", value=rate_without, unit="jobs/s")
        rate = statistics.median(each.jobs_a_second for _, each in pairs)
        yield Finding(what=f"{what}, traces exported", value=rate, unit="jobs/s")


def costs(bench: Bench, **settings: str) -> dict[str, Cost]:
    """Of each sort of jobs, from their submission until the last one has ended."""
    # Some ten seconds of each, so that what a process does once, with its first span, is a small part.
    count, many = bench.size(120_000, 500), bench.size(40_000, 200)
    tasks = [{"a": number, "b": 0.5} for number in range(count)]
    jobs = [{"kind": "bench.leased_step"} for _ in range(many)]
    requests = {
        TASKS: [client.post("/tasks/batch-request/", tasks[at : at + 5_000]) for at in range(0, count, 5_000)],
        ORDINARY: [client.post("/jobs/bulk", {"jobs": jobs[at : at + 10_000]}) for at in range(0, many, 10_000)],
    }
    with muster(bench.servers, **settings) as stack, closing(connect(stack.database_url)) as connection:
        few = [client.post("/tasks/batch-request/", tasks[:200]), client.post("/jobs/bulk", {"jobs": jobs[:100]})]
        cost(stack, connection, few, 300)
        return {
            TASKS: cost(stack, connection, requests[TASKS], count),
            ORDINARY: cost(stack, connection, requests[ORDINARY], many),
        }


def cost(stack: Stack, connection: Any, requests: list[bytes], count: int) -> Cost:
    """Of so many jobs, which the requests submit."""
    before = stack.cpu_seconds()
    began_at = time.perf_counter()
    client.send(stack.port, requests, connections=1).expect(202)
    stack.wait_until(lambda: not value(connection, UNFINISHED), PATIENCE_SECONDS)
    seconds = time.perf_counter() - began_at
    return Cost(count / seconds, sum(spent(before, stack.cpu_seconds()).values()) / count)
