"""14. Watchers: what 500 event streams, with 100 events a second, do to the 99th percentile of `GET /jobs/{id}`."""

from __future__ import annotations

import random
import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from benchmarks import client
from benchmarks.flatness import FINISHED
from benchmarks.measure import Bench, Finding, benchmark, in_turn, percentile
from benchmarks.servers import Stack, connect, muster, require, rows, spent, until

CLIENTS = 16
WATCHERS = 500
CHANGE_SECONDS, CHANGED = 0.2, 20
RUNNING = """
INSERT INTO orchestrator_job (id, kind, queue, owner, status, payload, attempt, started_at)
SELECT gen_random_uuid(), 'demo.slices', 'io', 'ada', 'RUNNING', '{}', 1, now() FROM generate_series(1, %s)
RETURNING id::text
"""
CHANGE = """
UPDATE orchestrator_job SET progress_done = coalesce(progress_done, 0) + 1, updated_at = clock_timestamp()
WHERE id = ANY(%s::uuid[])
"""


class Watchers:
    """Reads event streams, all in one thread, and counts events."""

    def __init__(self, port: int, ids: list[str]) -> None:
        self.begun = self.events = 0
        self._selector = selectors.DefaultSelector()
        self._sockets = [self._open(port, id) for id in ids]
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _open(self, port: int, id: str) -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", port), timeout=client.PATIENCE_SECONDS)
        opened.sendall(f"GET /jobs/{id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        self._selector.register(opened, selectors.EVENT_READ)
        return opened

    def _read(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._selector.select(0.2):
                data = key.fileobj.recv(65_536)  # type: ignore[union-attr]
                self.begun += data.count(b"event: status")
                self.events += data.count(b"event: progress")

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        for each in self._sockets:
            each.close()
        self._selector.close()


@contextmanager
def changing(stack: Stack, ids: list[str]) -> Iterator[None]:
    """Some of the jobs come further, again and again."""
    done = threading.Event()

    def change() -> None:
        with closing(connect(stack.database_url)) as connection, connection.cursor() as cursor:
            while not done.wait(CHANGE_SECONDS):
                cursor.execute(CHANGE, [random.sample(ids, min(CHANGED, len(ids)))])

    thread = threading.Thread(target=change, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@benchmark("watchers", "Event streams beside the API")
def watchers(bench: Bench) -> Iterator[Finding]:
    count, many, rounds = bench.size(2_000, 100), bench.size(WATCHERS, 20), bench.size(5, 1)
    with muster(bench.servers, ["web"]) as stack, closing(connect(stack.database_url)) as connection:
        with connection.cursor() as cursor:
            cursor.execute(FINISHED.replace("%", "%%").replace("%%s", "%s"), (0, 999))
        ids = [id for (id,) in rows(connection, RUNNING.replace("%s", str(many)))]
        requests = [client.get(f"/jobs/{ids[0]}")] * count
        events: list[int] = []

        def alone() -> float:
            return p99(stack, requests)

        def watched() -> float:
            with ExitStack() as opened:
                watching = opened.enter_context(closing(Watchers(stack.port, ids)))
                until(lambda: watching.begun == many, 60)
                opened.enter_context(changing(stack, ids))
                found = p99(stack, requests)
                events.append(watching.events)
                return found

        p99(stack, requests)
        without, beside = in_turn(rounds, alone, watched)
        require(all(events), "The watchers must be told.")
        with closing(Watchers(stack.port, ids)) as watching:
            until(lambda: watching.begun == many, 60)
            before = stack.cpu_seconds()
            threading.Event().wait(10)
            idle = spent(before, stack.cpu_seconds())
    yield Finding(
        what=f"p99 beside {many} watchers, times that without",
        value=beside / without,
        unit="×",
        target=2,
        at_most=True,
    )
    yield Finding(what="p99 of GET /jobs/{id} without watchers", value=without * 1000, unit="ms")
    yield Finding(what=f"p99 of GET /jobs/{{id}} beside {many} watchers", value=beside * 1000, unit="ms")
    for part in ("web", "postgres"):
        yield Finding(what=f"processor time of {part} for {many} idle watchers", value=idle[part] / 10, unit="s/s")


def p99(stack: Stack, requests: list[bytes]) -> float:
    return percentile(client.send(stack.port, requests, connections=CLIENTS).expect(200).latencies, 0.99)
