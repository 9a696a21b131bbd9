"""2. `POST /tasks/` one at a time by 16 clients, beside the usual way; and its web part beside a bare DRF view."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from benchmarks import client
from benchmarks.measure import Bench, Finding, benchmark, in_turn
from benchmarks.servers import baseline, connect, muster, spent, value
from benchmarks.tasks import PATIENCE_SECONDS, UNFINISHED, require_right, require_usual_right, warm_up_usual

CLIENTS = 16
ALL_OF_IT, WEB_PART = "POST /tasks/ by 16 clients until all results are visible", "The web part alone of such a POST"


@benchmark("singles", "POST /tasks/ one at a time, 16 clients")
def singles(bench: Bench) -> Iterator[Finding]:
    ours = by_muster(bench, bench.size(5_000, 100))
    usual = by_the_usual_way(bench, bench.size(2_000, 100))
    yield Finding(what="single tasks, times the usual way", value=ours / usual, unit="×", target=6)
    yield Finding(what="Muster", value=ours, unit="tasks/s", plot=ALL_OF_IT)
    yield Finding(what="the usual way: Django + Celery", value=usual, unit="tasks/s", plot=ALL_OF_IT)
    yield from web_part(bench, count=bench.size(2_000, 50), rounds=bench.size(5, 1))


def by_muster(bench: Bench, count: int) -> float:
    requests = [client.post("/tasks/", {"a": number, "b": 0.5}) for number in range(count)]
    with muster(bench.servers) as stack, closing(connect(stack.database_url)) as connection:
        began_at = time.perf_counter()
        client.send(stack.port, requests, connections=CLIENTS).expect(202)
        stack.wait_until(lambda: not value(connection, UNFINISHED), PATIENCE_SECONDS)
        seconds = time.perf_counter() - began_at
    bench.servers.prove(lambda: require_right(stack.database_url, count))
    return count / seconds


def by_the_usual_way(bench: Bench, count: int) -> float:
    requests = [client.post("/tasks/", {"a": number, "b": "0.5"}) for number in range(count)]
    with (
        baseline(bench.servers, "usual", "web", "worker") as stack,
        closing(connect(stack.database_url)) as connection,
    ):
        warm_up_usual(stack)
        began_at = time.perf_counter()
        client.send(stack.port, requests, connections=CLIENTS).expect(202)
        pending = "SELECT EXISTS (SELECT FROM usual_task WHERE status = 'PENDING')"
        stack.wait_until(lambda: not value(connection, pending), PATIENCE_SECONDS)
        seconds = time.perf_counter() - began_at
    bench.servers.prove(lambda: require_usual_right(stack.database_url, count))
    return count / seconds


def web_part(bench: Bench, *, count: int, rounds: int) -> Iterator[Finding]:
    """Both web processes run, with no workers, and are asked in turn."""
    ours = [client.post("/tasks/", {"a": number, "b": 0.5}) for number in range(count)]
    bare = [client.post("/rows/", {"a": number, "b": "0.5"}) for number in range(count)]
    client_seconds = []
    with muster(bench.servers, ["web"]) as stack, baseline(bench.servers, "bare_views", "web") as other:

        def ask_muster() -> float:
            load = client.send(stack.port, ours, connections=CLIENTS).expect(202)
            client_seconds.append(load.cpu_seconds / count)
            return load.rate

        ask_muster()
        client.send(other.port, bare, connections=CLIENTS).expect(201)
        before = stack.cpu_seconds()
        client.send(stack.port, ours, connections=CLIENTS).expect(202)
        costs = spent(before, stack.cpu_seconds())
        rate, bare_rate = in_turn(
            rounds, ask_muster, lambda: client.send(other.port, bare, connections=CLIENTS).expect(201).rate
        )
    yield Finding(what="POST /tasks/, share of a bare DRF insert", value=rate / bare_rate, unit="×", target=0.6)
    yield Finding(what="Muster, POST /tasks/", value=rate, unit="requests/s", plot=WEB_PART)
    yield Finding(what="a bare DRF view that inserts one row", value=bare_rate, unit="requests/s", plot=WEB_PART)
    for part in ("web", "postgres"):
        yield Finding(what=f"processor time of {part} for POST /tasks/", value=costs[part] / count * 1e6, unit="µs")
    yield Finding(
        what="processor time of the client for a request",
        value=min(client_seconds) * 1e6,
        unit="µs",
        note="The client shares the machine with the server.",
    )
