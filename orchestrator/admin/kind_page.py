"""The page of a kind: what waits, fails and runs of it, how long that takes, and how it is declared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.http import HttpRequest
from django.utils import timezone

from orchestrator.admin.figures import ended_chart, held_back, jobs_url, rate_of, run_times_chart
from orchestrator.kinds import Kind as DeclaredKind
from orchestrator.kinds import known_kind
from orchestrator.models import Kind
from orchestrator.queue import kind_limits
from orchestrator.rollups import reading
from orchestrator.rollups.reading import HOUR, MINUTE, NO_TIMES
from orchestrator.shown.words import duration
from orchestrator.upkeep.retention import kept_days


def context(request: HttpRequest, kind: Kind) -> dict[str, Any]:
    now = timezone.now()
    ended = reading.ended(now, kind=kind.name)
    now_of = next((each for each in reading.kinds() if each.name == kind.name), None)
    waits, runs = reading.times(now).get(kind.name, (NO_TIMES, NO_TIMES))
    hours = reading.run_times_by_hour(now)[kind.name]
    failing = next((each for each in reading.failing(now, ended) if each.kind == kind.name), None)
    return {
        "layout": "admin/change_form.html",
        "kind": kind,
        "now_of": now_of,
        "hour": ended.total(MINUTE),
        "day": ended.total(HOUR),
        "held_back": held_back([now_of] if now_of else []),
        "rate": rate_of(ended.charts[MINUTE]),
        "waits": waits,
        "runs": runs,
        "charts": [
            ended_chart(ended.charts[MINUTE], "Last hour, by the minute", "%H:%M"),
            ended_chart(ended.charts[HOUR], "Last day, by the hour", "%H:00"),
            run_times_chart(hours),
        ],
        "failing": failing,
        "declared": list(_declared(kind, known_kind(kind.name))),
        "urls": {
            "all": jobs_url(kind=kind.name),
            **{status: jobs_url(kind=kind.name, status__exact=status) for status in ("CREATED", "RUNNING", "FAILED")},
        },
    }


def _declared(kind: Kind, declared: DeclaredKind | None) -> Iterator[tuple[str, object]]:
    """How it is declared, in the words of the decorator's documentation."""
    yield "Queue", kind.queue
    if declared is None:
        yield "Declared", "not in this process"
        return
    yield "Runs", "in batches" if declared.takes_batch else declared.execution
    yield "Priority", declared.priority
    yield "Attempts", f"at most {declared.max_attempts}"
    yield "Timeout", duration(declared.timeout.total_seconds()) if declared.timeout else "none"
    backoff = duration(declared.backoff.total_seconds())
    yield "Backoff", f"{backoff}, at most {duration(declared.backoff_ceiling.total_seconds())}"
    days = kept_days(kind.name, kind.keep_days)
    yield "Kept", f"{days:g} days after its end" if days else "for ever"
    kind_limits.forget()  # The page also shows what was changed just now, perhaps by another process.
    for name, limit in kind_limits.limits_of(declared).as_json().items():
        yield name.replace("_", " ").capitalize(), f"{limit} (set here)" if name in kind.limits else limit
    if declared.internal:
        yield "Submitted", "from Python only"
