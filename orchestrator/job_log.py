"""What a handler logs: with its job's id and attempt in the worker's log, and kept for the job's page."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from django.conf import settings

from orchestrator.failures import traceback_of
from orchestrator.pg_values import as_text

# So much of a line is kept, its traceback included.
MAX_LINE_CHARACTERS = 2_000
MAX_NAME_CHARACTERS = 100


class Line(NamedTuple):
    """number: counts from 1 within the attempt; a gap is what was not kept. at: seconds since 1970."""

    number: int
    at: float
    level: str
    logger: str
    message: str


class Lines:
    """The lines of one attempt that are not yet written: of more than JOB_LOG_LINES the first and the last half."""

    def __init__(self) -> None:
        self._count = 0
        self._half = settings.ENV.JOB_LOG_LINES // 2
        self._first: deque[Line] = deque()
        self._last: deque[Line] = deque(maxlen=settings.ENV.JOB_LOG_LINES - self._half)

    def add(self, record: logging.LogRecord) -> None:
        """For one thread at a time."""
        self._count += 1
        line = Line(
            self._count,
            record.created,
            record.levelname,
            as_text(record.name, at_most=MAX_NAME_CHARACTERS),
            as_text(_message(record), at_most=MAX_LINE_CHARACTERS),
        )
        (self._first if self._count <= self._half else self._last).append(line)

    def take(self, *, ended: bool) -> list[Line]:
        """Those to be written now, in their order; any thread may call it. The last half waits until the end."""
        taken = _all_of(self._first)
        return taken + _all_of(self._last) if ended else taken


class LogsLines(Protocol):
    """A job whose lines are kept: None as long as it has logged nothing."""

    lines: Lines | None


# Whose handler runs here, in this thread or this task and what it starts.
logged_for: ContextVar[LogsLines | None] = ContextVar("logged_for", default=None)


class KeepLines(logging.Handler):
    """Keeps what is logged while a job's handler runs. Other code logs past it."""

    def emit(self, record: logging.LogRecord) -> None:
        job = logged_for.get()
        if job is None or not settings.ENV.JOB_LOG_LINES:
            return
        try:
            if job.lines is None:
                job.lines = Lines()
            job.lines.add(record)
        except Exception:  # What was logged has no text; the console's handler tells that.
            return


class JobLog(logging.LoggerAdapter[logging.Logger]):
    """A handler's log: each record has the job's id and attempt beside what the handler adds, and is kept with it.

    Any thread may use it.
    """

    def __init__(self, logger: logging.Logger, extra: dict[str, Any], job: LogsLines | None = None) -> None:
        super().__init__(logger, extra)
        self._job = job

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if not self.isEnabledFor(level):
            return
        before = logged_for.set(self._job)
        try:
            # The place in the code is the caller's.
            super().log(level, msg, *args, **kwargs | {"stacklevel": kwargs.get("stacklevel", 1) + 1})
        finally:
            logged_for.reset(before)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {**kwargs, "extra": {**(kwargs.get("extra") or {}), **(self.extra or {})}}


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.exc_info and record.exc_info[1]:
        return f"{message}\n{traceback_of(record.exc_info[1])}".rstrip()
    return message


def _all_of(lines: deque[Line]) -> list[Line]:
    """Takes them out, while another thread may add some."""
    return [lines.popleft() for _ in range(len(lines))]
