"""What the rollups say: a few statements, whatever the number of jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection
from django.db.models import Sum
from django.utils import timezone

from orchestrator.models import Rollup
from orchestrator.rollups.durations import added_up, percentile

MINUTE, HOUR = Rollup.Span.MINUTE, Rollup.Span.HOUR
# How far a chart goes back: so many minutes, so many hours.
POINTS = {MINUTE: 60, HOUR: 24}
STEP = {MINUTE: timedelta(minutes=1), HOUR: timedelta(hours=1)}
# How far back the beginning of an unbroken row of hours with failures is looked for.
MAX_FAILING = timedelta(days=7)
# A kind keeps failing if so many of its jobs failed within an hour, and so large a part of those that ended.
KEEPS_FAILING, KEEPS_FAILING_PART = 3, 0.5

# What ended in each minute of the last hour and in each hour of the last day: of all kinds, and of each kind in all.
ENDED = """
SELECT span, begins_at, kind, sum(completed), sum(failed), sum(cancelled), sum(errors)
FROM orchestrator_rollup
WHERE (span = 'minute' AND begins_at > %(now)s - interval '1 hour'
       OR span = 'hour' AND begins_at > %(now)s - interval '1 day')
  AND (%(kind)s IS NULL OR kind = %(kind)s)
GROUP BY GROUPING SETS ((span, begins_at), (span, kind))
"""

# Since when each kind has failed without an hour in which nothing failed, and its last error.
FAILING = """
WITH bad AS (
    SELECT *, begins_at - row_number() OVER (PARTITION BY kind ORDER BY begins_at) * interval '1 hour' AS island
    FROM orchestrator_rollup
    WHERE span = 'hour' AND begins_at > %(now)s - %(max_failing)s AND last_failure_at IS NOT NULL
), latest AS (
    SELECT DISTINCT ON (kind) * FROM bad ORDER BY kind, begins_at DESC
)
SELECT latest.kind, latest.last_failure_at, latest.last_failed, latest.last_error,
       (SELECT min(first_failure_at) FROM bad WHERE bad.kind = latest.kind AND bad.island = latest.island)
FROM latest
WHERE latest.last_failure_at > %(now)s - interval '1 day'
"""

BY_HOUR = """
SELECT kind, begins_at, runs, completed, failed, cancelled, errors FROM orchestrator_rollup
WHERE span = 'hour' AND begins_at > %(now)s - interval '1 day'
"""

DURATIONS = """
SELECT kind, waits, runs FROM orchestrator_rollup WHERE span = 'hour' AND begins_at > %(now)s - interval '2 hours'
"""

# What is known of every kind, also of those of which jobs wait although no worker has reported them.
KINDS = """
SELECT coalesce(kind.name, backlog.kind), kind.queue, kind.paused_at,
       coalesce(waiting, 0), oldest_since, coalesce(running, 0),
       (SELECT json_agg(json_build_array(
            held."limit", jobs, extract(epoch FROM held.oldest_since),
            (declared_limits || limits) ->> held."limit",
            CASE WHEN held."limit" = 'rate' THEN (declared_limits || limits) ->> 'rate_per' END
        ) ORDER BY held."limit")
        FROM orchestrator_heldback AS held WHERE held.kind = coalesce(kind.name, backlog.kind))
FROM orchestrator_kind AS kind FULL JOIN orchestrator_backlog AS backlog ON backlog.kind = kind.name
ORDER BY oldest_since, 1
"""


class Held(NamedTuple):
    """Jobs that could start but for a limit of their kind: its name, what it is set to, and whether it holds for each
    owner or key.
    """

    limit: str
    jobs: int
    oldest_since: datetime
    value: str | None
    per: str | None

    @property
    def in_words(self) -> str:
        """The limit as it is set, as in "rate = 10/m per owner"."""
        value = f" = {self.value}" if self.value else ""
        per = f" per {self.per}" if self.per and self.per != "kind" else ""
        return f"{self.limit}{value}{per}"


class KindNow(NamedTuple):
    """A kind with what waits and runs of it; its queue is None if no worker knows it."""

    name: str
    queue: str | None
    paused_at: datetime | None
    waiting: int
    oldest_since: datetime | None
    running: int
    held_back: list[Held]


@dataclass
class Counts:
    """How many jobs ended how, and how many attempts failed."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    errors: int = 0

    @property
    def ended(self) -> int:
        return self.completed + self.failed

    @property
    def failures(self) -> int:
        """Of a kind whose jobs are attempted more than once, attempts tell of trouble before any job fails."""
        return max(self.failed, self.errors)


class Point(NamedTuple):
    """What ended in a minute or an hour of a chart."""

    at: datetime
    counts: Counts


class Times(NamedTuple):
    """How long half of the jobs, and nearly all of them, waited or ran, in seconds; None where there were none."""

    median: float | None
    p95: float | None


NO_TIMES = Times(None, None)


class TimesAt(NamedTuple):
    """How long jobs ran that ended in an hour of a chart."""

    at: datetime
    times: Times


@dataclass
class Failing:
    """A kind that has failed within the last day."""

    kind: str
    since: datetime
    last_at: datetime
    last_job: UUID | None
    last_error: str
    hour: Counts
    day: Counts

    @property
    def is_now(self) -> bool:
        return self.hour.failures > 0

    @property
    def keeps_failing(self) -> bool:
        return self.hour.failed >= KEEPS_FAILING and self.hour.failed >= KEEPS_FAILING_PART * self.hour.ended


class Ended(NamedTuple):
    """What ended lately: as charts by their span, and by span and kind."""

    charts: dict[str, list[Point]]
    by_kind: dict[str, dict[str, Counts]]

    def total(self, span: str) -> Counts:
        return summed(point.counts for point in self.charts[span])


def ended(now: datetime, *, kind: str | None = None) -> Ended:
    """kind: only of that one."""
    at: dict[str, dict[datetime, Counts]] = {MINUTE: {}, HOUR: {}}
    by_kind: dict[str, dict[str, Counts]] = {MINUTE: defaultdict(Counts), HOUR: defaultdict(Counts)}
    for span, begins_at, name, *counts in _rows(ENDED, now, kind=kind):
        if name is None:
            at[span][begins_at] = Counts(*map(int, counts))
        else:
            by_kind[span][name] = Counts(*map(int, counts))
    return Ended({span: _points(span, found, now) for span, found in at.items()}, by_kind)


def failed_within_hour() -> int:
    hour_ago = timezone.now() - timedelta(hours=1)
    failed = Rollup.objects.filter(span=MINUTE, begins_at__gt=hour_ago).aggregate(jobs=Sum("failed"))
    return failed["jobs"] or 0


def failing(now: datetime, lately: Ended) -> list[Failing]:
    """The kinds that failed within the last day, those that do so now first."""
    found = [
        Failing(kind, since, last_at, job, error, lately.by_kind[MINUTE][kind], lately.by_kind[HOUR][kind])
        for kind, last_at, job, error, since in _rows(FAILING, now, max_failing=MAX_FAILING)
    ]
    return sorted(found, key=lambda each: (-each.hour.failures, -each.day.failures, each.kind))


def times(now: datetime) -> dict[str, tuple[Times, Times]]:
    """How long jobs of each kind waited, and how long they ran, within the last hour or two; "" is for all kinds."""
    found = [(kind, waits, runs) for kind, waits, runs in _rows(DURATIONS, now)]
    kinds = {kind for kind, _, _ in found}
    return {
        name: (
            _times(waits for kind, waits, _ in found if not name or kind == name),
            _times(runs for kind, _, runs in found if not name or kind == name),
        )
        for name in {"", *kinds}
    }


Hours = list[tuple[Any, ...]]


def hours_of_day(now: datetime) -> Hours:
    """What `by_hour` and `run_times_by_hour` need, read once for both."""
    return _rows(BY_HOUR, now)


def by_hour(now: datetime, hours: Hours) -> dict[str, list[Counts]]:
    """What ended of each kind in each hour of the last day."""
    found: dict[str, dict[datetime, Counts]] = defaultdict(dict)
    for kind, begins_at, _, *counts in hours:
        found[kind][begins_at] = Counts(*counts)
    nothing = [Counts()] * POINTS[HOUR]
    return defaultdict(
        lambda: nothing,
        {kind: [point.counts for point in _points(HOUR, hours, now)] for kind, hours in found.items()},
    )


def run_times_by_hour(now: datetime, hours: Hours | None = None) -> dict[str, list[TimesAt]]:
    """How long jobs of each kind ran that ended in each hour of the last day."""
    found: dict[str, dict[datetime, Times]] = defaultdict(dict)
    for kind, begins_at, runs, *_ in _rows(BY_HOUR, now) if hours is None else hours:
        found[kind][begins_at] = _times([runs])
    moments = _moments(HOUR, now)
    nothing = [TimesAt(at, NO_TIMES) for at in moments]
    return defaultdict(
        lambda: nothing,
        {kind: [TimesAt(at, by_hour.get(at, NO_TIMES)) for at in moments] for kind, by_hour in found.items()},
    )


def kinds() -> list[KindNow]:
    """Every kind, that with the job that has waited longest first."""
    with connection.cursor() as cursor:
        cursor.execute(KINDS)
        return [KindNow._make([*row[:-1], _held(row[-1])]) for row in cursor.fetchall()]


def _held(rows: list[list[Any]] | None) -> list[Held]:
    return [
        Held(limit, jobs, datetime.fromtimestamp(oldest_since, UTC), value, per)
        for limit, jobs, oldest_since, value, per in rows or ()
    ]


def summed(counts: Iterable[Counts]) -> Counts:
    found = Counts()
    for each in counts:
        found.completed += each.completed
        found.failed += each.failed
        found.cancelled += each.cancelled
        found.errors += each.errors
    return found


def _points(span: str, found: dict[datetime, Counts], now: datetime) -> list[Point]:
    """One for each minute or hour, also where nothing ended."""
    return [Point(at, found.get(at, Counts())) for at in _moments(span, now)]


def _moments(span: str, now: datetime) -> list[datetime]:
    """The beginnings of the minutes or hours of a chart."""
    step, count = STEP[Rollup.Span(span)], POINTS[Rollup.Span(span)]
    last = now.replace(minute=now.minute if span == MINUTE else 0, second=0, microsecond=0)
    return [last - n * step for n in reversed(range(count))]


def _times(counts: Iterable[list[int]]) -> Times:
    together = added_up(counts)
    return Times(percentile(together, 0.5), percentile(together, 0.95))


def _rows(sql: str, now: datetime, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, {"now": now} | parameters)
        return list(cursor.fetchall())
