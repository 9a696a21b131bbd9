"""So much at once, and half of it for one client; asked on the event loop alone."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from threading import Lock

import msgspec

RETRY_AFTER_SECONDS = 10


class NotServed(Exception):
    """The response to a client that is not served, as application/problem+json (RFC 9457)."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        self.status, self.detail = status, detail
        super().__init__(detail)

    def answer(self) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"cache-control", b"no-store"),
            # What is left of the body is not waited for.
            (b"connection", b"close"),
        ]
        if self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
        body = {"type": "about:blank", "title": self.status.phrase, "status": self.status, "detail": self.detail}
        return self.status, headers, msgspec.json.encode(body)


class Places:
    """Of each, requests or bytes, so many at once, and half of them for one client."""

    def __init__(self, total: int) -> None:
        self.most_of_one = total // 2
        self._total = total
        self._taken: Counter[str] = Counter()
        self._taken_by_all = 0

    def has_one_of(self, client: str, size: int = 1) -> bool:
        return self._taken[client] + size <= self.most_of_one and self._taken_by_all + size <= self._total

    @contextmanager
    def one_of(self, client: str, what: str, size: int = 1) -> Iterator[None]:
        """Raises NotServed where there is none left."""
        if self._taken[client] + size > self.most_of_one:
            raise NotServed(
                HTTPStatus.TOO_MANY_REQUESTS, f"You already have too many {what} in progress. Try again later."
            )
        if self._taken_by_all + size > self._total:
            raise NotServed(HTTPStatus.SERVICE_UNAVAILABLE, f"Too many {what} are in progress. Try again later.")
        self._taken[client] += size
        self._taken_by_all += size
        try:
            yield
        finally:
            self._taken_by_all -= size
            self._taken[client] -= size
            if not self._taken[client]:
                del self._taken[client]


class Threads:
    """They work for each client in turn, so that a client with many requests delays only its own."""

    def __init__(self, count: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(count, name)
        self._lock = Lock()
        self._waiting: OrderedDict[str, deque[Callable[[], None]]] = OrderedDict()

    def submit(self, client: str, work: Callable[[], None]) -> None:
        with self._lock:
            self._waiting.setdefault(client, deque()).append(work)
        self._pool.submit(self._work)

    def _work(self) -> None:
        with self._lock:
            client, works = self._waiting.popitem(last=False)
            work = works.popleft()
            if works:
                self._waiting[client] = works
        work()
