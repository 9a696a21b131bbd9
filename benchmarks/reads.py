"""7. Reads: `GET /jobs/{id}` beside a bare DRF view that reads one row, unchanged jobs by ETag, and pages far down."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import closing
from urllib.request import Request, urlopen

from benchmarks import client
from benchmarks.flatness import FINISHED
from benchmarks.measure import Bench, Finding, benchmark, in_turn
from benchmarks.servers import Stack, baseline, connect, muster, require, spent, value

PLOT = "Reads a second"
CLIENTS = 16
PAGE = 50


@benchmark("reads", "Reads over HTTP, 16 clients")
def reads(bench: Bench) -> Iterator[Finding]:
    count, rounds = bench.size(2_000, 60), bench.size(5, 1)
    with muster(bench.servers, ["web"]) as stack, baseline(bench.servers, "bare_views", "web") as other:
        [job] = client.send(stack.port, [client.post("/jobs")], keep_bodies=True).expect(202).json()
        [row] = client.send(other.port, [client.post("/rows/", {"a": 1, "b": 2})], keep_bodies=True).expect(201).json()
        path = f"/jobs/{job['job_id']}"
        bare = [client.get(f"/rows/{row['id']}/")] * count
        whole = [client.get(path)] * count
        unchanged = [client.get(path, If_None_Match=etag_of(stack, path))] * count
        for port, requests, status in (other.port, bare, 200), (stack.port, whole, 200), (stack.port, unchanged, 304):
            client.send(port, requests, connections=CLIENTS).expect(status)
        costs = {
            name: cost(stack, requests, status)
            for name, requests, status in (("GET /jobs/{id}", whole, 200), ("its 304", unchanged, 304))
        }
        ours, not_modified, others = in_turn(
            rounds,
            lambda: client.send(stack.port, whole, connections=CLIENTS).expect(200).rate,
            lambda: client.send(stack.port, unchanged, connections=CLIENTS).expect(304).rate,
            lambda: client.send(other.port, bare, connections=CLIENTS).expect(200).rate,
        )
    yield Finding(what="GET /jobs/{id}, share of a bare DRF read", value=ours / others, unit="×", target=0.8)
    yield Finding(what="304 by ETag, times GET /jobs/{id}", value=not_modified / ours, unit="×", target=1)
    yield Finding(what="Muster, GET /jobs/{id}", value=ours, unit="requests/s", plot=PLOT)
    yield Finding(what="Muster, 304 by ETag", value=not_modified, unit="requests/s", plot=PLOT)
    yield Finding(what="a bare DRF view that reads one row", value=others, unit="requests/s", plot=PLOT)
    for name, parts in costs.items():
        for part in ("web", "postgres"):
            yield Finding(what=f"processor time of {part} for {name}", value=parts[part] / count * 1e6, unit="µs")
    yield from pages(bench, bench.size(110_000, 2_000), bench.size(100_000, 1_500))


def etag_of(stack: Stack, path: str) -> str:
    """The ETag of an answer, which the cheap client does not read."""
    # Of the same host as the others, since an answer names it in its links.
    request = Request(f"http://127.0.0.1:{stack.port}{path}", headers={"Host": "127.0.0.1"})
    with urlopen(request) as answer:
        return str(answer.headers["ETag"])


def cost(stack: Stack, requests: list[bytes], status: int) -> dict[str, float]:
    before = stack.cpu_seconds()
    client.send(stack.port, requests, connections=CLIENTS).expect(status)
    return spent(before, stack.cpu_seconds())


def pages(bench: Bench, jobs: int, depth: int) -> Iterator[Finding]:
    """The first page of the list, and the page after so many rows, in turn."""
    times = bench.size(100, 10)
    with muster(bench.servers, ["web"]) as stack, closing(connect(stack.database_url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute(FINISHED.replace("%", "%%").replace("%%s", "%s"), (0, jobs - 1))
            cursor.execute("VACUUM (ANALYZE) orchestrator_job")
        deep = value(connection, "SELECT id FROM orchestrator_job ORDER BY id DESC OFFSET %s LIMIT 1", [depth])
        paths = [f"/jobs?limit={PAGE}", f"/jobs?limit={PAGE}&cursor={deep}"]
        for path in paths:
            [page] = client.send(stack.port, [client.get(path)], keep_bodies=True).expect(200).json()
            require(len(page["results"]) == PAGE, "Every page must be full.")
        first, far = in_turn(bench.size(5, 1), *(lambda path=path: typical(stack, path, times) for path in paths))
    yield Finding(
        what="a page after 100,000 jobs, times the first page",
        value=far / first,
        unit="×",
        target=1.2,
        at_most=True,
        note=f"The median time of a page of {PAGE} jobs for a single client.",
    )
    yield Finding(what="the first page of the list of jobs", value=first, unit="ms")


def typical(stack: Stack, path: str, times: int) -> float:
    load = client.send(stack.port, [client.get(path)] * times, connections=1).expect(200)
    return statistics.median(load.latencies) * 1000
