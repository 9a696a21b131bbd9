"""What the tick writes: what has ended since it last did so, and what waits and runs now."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now
from psycopg2.extras import execute_values

from orchestrator.models import Attempt, Rollup, Upkeep
from orchestrator.ready_jobs import KINDS, heads
from orchestrator.rollups import totals
from orchestrator.rollups.durations import BUCKETS, bucket

# How often, and how long ago a job must have ended: its transaction is committed by then.
EVERY = timedelta(seconds=10)
LAG = timedelta(seconds=3)
# What one run covers, and how far back the first run after an outage goes.
MAX_COVERED = timedelta(minutes=1)
MAX_BEHIND = timedelta(hours=1)
MAX_ERROR_CHARACTERS = 300
# Ready jobs of a kind that are counted, those of which the oldest is looked for, and running jobs that are counted.
MAX_WAITING, MAX_LOOKED_AT, MAX_RUNNING = 100_000, 1_000, 20_000

MINUTE, HOUR = Rollup.Span.MINUTE, Rollup.Span.HOUR

# What ended in a span of time, by the indexes that retention and the children of pipelines have for it. A child waits
# for others, too, so it does not count for how long jobs wait to be started.
ENDED = f"""
SELECT kind, date_trunc('minute', finished_at), status,
       {bucket("CASE WHEN parent_id IS NULL THEN date_part('epoch', started_at - greatest(created_at, run_at)) END")},
       {bucket("date_part('epoch', finished_at - started_at)")},
       count(*),
       min(finished_at),
       max(finished_at),
       max(CASE WHEN status = 'FAILED' THEN id::text END),
       max(CASE WHEN status = 'FAILED' THEN left(error, {MAX_ERROR_CHARACTERS}) END)
FROM orchestrator_kind AS known, LATERAL (
    SELECT * FROM orchestrator_job
    WHERE kind = known.name AND parent_id IS NULL AND finished_at >= %(since)s AND finished_at < %(until)s
    UNION ALL
    SELECT * FROM orchestrator_job
    WHERE kind = known.name AND parent_id IS NOT NULL AND finished_at >= %(since)s AND finished_at < %(until)s
) AS job
GROUP BY 1, 2, 3, 4, 5
"""  # noqa: S608 It is made of constants.

# Attempts that failed meanwhile, with the last error of each kind.
FAILED_ATTEMPTS = f"""
SELECT kind, date_trunc('minute', ended_at), count(*), min(ended_at), max(ended_at),
       (array_agg(job.id::text ORDER BY attempt.id DESC))[1],
       (array_agg(left(attempt.error, {MAX_ERROR_CHARACTERS}) ORDER BY attempt.id DESC))[1]
FROM orchestrator_attempt AS attempt JOIN orchestrator_job AS job ON job.id = attempt.job_id
WHERE ended_at >= %(since)s AND ended_at < %(until)s AND outcome = ANY(%(outcomes)s)
GROUP BY 1, 2
"""  # noqa: S608
FAILURES = [Attempt.Outcome.RAISED, Attempt.Outcome.TIMED_OUT, Attempt.Outcome.LOST]

ADD = """
INSERT INTO orchestrator_rollup AS written (
    span, begins_at, kind, completed, failed, cancelled, errors, waits, runs, first_failure_at, last_failure_at,
    last_failed, last_error
)
VALUES %s
ON CONFLICT (span, begins_at, kind) DO UPDATE
SET completed = written.completed + EXCLUDED.completed,
    failed = written.failed + EXCLUDED.failed,
    cancelled = written.cancelled + EXCLUDED.cancelled,
    errors = written.errors + EXCLUDED.errors,
    waits = ARRAY(SELECT old + new FROM unnest(written.waits, EXCLUDED.waits) WITH ORDINALITY AS _ (old, new, place)
                  ORDER BY place),
    runs = ARRAY(SELECT old + new FROM unnest(written.runs, EXCLUDED.runs) WITH ORDINALITY AS _ (old, new, place)
                 ORDER BY place),
    first_failure_at = least(written.first_failure_at, EXCLUDED.first_failure_at),
    last_failure_at = greatest(written.last_failure_at, EXCLUDED.last_failure_at),
    last_failed = coalesce(EXCLUDED.last_failed, written.last_failed),
    last_error = CASE WHEN EXCLUDED.last_failed IS NULL THEN written.last_error ELSE EXCLUDED.last_error END
"""

# What waits and runs of each kind. The oldest is looked for among the most urgent of each owner, which a job of the
# least priority joins after some minutes: as many of each as make MAX_LOOKED_AT together.
COUNT = f"""
WITH RECURSIVE {KINDS}, running AS (
    SELECT kind, count(*) AS jobs
    FROM (SELECT kind FROM orchestrator_job WHERE worker_id IS NOT NULL LIMIT %(max_running)s) AS leased
    GROUP BY kind
), counted AS (
    SELECT kind, coalesce(running.jobs, 0) AS running,
           (SELECT count(*) FROM (
               SELECT FROM orchestrator_job WHERE ready AND kind = each.kind LIMIT %(max_waiting)s
           ) AS ready) AS waiting,
           (WITH head AS MATERIALIZED (SELECT owner FROM {heads("each.kind", most=MAX_LOOKED_AT)} AS head)
            SELECT min(greatest(first.run_at, first.updated_at)) FROM head CROSS JOIN LATERAL (
               SELECT run_at, updated_at FROM orchestrator_job
               WHERE ready AND kind = each.kind AND owner = head.owner
               ORDER BY rank, id LIMIT {MAX_LOOKED_AT} / (SELECT count(*) FROM head)
           ) AS first) AS oldest_since
    FROM (SELECT kind FROM waiting UNION SELECT kind FROM running) AS each
    LEFT JOIN running USING (kind)
), gone AS (
    DELETE FROM orchestrator_backlog WHERE kind NOT IN (SELECT kind FROM counted)
)
INSERT INTO orchestrator_backlog (kind, waiting, oldest_since, running, counted_at)
SELECT kind, waiting, oldest_since, running, statement_timestamp() FROM counted
ON CONFLICT (kind) DO UPDATE
SET waiting = EXCLUDED.waiting, oldest_since = EXCLUDED.oldest_since, running = EXCLUDED.running,
    counted_at = EXCLUDED.counted_at
"""  # noqa: S608 It is made of constants.


@dataclass
class Figures:
    """What became of a kind's jobs in a span of time; the columns of a Rollup."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    errors: int = 0
    waits: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    runs: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    first_failure_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_failed: UUID | None = None
    last_error: str = ""

    def note_failure(self, first: datetime, last: datetime, job: str, error: str) -> None:
        self.first_failure_at = min(first, self.first_failure_at or first)
        if self.last_failure_at is None or last >= self.last_failure_at:
            self.last_failure_at, self.last_failed, self.last_error = last, UUID(job), error


Written = dict[tuple[str, datetime, str], Figures]


def roll_up() -> bool:
    """Adds what has ended since the last time to the rollups, and counts what waits and runs; returns whether it was
    time to do so.

    Whoever does so holds the row that says how far the rollups go; a second tick does nothing meanwhile.
    """
    with transaction.atomic():
        Upkeep.objects.get_or_create(part="rollups", defaults={"ran_at": Now() - LAG})
        covered = Upkeep.objects.select_for_update(skip_locked=True).filter(part="rollups")
        span = covered.values_list("ran_at", Now()).first()
        if span is None:
            return False
        since, now = max(span[0], span[1] - MAX_BEHIND), span[1]
        until = min(now - LAG, since + MAX_COVERED)
        if until - since < EVERY:
            return False
        written = _figures(since, until)
        _add(written)
        totals.add([(kind, figures) for (span, _, kind), figures in written.items() if span == MINUTE], since, until)
        with connection.cursor() as cursor:
            cursor.execute(COUNT, {"max_waiting": MAX_WAITING, "max_running": MAX_RUNNING})
        covered.update(ran_at=until)
    return True


def _figures(since: datetime, until: datetime) -> Written:
    """What ended in that time, by span, beginning and kind."""
    written: Written = defaultdict(Figures)
    within: dict[str, Any] = {"since": since, "until": until, "outcomes": FAILURES}
    with connection.cursor() as cursor:
        cursor.execute(ENDED, within)
        for row in cursor.fetchall():
            _add_ended(written, *row)
        cursor.execute(FAILED_ATTEMPTS, within)
        for kind, minute, count, first, last, job, error in cursor.fetchall():
            for figures in _both_spans(written, kind, minute):
                figures.errors += count
                figures.note_failure(first, last, job, error)
    return written


def _add_ended(
    written: Written,
    kind: str,
    minute: datetime,
    status: str,
    waited: int | None,
    ran: int | None,
    count: int,
    first: datetime,
    last: datetime,
    failed: str | None,
    error: str | None,
) -> None:
    for figures in _both_spans(written, kind, minute):
        column = status.lower()
        setattr(figures, column, getattr(figures, column) + count)
        if waited is not None:
            figures.waits[waited] += count
        if ran is not None and status == "COMPLETED":
            figures.runs[ran] += count
        if failed:
            figures.note_failure(first, last, failed, error or "")


def _both_spans(written: Written, kind: str, minute: datetime) -> tuple[Figures, Figures]:
    return written[MINUTE, minute, kind], written[HOUR, minute.replace(minute=0), kind]


def _add(written: Written) -> None:
    # In the order of their keys, so that two who write the same rows wait for each other and do not deadlock.
    rows: list[tuple[Any, ...]] = [
        (*key, *(getattr(figures, each.name) for each in fields(Figures))) for key, figures in sorted(written.items())
    ]
    if rows:
        with connection.cursor() as cursor:
            template = f"({', '.join(['%s'] * 11)}, %s::uuid, %s)"
            execute_values(cursor.cursor, ADD, rows, template=template, page_size=len(rows))
