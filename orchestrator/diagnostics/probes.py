"""Questions to servers that never hang: each has a short timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection
from kombu import Connection
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator.connection_options import add_options

# A broker or cache has so long to respond.
SERVER_SECONDS = 1.0


class Probe:
    """A check in a thread of its own, one at a time: when a server hangs, one thread hangs and no request does."""

    def __init__(self, check: Callable[[], Any]) -> None:
        self._check = check
        self._lock = threading.Lock()
        self._under_way: Future[Any] | None = None

    def start(self) -> Future[Any]:
        """The check's outcome to come; that of one under way, which others may be waiting for, too."""
        with self._lock:
            if self._under_way is None or self._under_way.done():
                self._under_way = Future()
                thread = threading.Thread(target=self._run, args=(self._under_way,), name="probe", daemon=True)
                thread.start()
            return self._under_way

    def _run(self, outcome: Future[Any]) -> None:
        try:
            outcome.set_result(self._check())
        except Exception as error:
            outcome.set_exception(error)


@contextmanager
def impatient_connection() -> Iterator[None]:
    """This thread's connection has short timeouts, until the block ends and it is closed.

    PostgreSQL ends a statement that takes long, and the kernel notices after some seconds that it is cut off.
    """
    given = connection.settings_dict
    add_options(connection, "-c statement_timeout=5s -c lock_timeout=1s", connect_timeout=2, tcp_user_timeout=5_000)
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict = given


def ping_broker(url: str) -> None:
    """Raises if the broker does not respond in time."""
    if is_redis(url):
        with impatient_redis(url) as redis:
            redis.ping()
    else:
        with impatient_link(url) as link:
            link.ensure_connection(max_retries=1, timeout=1)


def is_redis(url: str) -> bool:
    return urlsplit(url).scheme in settings.REDIS_SCHEMES


def impatient_redis(url: str) -> Redis:
    """A client with short timeouts that does not retry."""
    limits = {"socket_timeout": SERVER_SECONDS, "socket_connect_timeout": SERVER_SECONDS}
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), **limits)


def impatient_link(url: str) -> Connection:
    """A connection to any broker, not yet made, with short timeouts."""
    limits = {"read_timeout": SERVER_SECONDS, "write_timeout": SERVER_SECONDS}
    return Connection(url, connect_timeout=SERVER_SECONDS, transport_options=limits)
