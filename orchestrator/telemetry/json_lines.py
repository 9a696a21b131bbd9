"""The log as JSON, an object a line: each names the request or the attempt at a job within which it was logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import structlog
from django.utils.functional import LazyObject, empty

from orchestrator.failures import traceback_of
from orchestrator.job_log import logged_for
from orchestrator.telemetry import tracing

EventDict = MutableMapping[str, Any]

# The request that this thread serves, and where its id is kept.
_serving: ContextVar[Any] = ContextVar("serving", default=None)
REQUEST_ID = "muster.request_id"

# What every record has; the rest is what the line's author has added.
_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
# Django adds the request and the socket, which are no text.
_LEFT_OUT = {"request", "server_time"}


@contextmanager
def serving(request_id: str, request: Any) -> Iterator[None]:
    """What is logged meanwhile names that request, and so does what Django logs of its response afterwards."""
    request.META[REQUEST_ID] = request_id
    token = _serving.set(request)
    try:
        yield
    finally:
        _serving.reset(token)


def formatter() -> logging.Formatter:
    """For Django's LOGGING."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.contextvars.merge_contextvars, _added],
        processors=[
            _complete,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(serializer=_as_json),
        ],
    )


def _added(logger: Any, method: str, line: EventDict) -> EventDict:
    """What the line's author has added."""
    for name, value in vars(line["_record"]).items():
        if name not in _OF_EVERY_RECORD and name not in _LEFT_OUT and not name.startswith("_"):
            line.setdefault(name, value)
    return line


def _complete(logger: Any, method: str, line: EventDict) -> EventDict:
    """In the order in which people read them: when, how bad, what, in what; then what its author has added."""
    record = line["_record"]
    whole: EventDict = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "message": line.pop("event"),
        **_request(record),
        **_attempt(),
    }
    if found := tracing.ids():
        whole["trace_id"], whole["span_id"] = found
    exc_info = line.pop("exc_info", None)
    if isinstance(exc_info, tuple) and exc_info[1] is not None:
        # Whatever the exception does, this gives a text.
        whole["exception"] = traceback_of(exc_info[1]).rstrip("\n")
    # What a line says of its job prevails: it may be about another's.
    return {**whole, **{name: value for name, value in line.items() if name not in ("time", "level", "logger")}}


def _request(record: logging.LogRecord) -> dict[str, Any]:
    request = _serving.get() or getattr(record, "request", None)
    if request is None or REQUEST_ID not in getattr(request, "META", {}):
        return {}
    return {"request_id": request.META[REQUEST_ID], "owner": _user_of(request)}


def _user_of(request: Any) -> str:
    """Whom the request is known to be of by now. Nobody is asked for that."""
    user = vars(request).get("user")
    if isinstance(user, LazyObject) and vars(user).get("_wrapped") in (None, empty):
        return ""
    return str(user.get_username()) if user is not None else ""


def _attempt() -> dict[str, Any]:
    running: Any = logged_for.get()
    if running is None:
        return {}
    return {
        "job_id": running.id,
        "attempt": running.attempt,
        "kind": running.kind.name,
        "owner": running.owner,
    }


def _as_json(line: EventDict, **_: Any) -> str:
    return json.dumps(line, default=_as_text)


def _as_text(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"
