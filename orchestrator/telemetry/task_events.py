"""Celery's events of jobs, as Flower expects them of tasks: a job is the task of its id, its kind is the task's name.

Best effort. A thread of the process sends them, so nobody waits for the broker, and what does not get through is
dropped.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
from celery.events.event import get_exchange
from celery.utils.time import utcoffset

logger = logging.getLogger(__name__)

# How long events gather, to share a message.
GATHER_SECONDS = 0.5
MAX_PER_MESSAGE = 500
# What is kept while the broker is slow or away; the oldest make room.
MAX_BUFFERED = 5_000
# How long the thread waits after the broker has failed.
RETRY_SECONDS = 1.0
# How long a process that ends waits for its last events to be sent.
STOP_SECONDS = 1.0

# Of a payload or a result, as Flower shows it.
MAX_VALUE_CHARACTERS = 200
MAX_TRACEBACK_CHARACTERS = 4_000

Event = dict[str, Any]


def begun(id: str, kind: str, at: float, *, payload: str, parent_id: str | None, attempt: int) -> list[Event]:
    """payload: as JSON."""
    received = {
        "type": "task-received",
        "uuid": id,
        "name": kind,
        "timestamp": at,
        "args": shortened(payload),
        "kwargs": "{}",
        "retries": attempt - 1,
        "root_id": parent_id or id,
        "parent_id": parent_id,
        "eta": None,
        "expires": None,
    }
    return [received, {"type": "task-started", "uuid": id, "name": kind, "timestamp": at}]


def succeeded(id: str, kind: str, *, result: str, runtime_seconds: float) -> Event:
    """result: as JSON."""
    return {
        "type": "task-succeeded",
        "uuid": id,
        "name": kind,
        "timestamp": time.time(),
        "result": shortened(result),
        "runtime": runtime_seconds,
    }


def failed(id: str, kind: str, *, error: str, traceback: str, again: bool) -> Event:
    """again: whether the job is tried another time."""
    return {
        "type": "task-retried" if again else "task-failed",
        "uuid": id,
        "name": kind,
        "timestamp": time.time(),
        "exception": error,
        "traceback": shortened(traceback, MAX_TRACEBACK_CHARACTERS),
    }


def revoked(id: str, kind: str, *, has_run: bool) -> Event:
    """has_run: whether an attempt was under way."""
    return {
        "type": "task-revoked",
        "uuid": id,
        "name": kind,
        "timestamp": time.time(),
        "terminated": has_run,
        "signum": None,
        "expired": False,
    }


def shortened(text: str, at_most: int = MAX_VALUE_CHARACTERS) -> str:
    """Of a long text its beginning and its end."""
    if len(text) <= at_most:
        return text
    half = at_most // 2
    return f"{text[:half]}…{text[-half:]}"


class Sender:
    """The thread that sends a process's events, and what waits for it."""

    def __init__(self, app: Any, worker_name: str) -> None:
        self._app = app
        self._common = {"hostname": worker_name, "pid": os.getpid()}
        self._buffer: deque[Event] = deque(maxlen=MAX_BUFFERED)
        self._filled = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="task-events", daemon=True)

    def start(self) -> Sender:
        self._thread.start()
        return self

    def send(self, events: Sequence[Event]) -> None:
        """Returns at once, whatever the broker does."""
        self._buffer.extend(events)
        if not self._filled.is_set():
            self._filled.set()

    def stop(self) -> None:
        """Sends what is left, unless the broker takes too long."""
        self._stopping.set()
        self._filled.set()
        self._thread.join(STOP_SECONDS)

    def _serve(self) -> None:
        stopping = False
        while not stopping:
            self._filled.wait()
            self._stopping.wait(GATHER_SECONDS)
            self._filled.clear()
            # Before the buffer is looked at, so that what is in it by then is sent.
            stopping = self._stopping.is_set()
            while self._buffer:
                try:
                    self.publish(self._taken())
                except Exception as error:
                    logger.debug("Events of jobs were dropped: %r", error)
                    if self._stopping.wait(RETRY_SECONDS):
                        return

    def _taken(self) -> list[Event]:
        common = self._common | {"utcoffset": utcoffset()}
        count = min(len(self._buffer), MAX_PER_MESSAGE)
        return [common | self._buffer.popleft() | {"clock": self._app.clock.forward()} for _ in range(count)]

    def publish(self, events: list[Event]) -> None:
        """As Celery's own EventDispatcher sends events that it has gathered."""
        body = msgspec.json.encode(events)
        with self._app.producer_or_acquire() as producer:
            try:
                exchange = get_exchange(producer.connection, name=self._app.conf.event_exchange)
                producer.publish(
                    body,
                    content_type="application/json",
                    content_encoding="utf-8",
                    exchange=exchange.name,
                    routing_key="task.multi",
                    declare=[exchange],
                    headers={"hostname": self._common["hostname"]},
                    delivery_mode="transient",
                    retry=False,
                )
            except Exception:
                # The pool would keep it, and the next user would get a channel that has failed.
                producer.connection.collect()
                raise
