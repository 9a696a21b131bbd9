"""Totals that only rise, for metrics: added up with the rollups, in the same transaction, and never pruned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from django.db import connection
from psycopg2.extras import execute_values

from orchestrator.models import Attempt
from orchestrator.rollups.durations import added_up

OUTCOMES = list(Attempt.Outcome)

# Attempts that ended without completing their jobs.
ENDED_ATTEMPTS = """
SELECT kind, outcome, count(*)
FROM orchestrator_attempt AS attempt JOIN orchestrator_job AS job ON job.id = attempt.job_id
WHERE ended_at >= %s AND ended_at < %s
GROUP BY 1, 2
"""

ADD = """
INSERT INTO orchestrator_total AS written (kind, completed, failed, cancelled, waits, runs, outcomes) VALUES %s
ON CONFLICT (kind) DO UPDATE
SET completed = written.completed + EXCLUDED.completed,
    failed = written.failed + EXCLUDED.failed,
    cancelled = written.cancelled + EXCLUDED.cancelled,
    waits = ARRAY(SELECT old + new FROM unnest(written.waits, EXCLUDED.waits) WITH ORDINALITY AS _ (old, new, place)
                  ORDER BY place),
    runs = ARRAY(SELECT old + new FROM unnest(written.runs, EXCLUDED.runs) WITH ORDINALITY AS _ (old, new, place)
                 ORDER BY place),
    outcomes = ARRAY(SELECT old + new
                     FROM unnest(written.outcomes, EXCLUDED.outcomes) WITH ORDINALITY AS _ (old, new, place)
                     ORDER BY place)
"""


class Figures(Protocol):
    """What became of jobs of a kind in a minute."""

    completed: int
    failed: int
    cancelled: int
    waits: list[int]
    runs: list[int]


def add(figures: Iterable[tuple[str, Figures]], since: datetime, until: datetime) -> None:
    """Adds figures, each with its kind, and the attempts that ended in that time."""
    by_kind: dict[str, list[Figures]] = defaultdict(list)
    for kind, each in figures:
        by_kind[kind].append(each)
    outcomes = _outcomes(since, until)
    rows = [_row(kind, by_kind[kind], outcomes[kind]) for kind in sorted({*by_kind, *outcomes})]
    if rows:
        with connection.cursor() as cursor:
            template = "(%s, %s, %s, %s, %s::bigint[], %s::bigint[], %s::bigint[])"
            execute_values(cursor.cursor, ADD, rows, template=template, page_size=len(rows))


def _outcomes(since: datetime, until: datetime) -> dict[str, list[int]]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(OUTCOMES))
    with connection.cursor() as cursor:
        cursor.execute(ENDED_ATTEMPTS, [since, until])
        for kind, outcome, count in cursor.fetchall():
            counts[kind][OUTCOMES.index(Attempt.Outcome(outcome))] += count
    return counts


def _row(kind: str, figures: list[Figures], outcomes: list[int]) -> tuple[object, ...]:
    return (
        kind,
        sum(each.completed for each in figures),
        sum(each.failed for each in figures),
        sum(each.cancelled for each in figures),
        added_up(each.waits for each in figures),
        added_up(each.runs for each in figures),
        outcomes,
    )
