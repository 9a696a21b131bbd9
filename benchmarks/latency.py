"""3. How soon a single job starts on an idle system, from sending the request to the start of the job."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from benchmarks import client
from benchmarks.measure import Bench, Finding, benchmark, percentile
from benchmarks.servers import connect, muster, require, rows, until, value
from benchmarks.tasks import UNFINISHED

KINDS: dict[str, tuple[bytes, int, int]] = {
    # A request that submits one, and the most that half of them and 99 % of them may take, in ms.
    "transactional": (client.post("/tasks/", {"a": 1, "b": 2}), 20, 60),
    "leased": (
        client.post("/jobs", {"kind": "demo.slices", "payload": {"slices": 1, "seconds_per_slice": 0}}),
        30,
        90,
    ),
}
PAUSE_SECONDS = (0.05, 0.15)
STARTED = """
SELECT extract(epoch FROM started_at)::float8, extract(epoch FROM created_at)::float8, status, attempt
FROM orchestrator_job ORDER BY id
"""


@benchmark("latency", "Latency of single jobs on an idle system, from sending the request to the start of the job")
def latency(bench: Bench) -> Iterator[Finding]:
    for name, (request, most_p50, most_p99) in KINDS.items():
        from_request, from_commit = delays(bench, request, bench.size(300, 20))
        p50, p99 = percentile(from_request, 0.50), percentile(from_request, 0.99)
        yield Finding(what=f"{name} job, p50", value=p50, unit="ms", target=most_p50, at_most=True)
        yield Finding(what=f"{name} job, p99", value=p99, unit="ms", target=most_p99, at_most=True)
        yield Finding(
            what=f"{name} job, p50 from its row's created_at", value=percentile(from_commit, 0.50), unit="ms"
        )
        yield Finding(
            what=f"{name} job, p99 from its row's created_at", value=percentile(from_commit, 0.99), unit="ms"
        )


def delays(bench: Bench, request: bytes, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds until each job started, since its request was sent and since its row was written."""
    sent: list[float] = []
    with muster(bench.servers) as stack, closing(connect(stack.database_url)) as connection:
        with client.Connection(stack.port) as web:
            warm_up(web, request, connection)
            for _ in range(count):
                time.sleep(random.uniform(*PAUSE_SECONDS))
                sent.append(time.time())
                status, body = web.ask(request)
                require(status == 202, f"{status}: {json.loads(body)}")
        until(lambda: not value(connection, UNFINISHED), 60)
        jobs = rows(connection, STARTED)
    require(len(jobs) == count, f"{len(jobs)} jobs for {count} requests.")
    require(all(job[2:] == ("COMPLETED", 1) for job in jobs), "Every job must be COMPLETED at its first attempt.")
    since_sent = [(job[0] - at) * 1000 for job, at in zip(jobs, sent, strict=True)]
    return since_sent, [(job[0] - job[1]) * 1000 for job in jobs]


def warm_up(web: client.Connection, request: bytes, connection: Any) -> None:
    """Runs some jobs, so that every process has begun and imported all, and forgets them."""
    for _ in range(20):
        web.ask(request)
        until(lambda: not value(connection, UNFINISHED), 60)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE orchestrator_job CASCADE")
