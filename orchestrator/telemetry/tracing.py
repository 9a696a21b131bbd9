"""OpenTelemetry's spans: one for each attempt, where the API is installed and somebody has configured it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

try:
    from opentelemetry import context, trace
except ImportError:
    trace = None  # type: ignore[assignment]


logger = logging.getLogger(__name__)


class Failure(NamedTuple):
    """The error of an attempt, as its row has it."""

    type: str
    error: str
    traceback: str


class Attempt(NamedTuple):
    """What a span says of an attempt."""

    job_id: str
    number: int
    kind: str
    owner: str


# Those that run in this process, so that the thread that ends one, whichever it is, ends its span.
open_spans: dict[Attempt, Any] = {}


def is_on() -> bool:
    """Whether anybody would see a span. Asked each time: a process may be configured when it has begun already."""
    return trace is not None and not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@contextmanager
def span_of(attempt: Attempt) -> Iterator[None]:
    """The attempt's span, which what its thread does meanwhile is part of. It ends when the attempt is recorded."""
    with ExitStack() as stack:
        with _harmless():
            stack.callback(_detach, _enter(attempt))
        yield


def enter_task(attempt: Attempt) -> None:
    """Opens the span of an async job, which all is part of that its task does from now on."""
    with _harmless():
        _enter(attempt)


def _enter(attempt: Attempt) -> Any:
    span = open_spans[attempt] = _start(attempt)
    return context.attach(trace.set_span_in_context(span))


def _detach(token: Any) -> None:
    with _harmless():
        context.detach(token)


def leave(attempt: Attempt) -> None:
    """Ends the attempt's span if it was not recorded."""
    with _harmless():
        if span := open_spans.pop(attempt, None):
            span.end()


def record(attempt: Attempt, outcome: str, failure: Failure | None = None, *, began_at: float | None = None) -> None:
    """Ends the attempt's span; makes it, if it has none and it is known when the attempt began.

    failure: None, if it did not fail.
    """
    with _harmless():
        span = open_spans.pop(attempt, None)
        if span is None and began_at is not None:
            span = _start(attempt, start_time=int(began_at * 1e9))
        if span is not None:
            span.set_attribute("muster.job.outcome", outcome)
            if failure:
                span.add_event(
                    "exception",
                    {
                        "exception.type": failure.type,
                        "exception.message": failure.error,
                        "exception.stacktrace": failure.traceback,
                    },
                )
                span.set_status(trace.StatusCode.ERROR, failure.error)
            span.end()


@contextmanager
def _harmless() -> Iterator[None]:
    """What exports spans is somebody else's, and may raise."""
    try:
        yield
    except Exception:
        logger.exception("OpenTelemetry failed; the job continues.")


def _start(attempt: Attempt, **options: Any) -> Any:
    attributes: dict[str, str | int] = {
        "muster.job.id": attempt.job_id,
        "muster.job.attempt": attempt.number,
        "muster.job.owner": attempt.owner,
    }
    return trace.get_tracer("muster").start_span(
        attempt.kind, kind=trace.SpanKind.CONSUMER, attributes=attributes, **options
    )
