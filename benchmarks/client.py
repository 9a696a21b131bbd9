"""An HTTP client that costs little, in a process of its own: it shares the machine with what is measured.

It sends requests that are ready as bytes over connections that stay open, and reads no more of an answer than its
status and its length. How much processor time it took is told with the rest.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

PATIENCE_SECONDS = 120
LONGEST_LOAD_SECONDS = 1_800


@dataclass(frozen=True)
class Load:
    """How a load went: all of it, from the first request to the last answer.

    began_at: by `time.perf_counter()`, which all processes of a machine share. To start the client's takes a while.
    """

    began_at: float
    seconds: float
    latencies: list[float]
    statuses: dict[int, int]
    cpu_seconds: float
    bodies: list[bytes]

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def expect(self, status: int) -> Load:
        """Itself, if every answer had that status; raises ValueError."""
        if self.statuses != {status: len(self.latencies)}:
            raise ValueError(f"Every answer was to be a {status}, but they were {self.statuses}: {self.bodies[:1]}")
        return self

    def json(self) -> list[Any]:
        """The bodies that were kept, in the order of the requests."""
        return [json.loads(body) for body in self.bodies]


def get(path: str, **headers: str) -> bytes:
    return _request("GET", path, b"", headers)


def post(path: str, body: Any = None, **headers: str) -> bytes:
    return _request("POST", path, b"" if body is None else json.dumps(body).encode(), headers)


def _request(method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Accept: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if method == "POST":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def send(port: int, requests: Sequence[bytes], *, connections: int = 16, keep_bodies: bool = False) -> Load:
    """Sends the requests over so many connections, each the next one as soon as it has its answer."""
    # Leaving the block ends the process, also in the midst of a load.
    with get_context("spawn").Pool(1) as process:
        load = process.apply_async(_send, (port, requests, min(connections, len(requests)), keep_bodies))
        return load.get(LONGEST_LOAD_SECONDS)


def _send(port: int, requests: Sequence[bytes], connections: int, keep_bodies: bool) -> Load:
    clients = _Clients(port, requests, keep_bodies)
    began_at, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(connections) as threads:
        for work in [threads.submit(clients.work) for _ in range(connections)]:
            work.result()
    seconds = time.perf_counter() - began_at
    bodies = [body for body in clients.bodies if keep_bodies or body]
    return Load(began_at, seconds, clients.latencies, dict(clients.statuses), time.process_time() - cpu, bodies)


class _Clients:
    """What the threads of a load share: the requests that are left, and what became of the others."""

    def __init__(self, port: int, requests: Sequence[bytes], keep_bodies: bool) -> None:
        self.latencies, self.bodies = [0.0] * len(requests), [b""] * len(requests)
        self.statuses = Counter[int]()
        self._port = port
        self._requests = enumerate(requests)
        self._keep_bodies = keep_bodies
        self._lock = threading.Lock()

    def work(self) -> None:
        with Connection(self._port) as connection:
            while (item := self._take()) is not None:
                index, request = item
                began_at = time.perf_counter()
                status, body = connection.ask(request)
                self.latencies[index] = time.perf_counter() - began_at
                with self._lock:
                    self.statuses[status] += 1
                if self._keep_bodies or status >= 400:
                    self.bodies[index] = body

    def _take(self) -> tuple[int, bytes] | None:
        with self._lock:
            return next(self._requests, None)


class Connection:
    """One connection to the server on that port, for one request at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Sends a request; answers its status and its body."""
        self._socket.sendall(request)
        head, _, received = self._read_head().partition(b"\r\n\r\n")
        status = int(head[9:12])
        _, _, after = head.lower().partition(b"content-length:")
        length = int(after.partition(b"\r\n")[0]) if after else 0
        if not after and status not in (204, 304):
            raise ValueError(f"Only answers that tell their length are read here, not {head!r}.")
        pieces, missing = [received], length - len(received)
        while missing > 0:
            pieces.append(self._receive())
            missing -= len(pieces[-1])
        body = b"".join(pieces)
        self._rest = body[length:]
        return status, body[:length]

    def _read_head(self) -> bytes:
        head = self._rest
        while b"\r\n\r\n" not in head:
            head += self._receive()
        return head

    def _receive(self) -> bytes:
        received = self._socket.recv(262_144)
        if not received:
            raise ConnectionError("The server closed the connection.")
        return received
