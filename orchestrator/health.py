"""Whether all that work needs is there: database, broker, workers and tick, asked without ever hanging."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from celery import current_app
from django.conf import settings
from django.db import connection
from django.db.models import DurationField, ExpressionWrapper, F, QuerySet
from django.db.models.functions import Now
from kombu import Connection
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.settings import is_redis
from orchestrator.models import Upkeep, Worker

# No check is waited for longer.
CHECK_SECONDS = 1.0

Check = dict[str, Any]


def readiness() -> tuple[bool, dict[str, Check]]:
    """Whether all is well, and each check with `ok` and what it found, after little more than a second at the most."""
    deadline = time.monotonic() + CHECK_SECONDS
    database, broker = _database.start(), _broker.start()
    checks: dict[str, Check] = {
        "database": {"ok": True},
        "broker": {"ok": True},
        "workers": {"ok": False},
        "tick": {"ok": False},
    }
    try:
        checks |= database.result(max(0, deadline - time.monotonic()))
    except Exception as error:
        checks["database"] = _failed(error)
        for name in ("workers", "tick"):
            checks[name]["detail"] = "It is in the database, which did not answer."
    try:
        broker.result(max(0, deadline - time.monotonic()))
    except Exception as error:
        checks["broker"] = _failed(error)
    return all(check["ok"] for check in checks.values()), checks


def _failed(error: Exception) -> Check:
    """Without the error's words, which may name hosts and users; they are for the log."""
    slow = isinstance(error, TookTooLong)
    return {"ok": False, "detail": f"No answer within {CHECK_SECONDS:g} s." if slow else "It cannot be reached."}


class Probe:
    """A check in a thread of its own, one at a time: where nobody answers, one thread hangs and no request does."""

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


def _look_into_database() -> dict[str, Check]:
    """Raises if the database does not answer."""
    with impatient_connection():
        return {"workers": workers(), "tick": tick()}


@contextmanager
def impatient_connection() -> Iterator[None]:
    """This thread's connection gives up soon, until the block ends and it is closed.

    PostgreSQL ends a statement that takes long, and the kernel notices after some seconds that it is cut off.
    """
    given = connection.settings_dict["OPTIONS"]
    limits = {
        "connect_timeout": 2,
        "tcp_user_timeout": 5_000,
        "options": f"{given.get('options', '')} -c statement_timeout=5s -c lock_timeout=1s".strip(),
    }
    connection.settings_dict = {**connection.settings_dict, "OPTIONS": {**given, **limits}}
    try:
        yield
    finally:
        connection.close()


def workers() -> Check:
    """The processes alive for each queue; a queue without any is not well."""
    served = [queue for queues in alive_workers().values_list("queues", flat=True) for queue in queues]
    queues = {queue: served.count(queue) for queue in _queues()}
    idle = [queue for queue, processes in queues.items() if not processes]
    detail = {"detail": f"Nobody serves {', '.join(idle)}."} if idle else {}
    return {"ok": not idle, "queues": queues, **detail}


def alive_workers() -> QuerySet[Worker]:
    """The processes that may claim jobs."""
    lease = timedelta(seconds=settings.ENV.LEASE_SECONDS)
    return Worker.objects.filter(ended_at=None, draining_at=None, seen_at__gte=Now() - lease)


def _queues() -> list[str]:
    return [queue.name for queue in current_app.conf.task_queues]


def tick() -> Check:
    age = ExpressionWrapper(Now() - F("ran_at"), output_field=DurationField())
    passed = Upkeep.objects.filter(part="tick").annotate(age=age).values_list("age", flat=True).first()
    if passed is None:
        return {"ok": False, "age_seconds": None, "detail": "There was no tick yet."}
    seconds = round(passed.total_seconds(), 3)
    limit = settings.TICK_STOPPED_AFTER_SECONDS
    if seconds > limit:
        return {"ok": False, "age_seconds": seconds, "detail": f"The last tick is more than {limit:g} s ago."}
    return {"ok": True, "age_seconds": seconds}


def _ping_broker() -> None:
    """Raises if the broker does not answer in time."""
    url = settings.ENV.BROKER_URL
    if is_redis(url):
        with impatient_redis(url) as redis:
            redis.ping()
    else:
        with impatient_link(url) as link:
            link.ensure_connection(max_retries=1, timeout=1)


def impatient_redis(url: str) -> Redis:
    """A client that gives up soon, and does not try again."""
    limits = {"socket_timeout": CHECK_SECONDS, "socket_connect_timeout": CHECK_SECONDS}
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), **limits)


def impatient_link(url: str) -> Connection:
    """A connection to any broker, not yet made, that gives up soon."""
    limits = {"read_timeout": CHECK_SECONDS, "write_timeout": CHECK_SECONDS}
    return Connection(url, connect_timeout=CHECK_SECONDS, transport_options=limits)


_database = Probe(_look_into_database)
_broker = Probe(_ping_broker)
