"""6. Ingestion with the outside call off: from request to stored beside a bare COPY, and a long stream's memory.

The COPY goes into a table with the same columns, constraints and indexes, of rows that are ready in memory: in one
transaction, and in one for every 100 rows, as the ingestion commits them where an outside service is called.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from typing import Any

from benchmarks import client
from benchmarks.measure import Bench, Finding, benchmark, in_turn
from benchmarks.servers import Stack, connect, muster, pss_mb, require, rows, spent, until, value
from benchmarks.tasks import UNFINISHED

COLUMNS = (
    "owner", "student_id", "first_name", "last_name", "email", "grade", "phone", "section", "roll_number", "address",
    "city", "state", "postal_code", "country", "date_of_birth", "ingestion_id",
)  # fmt: skip
PLOT = "Records stored a second"
PATIENCE_SECONDS = 900
A_REQUEST, A_STEP = 1_000, 100
CLIENTS = 4
STREAMED_AT_ONCE = 2_000


@benchmark("ingestion", "Ingestion with the outside call off, from request to stored")
def ingestion(bench: Bench) -> Iterator[Finding]:
    count = bench.size(50_000, 2_000)
    with muster(bench.servers) as stack, closing(connect(stack.database_url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE bare (LIKE ingestion_record INCLUDING ALL)")
        ingest(stack, connection, 2_000)
        before = stack.cpu_seconds()
        ingest(stack, connection, count)
        costs = spent(before, stack.cpu_seconds())
        ours, at_once, in_steps = in_turn(
            bench.size(5, 1),
            lambda: ingest(stack, connection, count),
            lambda: copy(stack, count, count),
            lambda: copy(stack, count, A_STEP),
        )
    bench.servers.prove(lambda: require_stored(stack.database_url, count))
    yield Finding(what="records ingested", value=ours, unit="records/s", target=20_000)
    yield Finding(what="ingestion, share of a bare COPY", value=ours / at_once, unit="×", target=0.25)
    yield Finding(
        what="ingestion, share of a COPY in transactions of 100",
        value=ours / in_steps,
        unit="×",
        note="The ingestion commits every 1,000 records, and every 100 where an outside service is called.",
    )
    yield Finding(what="Muster, from request to stored", value=ours, unit="records/s", plot=PLOT)
    yield Finding(what="a bare COPY", value=at_once, unit="records/s", plot=PLOT)
    yield Finding(what="a COPY in transactions of 100", value=in_steps, unit="records/s", plot=PLOT)
    for part in ("web", "worker-io", "postgres"):
        yield Finding(what=f"processor time of {part} for a record", value=costs[part] / count * 1e6, unit="µs")
    yield from streams(bench, bench.size(100_000, 2_000), bench.size(1_000_000, 5_000))


def student(number: int) -> dict[str, Any]:
    """A record; all of them are equally long as JSON."""
    return {
        "student_id": f"S-{number:08}",
        "first_name": "Asha",
        "last_name": "Rao",
        "email": f"asha.rao.{number:08}@example.org",
        "grade": str(number % 9 + 1),
        "phone": "+91 22 5550 100",
        "section": "B",
        "roll_number": f"{number:08}",
        "address": "1 Hill Road, Bandra West",
        "city": "Mumbai",
        "state": "Maharashtra",
        "postal_code": "400050",
        "country": "India",
        "date_of_birth": "2015-06-30",
    }


def ingest(stack: Stack, connection: Any, count: int) -> float:
    """Records a second from the first request until the last is stored, into an empty table."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE ingestion_record, orchestrator_job CASCADE")
    requests = [
        client.post("/api/data/ingest/", {"records": [student(n) for n in range(first, first + A_REQUEST)]})
        for first in range(0, count, A_REQUEST)
    ]
    load = client.send(stack.port, requests, connections=CLIENTS).expect(202)
    wait_until_ended(connection)
    rate = count / (time.perf_counter() - load.began_at)
    require_stored(stack.database_url, count)
    return rate


def wait_until_ended(connection: Any) -> None:
    until(lambda: not value(connection, UNFINISHED), PATIENCE_SECONDS)


def require_stored(database_url: str, count: int) -> None:
    sql = """SELECT count(*), count(*) FILTER (WHERE email = 'asha.rao.' || roll_number || '@example.org'),
             (SELECT count(*) FROM orchestrator_job WHERE status <> 'COMPLETED') FROM ingestion_record"""
    with closing(connect(database_url)) as connection:
        [outcome] = rows(connection, sql)
    require(outcome == (count, count, 0), f"Of {count:,} records: (stored, right, jobs that failed) = {outcome}.")


def copy(stack: Stack, count: int, size: int) -> float:
    """Rows a second of a bare COPY in transactions of that size. The rows are gone after that."""
    lines = ["\t".join(("", *student(number).values(), "1")) + "\n" for number in range(count)]
    transactions = [StringIO("".join(lines[first : first + size])) for first in range(0, count, size)]
    with closing(connect(stack.database_url)) as connection, connection.cursor() as cursor:
        began_at = time.perf_counter()
        for each in transactions:
            cursor.copy_from(each, "bare", columns=COLUMNS)
        rate = count / (time.perf_counter() - began_at)
        require(value(connection, "SELECT count(*) FROM bare") == count, "COPY must store all.")
        cursor.execute("TRUNCATE bare")
    return rate


def streams(bench: Bench, few: int, many: int) -> Iterator[Finding]:
    """Two streams of NDJSON, one ten times as long: the memory of the web and the worker that they need at most."""
    peaks, rate = {}, 0.0
    for count in (few, many):
        with muster(bench.servers) as stack, closing(connect(stack.database_url)) as connection:
            began_at = time.perf_counter()
            with Peak(stack) as peak:
                stream(stack, count)
                wait_until_ended(connection)
            rate = count / (time.perf_counter() - began_at)
            require_stored(stack.database_url, count)
            peaks[count] = peak
        bench.say(f"{count:,} records were streamed at {rate:,.0f}/s")
    yield Finding(what="a stream of 1,000,000 records", value=rate, unit="records/s")
    for name in ("web", "worker-io"):
        yield Finding(
            what=f"most memory of {name} with 1,000,000 records, times that with 100,000",
            value=peaks[many].mb[name] / peaks[few].mb[name],
            unit="×",
            target=1.5,
            at_most=True,
        )
        yield Finding(what=f"most memory of {name} with 1,000,000 records", value=peaks[many].mb[name], unit="MB")


def stream(stack: Stack, count: int) -> None:
    """Sends the records as they are made."""
    head = (
        "POST /api/data/ingest/stream/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-ndjson\r\n"
        f"Content-Length: {count * len(line(0))}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", stack.port), timeout=PATIENCE_SECONDS) as web:
        web.sendall(head.encode())
        for first in range(0, count, STREAMED_AT_ONCE):
            numbers = range(first, min(first + STREAMED_AT_ONCE, count))
            web.sendall(b"".join(map(line, numbers)))
        answer = web.recv(65_536)
    require(answer[9:12] == b"202", f"The stream was answered {answer[:500]!r}")


def line(number: int) -> bytes:
    return json.dumps(student(number)).encode() + b"\n"


class Peak:
    """The most memory that each process of a stack has while the block lasts, looked at five times a second."""

    def __init__(self, stack: Stack) -> None:
        self.mb: dict[str, float] = {}
        self._stack = stack
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            for name in ("web", "worker-io"):
                self.mb[name] = max(self.mb.get(name, 0), pss_mb(self._stack.pid(name)))
