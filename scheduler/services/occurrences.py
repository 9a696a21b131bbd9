"""The occurrences of a schedule: which were submitted already, what one becomes, and the next one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db import connection
from psycopg2.extras import execute_values

from orchestrator import submission
from orchestrator.kinds import Kind, kind_named
from orchestrator.submission import Submission, TooManyUnfinished
from scheduler.models import TaskSchedule
from scheduler.recurrence.jitter import delay
from scheduler.recurrence.rules import Recurrence
from scheduler.services.tasks import NewTask, create_tasks

# Which of these occurrences were submitted already. Tasks of earlier releases have jobs that do not say so.
EXISTING = """
WITH asked AS (SELECT id::uuid AS schedule_id, at AS scheduled_for FROM (VALUES %s) AS asked (id, at))
SELECT schedule_id, scheduled_for FROM asked JOIN orchestrator_job AS job USING (schedule_id, scheduled_for)
UNION
SELECT schedule_id, scheduled_for FROM asked JOIN scheduler_task AS task USING (schedule_id, scheduled_for)
"""


class Occurrence(NamedTuple):
    """A schedule at one of its times; None if it is run now."""

    schedule: TaskSchedule
    at: datetime | None


class Refused(NamedTuple):
    """An occurrence that could not be submitted, for a reason that may pass."""

    occurrence: Occurrence
    reason: str
    # Until its owner has fewer unfinished jobs.
    may_wait: bool = False


def submit_occurrences(occurrences: Iterable[Occurrence], now: datetime) -> list[Refused]:
    """Makes tasks or jobs of them, set-wise where their kind allows it.

    Returns those for which their owner has too many unfinished jobs, or which are to be unique and are not. Raises
    what else keeps them from being submitted.
    """
    by_kind: defaultdict[str, list[Occurrence]] = defaultdict(list)
    for occurrence in occurrences:
        by_kind[occurrence.schedule.kind].append(occurrence)
    refused: list[Refused] = []
    for name, same in by_kind.items():
        if same[0].schedule.adds:
            create_tasks([task_of(each, now) for each in same])
        else:
            refused += _submit_jobs(kind_named(name), same, now)
    return refused


def _submit_jobs(kind: Kind, occurrences: Sequence[Occurrence], now: datetime) -> list[Refused]:
    # A unique job that there is already takes the place of one occurrence, not of all of them.
    if submission.goes_one_by_one(kind) or kind.unique:
        return [refused for each in occurrences if (refused := _submit_job(kind, each, now))]
    submission.submit_many(kind, [job_of(each, now) for each in occurrences])
    return []


def _submit_job(kind: Kind, occurrence: Occurrence, now: datetime) -> Refused | None:
    job = job_of(occurrence, now)
    try:
        submitted = submission.submit(
            kind, job.payload, owner=job.owner, priority=job.priority, run_at=job.run_at, occurrence=job.occurrence
        )
    except TooManyUnfinished as refusal:
        return Refused(occurrence, str(refusal), may_wait=True)
    except submission.NotUnique as refusal:
        return Refused(occurrence, str(refusal))
    if submitted.schedule_id != occurrence.schedule.id or submitted.scheduled_for != occurrence.at:
        return Refused(occurrence, f"The job {submitted.id} has the same unique key.")
    return None


def job_of(occurrence: Occurrence, now: datetime) -> Submission:
    """The job that an occurrence becomes."""
    schedule, at = occurrence
    return Submission(
        payload=schedule.payload,
        owner=schedule.owner,
        priority=schedule.priority,
        run_at=starts_at(occurrence, now),
        occurrence=submission.Occurrence(schedule.id, at),
    )


def task_of(occurrence: Occurrence, now: datetime) -> NewTask:
    """The task that an occurrence becomes."""
    schedule, at = occurrence
    # As its constraint has it.
    assert schedule.a is not None
    assert schedule.b is not None
    return NewTask(
        a=schedule.a,
        b=schedule.b,
        operation=schedule.operation,
        priority=schedule.priority,
        owner=schedule.owner,
        schedule_id=schedule.id,
        scheduled_for=at,
        run_at=starts_at(occurrence, now),
    )


def starts_at(occurrence: Occurrence, now: datetime) -> datetime | None:
    """When it may start, if not at once. One that is late is not put before others for that."""
    schedule, at = occurrence
    if at is None or not schedule.jitter_seconds:
        return None
    jittered = at + delay(schedule.id, at, schedule.jitter_seconds)
    return jittered if jittered > now else None


def existing_occurrences(occurrences: Iterable[tuple[UUID, datetime]]) -> set[tuple[UUID, datetime]]:
    """Those of the occurrences, by schedule and time, that were submitted already. Their schedules are locked."""
    asked = [(str(schedule_id), at) for schedule_id, at in occurrences]
    if not asked:
        return set()
    with connection.cursor() as cursor:
        return set(execute_values(cursor.cursor, EXISTING, asked, page_size=len(asked), fetch=True))


def next_occurrence(schedule: TaskSchedule, recurrence: Recurrence, after: datetime) -> datetime | None:
    """The next occurrence; None when the schedule has run as often as it should."""
    return None if has_run_its_times(schedule) else recurrence.next_after(after)


def has_run_its_times(schedule: TaskSchedule) -> bool:
    """Whether it has run as often as it should, with what waits."""
    times = schedule.schedule_x_times
    return times is not None and schedule.run_count + len(schedule.queued) >= times


def database_now() -> datetime:
    """PostgreSQL's time, by which alone schedules go."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now
