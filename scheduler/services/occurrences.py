"""The occurrences of a schedule: which are tasks already, the task that one becomes, and the next one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from django.db import connection
from psycopg2.extras import execute_values

from scheduler.models import TaskSchedule
from scheduler.recurrence.rules import Recurrence
from scheduler.services.tasks import NewTask

# Which of these occurrences are tasks already.
EXISTING = """
SELECT schedule_id, scheduled_for FROM scheduler_task
WHERE (schedule_id, scheduled_for) IN (SELECT asked.id::uuid, asked.at FROM (VALUES %s) AS asked (id, at))
"""


def task_of(schedule: TaskSchedule, scheduled_for: datetime | None) -> NewTask:
    """The task that an occurrence becomes; of no occurrence if the schedule is run now."""
    return NewTask(
        a=schedule.a,
        b=schedule.b,
        operation=schedule.operation,
        priority=schedule.priority,
        owner=schedule.owner,
        schedule_id=schedule.id,
        scheduled_for=scheduled_for,
    )


def existing_occurrences(occurrences: Iterable[tuple[UUID, datetime]]) -> set[tuple[UUID, datetime]]:
    """Those of the occurrences, by schedule and time, that are tasks already. Their schedules are locked."""
    asked = [(str(schedule_id), at) for schedule_id, at in occurrences]
    if not asked:
        return set()
    with connection.cursor() as cursor:
        return set(execute_values(cursor.cursor, EXISTING, asked, page_size=len(asked), fetch=True))


def next_occurrence(schedule: TaskSchedule, recurrence: Recurrence, after: datetime) -> datetime | None:
    """The next occurrence; None when the schedule has run as often as it should."""
    if schedule.schedule_x_times is not None and schedule.run_count >= schedule.schedule_x_times:
        return None
    return recurrence.next_after(after)


def database_now() -> datetime:
    """PostgreSQL's time, by which alone schedules go."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now
