"""OpenTelemetry's spans: of what submits jobs, of their waits, and of each attempt. A job's row keeps its trace.

Nothing of OpenTelemetry is imported unless its variables are set, or somebody else has imported and configured it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from django.conf import settings

logger = logging.getLogger(__name__)

# Read once: each attempt asks.
_EXPORTS: bool = settings.EXPORT_TRACES

# OpenTelemetry's modules, once they are needed.
trace: Any = None
context: Any = None
w3c: Any = None


class Failure(NamedTuple):
    """The error of an attempt, as its row has it."""

    type: str
    error: str
    traceback: str


class Attempt(NamedTuple):
    """What spans say of an attempt.

    traceparent: of the trace that its job was submitted in. waited_since, claimed_at: its wait; None if not known.
    """

    job_id: str
    number: int
    kind: str
    owner: str
    traceparent: str | None = None
    waited_since: datetime | None = None
    claimed_at: datetime | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.job_id, self.number


# The last provider that was asked for a tracer, and that tracer.
_made: tuple[Any, Any] | None = None

# Those of attempts that run in this process, so that the thread that ends one, whichever it is, ends its span.
open_spans: dict[tuple[str, int], tuple[Any, Attempt]] = {}
# In which call for several jobs each attempt was that has no span yet: the context of that call's span.
batches: dict[tuple[str, int], Any] = {}


def is_on() -> bool:
    """Whether anybody would see a span. Asked each time: a process may be configured when it has begun already."""
    if _EXPORTS:
        from orchestrator.telemetry import exporting

        exporting.start()
    if trace is None:
        if "opentelemetry.trace" not in sys.modules:
            return False
        _import()
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _import() -> None:
    global trace, context, w3c
    from opentelemetry import context as _context
    from opentelemetry import trace as _trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context, w3c = _context, TraceContextTextMapPropagator()
    trace = _trace  # Last, since it says that the others are there.


def flush() -> None:
    """Sends the spans of a process that ends."""
    if _EXPORTS:
        from orchestrator.telemetry import exporting

        exporting.flush()


# Submitting.


@contextmanager
def request_span(method: str, headers: Any, **attributes: Any) -> Iterator[Any]:
    """The span of a request, in the trace that its `traceparent` names; None if a library has made one already.

    What a BaseException cuts short is done again, and has no span.
    """
    with ExitStack() as stack:
        span = None
        with _harmless():
            if not trace.get_current_span().get_span_context().is_valid:
                parent = w3c.extract(headers, context=context.Context())
                attributes = {"http.request.method": method, **attributes}
                span = _tracer().start_span(method, parent, trace.SpanKind.SERVER, attributes)
                stack.callback(_detach, context.attach(trace.set_span_in_context(span, parent)))
        yield span
        with _harmless():
            if span:
                span.end()


def answered(span: Any, *, method: str, route: str, status: int) -> None:
    """What the span of a request says of its answer."""
    with _harmless():
        span.update_name(f"{method} /{route}")
        span.set_attributes({"http.route": f"/{route}", "http.response.status_code": status})
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)


def submitted(rows: Sequence[MutableMapping[str, Any]], grant: Callable[[int], int]) -> None:
    """Gives rows of submitted jobs the current trace; without one, each job and its children one of their own.

    grant: says of so many traces how many may begin now. Other jobs are in none.
    """
    with _harmless():
        if current := _current():
            for row in rows:
                row["traceparent"] = current
            return
        untraced = [row for row in rows if not row["parent_id"] and not row.get("traceparent")]
        own = {row["id"]: _submission(row) for row in untraced[: grant(len(untraced))]}
        for row in rows:
            row.setdefault("traceparent", own.get(row["parent_id"] or row["id"]))


def _current() -> str | None:
    headers: dict[str, str] = {}
    w3c.inject(headers)
    return headers.get("traceparent")


def _submission(row: MutableMapping[str, Any]) -> str | None:
    attributes = {"muster.job.id": str(row["id"]), "muster.job.owner": row["owner"]}
    if row.get("schedule_id"):
        attributes["muster.schedule.id"] = str(row["schedule_id"])
    span = _tracer().start_span(
        f"submit {row['kind']}", context.Context(), kind=trace.SpanKind.PRODUCER, attributes=attributes
    )
    span.end()
    headers: dict[str, str] = {}
    w3c.inject(headers, trace.set_span_in_context(span, context.Context()))
    return headers.get("traceparent")


# Running.


@contextmanager
def span_of(attempt: Attempt) -> Iterator[None]:
    """The attempt's span, which what its thread does meanwhile is part of. It ends when the attempt is recorded."""
    with ExitStack() as stack:
        with _harmless():
            stack.callback(_detach, _enter(attempt))
        yield


class InTrace:
    """For an attempt without a span: what its thread does meanwhile is in the trace of its job.

    Most attempts have none, so it is a class: a generator as a context manager takes several times as long.
    """

    __slots__ = ("_token", "_traceparent")

    def __init__(self, traceparent: str | None) -> None:
        self._traceparent = traceparent

    def __enter__(self) -> None:
        self._token = enter_trace(self._traceparent)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _detach(self._token)


def enter_trace(traceparent: str | None) -> Any:
    """All that the thread, or the task, does from now on is in that trace. Returns what to detach, if it could be."""
    try:
        return context.attach(_context_of(traceparent))
    except Exception as error:
        _log_failure(error)
        return None


@contextmanager
def span_of_batch(attempts: Sequence[Attempt], jobs: int) -> Iterator[None]:
    """The span of one call for so many jobs, which what its thread does meanwhile is part of: in a trace of its own,
    since theirs may differ, with links to those of the attempts that are given. The span of each of these has a link
    to it; the other attempts have none.
    """
    with ExitStack() as stack:
        span = None
        with _harmless():
            links = [trace.Link(where) for where in map(_submitted_in, attempts) if where.is_valid]
            attributes = {"muster.batch.jobs": jobs}
            span = _tracer().start_span(
                f"batch {attempts[0].kind}", context.Context(), trace.SpanKind.CONSUMER, attributes, links
            )
            batches.update((attempt.key, span.get_span_context()) for attempt in attempts)
            stack.callback(_end, span)
            stack.callback(_detach, context.attach(trace.set_span_in_context(span)))
        try:
            yield
        except BaseException as error:
            with _harmless():
                span.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def _submitted_in(attempt: Attempt) -> Any:
    return trace.get_current_span(_parent_of(attempt)).get_span_context()


def _end(span: Any) -> None:
    with _harmless():
        span.end()


def enter_task(attempt: Attempt) -> None:
    """All that the task of an async job does from now on is part of the span that this opens."""
    with _harmless():
        _enter(attempt)


def _enter(attempt: Attempt) -> Any:
    span = _start(attempt)
    open_spans[attempt.key] = span, attempt
    return context.attach(trace.set_span_in_context(span))


def _detach(token: Any) -> None:
    try:
        context.detach(token)
    except Exception as error:
        _log_failure(error)


def has_begun(job_id: str, number: int) -> bool:
    """Whether that attempt runs in this process and is to have a span."""
    key = (job_id, number)
    return key in open_spans or key in batches


def leave(attempt: Attempt) -> None:
    """Ends the attempt's span if it was not recorded."""
    with _harmless():
        if opened := open_spans.pop(attempt.key, None):
            span, attempt = opened
            _record_wait(attempt)
            span.end()


def forget(job_id: str, number: int) -> None:
    """The attempt was rolled back as if it had never been; if it is made again, that has another span."""
    open_spans.pop((job_id, number), None)
    batches.pop((job_id, number), None)


def record(attempt: Attempt, outcome: str, failure: Failure | None = None, *, began_at: float | None = None) -> None:
    """Ends the attempt's span; makes it, if it has none and it is known when the attempt began.

    failure: None, if it did not fail.
    """
    with _harmless():
        span, attempt = open_spans.pop(attempt.key, (None, attempt))
        batch = batches.pop(attempt.key, None)
        if span is None and began_at is not None:
            links = [trace.Link(batch)] if batch else []
            span = _start(attempt, start_time=_nanoseconds(began_at), links=links)
        if span is not None:
            _record_wait(attempt)
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


def _record_wait(attempt: Attempt) -> None:
    """A span of the time from when the job could have started until it was claimed."""
    if attempt.waited_since and attempt.claimed_at:
        start, end = attempt.waited_since.timestamp(), attempt.claimed_at.timestamp()
        span = _start(attempt, f"wait {attempt.kind}", trace.SpanKind.INTERNAL, start_time=_nanoseconds(start))
        span.end(_nanoseconds(max(start, end)))


def _start(attempt: Attempt, name: str = "", kind: Any = None, **options: Any) -> Any:
    attributes: dict[str, str | int] = {
        "muster.job.id": attempt.job_id,
        "muster.job.attempt": attempt.number,
        "muster.job.owner": attempt.owner,
    }
    kind = trace.SpanKind.CONSUMER if kind is None else kind
    return _tracer().start_span(name or attempt.kind, _parent_of(attempt), kind, attributes, **options)


def _parent_of(attempt: Attempt) -> Any:
    return _context_of(attempt.traceparent)


@lru_cache(maxsize=1_000)
def _context_of(traceparent: str | None) -> Any:
    """That of a stored trace. Jobs that were submitted together, which run at about the same time, share one."""
    return w3c.extract({"traceparent": traceparent} if traceparent else {}, context=context.Context())


def ids() -> tuple[str, str] | None:
    """The ids of the current trace and span, in hexadecimal; None if there is none."""
    if trace is None:
        return None
    current = trace.get_current_span().get_span_context()
    return (f"{current.trace_id:032x}", f"{current.span_id:016x}") if current.is_valid else None


def _tracer() -> Any:
    """Made once for each provider: that takes as long as a span does."""
    global _made
    provider = trace.get_tracer_provider()
    if _made is None or _made[0] is not provider:
        _made = provider, trace.get_tracer("muster", tracer_provider=provider)
    return _made[1]


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


@contextmanager
def _harmless() -> Iterator[None]:
    """What exports spans is somebody else's, and may raise."""
    try:
        yield
    except Exception as error:
        _log_failure(error)


def _log_failure(error: Exception) -> None:
    logger.error("OpenTelemetry failed; the job continues.", exc_info=error)
