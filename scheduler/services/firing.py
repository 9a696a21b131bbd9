"""Firing: makes tasks of what is due, and moves the schedules on to their next occurrences."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import OuterRef, Q, Subquery, Value
from django.db.models.functions import Now
from psycopg2.extras import execute_values

from orchestrator.failpoints import Failpoint
from orchestrator.pg_values import as_text
from orchestrator.states import UNFINISHED
from scheduler.models import Task, TaskSchedule
from scheduler.recurrence.rules import Recurrence
from scheduler.services.occurrences import existing_occurrences, next_occurrence, task_of
from scheduler.services.tasks import create_tasks

logger = logging.getLogger(__name__)

tasks_made = Failpoint("schedule-tasks-made")
schedules_moved_on = Failpoint("schedules-moved-on")

# Schedules fired in one transaction, the tasks that they may come to (all and each), and the time one tick spends on
# such transactions. The next tick continues with the rest.
SCHEDULES_A_PASS = 500
TASKS_A_PASS = 2_000
OCCURRENCES_AT_ONCE = 1_000
FIRING_SECONDS = 1.0
# An occurrence is missed if it is later than a tenth of the time to the next one, within these bounds.
MIN_GRACE, MAX_GRACE = timedelta(seconds=3), timedelta(seconds=30)

# Schedules that were fired, moved on to their next occurrence.
MOVE_ON = """
UPDATE scheduler_taskschedule AS schedule
SET next_run_at = moved.next_run_at, last_run_at = moved.last_run_at, run_count = moved.run_count,
    missed_count = moved.missed_count, last_error = moved.last_error
FROM (VALUES %s) AS moved (id, next_run_at, last_run_at, run_count, missed_count, last_error)
WHERE schedule.id = moved.id
"""
MOVED = "(%s::uuid, %s::timestamptz, %s::timestamptz, %s, %s, %s)"


@dataclass
class Firing:
    """A locked schedule with what is due of it: the occurrences that are run, and how far it moves on."""

    schedule: TaskSchedule
    recurrence: Recurrence
    due: list[datetime]
    run: list[datetime]
    missed: int = 0


def fire_due(*, now: datetime | None = None) -> int:
    """Fires the schedules that are due, the longest overdue first, for about FIRING_SECONDS; returns how many tasks
    that made. What is left is due for the next call.

    now: PostgreSQL's time if not given.

    Any number of processes may do so at once: a schedule's row is locked by one of them, its occurrences and its next
    time are written together, and an occurrence can be a task only once.
    """
    deadline = time.monotonic() + FIRING_SECONDS
    fired = 0
    while True:
        tasks = _fire_pass(Q(), now)
        if tasks is None:
            return fired
        fired += tasks
        if time.monotonic() >= deadline:
            return fired


def fire_one(schedule_id: UUID, *, now: datetime | None = None) -> None:
    """Fires one schedule if it is due; its PeriodicTask's bell."""
    _fire_pass(Q(id=schedule_id), now)


def _fire_pass(which: Q, now: datetime | None) -> int | None:
    """Fires some of the due schedules in one transaction; returns how many tasks that made, or None if none is due."""
    time_now = Value(now) if now else Now()
    with transaction.atomic():
        due = list(
            TaskSchedule.objects.select_for_update(skip_locked=True, no_key=True)
            .filter(which, enabled=True, next_run_at__lte=time_now)
            .annotate(now=time_now)
            .order_by("next_run_at")[:SCHEDULES_A_PASS]
        )
        return fire_locked(due, due[0].now) if due else None


def fire_locked(schedules: Sequence[TaskSchedule], now: datetime) -> int:
    """Makes tasks of what is due and moves the locked schedules on; one that cannot fire stops with its error."""
    firings: list[Firing] = []
    stopped: list[TaskSchedule] = []
    tasks = 0
    for schedule in schedules:
        try:
            firings.append(_firing(schedule, now))
        except Exception as error:
            stopped.append(_stop(schedule, error))
            continue
        tasks += len(firings[-1].run)
        if tasks >= TASKS_A_PASS:
            break
    _leave_out(firings)
    failed = _create_tasks_of(firings)
    tasks_made()
    fired = [firing for firing in firings if firing.schedule not in failed]
    for firing in fired:
        _move_on(firing, now)
    _write([firing.schedule for firing in fired] + stopped + failed)
    schedules_moved_on()
    return sum(len(firing.run) for firing in fired)


def _firing(schedule: TaskSchedule, now: datetime) -> Firing:
    """What is due of the schedule, and what of it runs under its misfire policy."""
    assert schedule.next_run_at
    recurrence = schedule.recurrence
    due = recurrence.between(schedule.next_run_at, now, limit=OCCURRENCES_AT_ONCE)
    # Nothing is due where the rules of a time zone, or the row itself, were changed under the schedule.
    if not due or schedule.misfire_policy == TaskSchedule.MisfirePolicy.ALL:
        return Firing(schedule, recurrence, due, list(due))
    if len(due) == OCCURRENCES_AT_ONCE:
        # So much was missed that only its end is looked for; what lies between is not counted one by one.
        due[-1] = recurrence.latest(now)
    if schedule.misfire_policy == TaskSchedule.MisfirePolicy.LATEST:
        return Firing(schedule, recurrence, due, due[-1:], missed=len(due) - 1)
    run = due[-1:] if now - due[-1] <= _grace(recurrence, due[-1]) else []
    return Firing(schedule, recurrence, due, run, missed=len(due) - len(run))


def _grace(recurrence: Recurrence, occurrence: datetime) -> timedelta:
    """How late the occurrence may be without being missed."""
    following = recurrence.next_after(occurrence)
    return min(max(MIN_GRACE, (following - occurrence) / 10), MAX_GRACE) if following else MAX_GRACE


def _leave_out(firings: Iterable[Firing]) -> None:
    """Takes from what runs what must not: because of overlap, as a task already, or as one time too many."""
    busy = with_unfinished_task(
        [firing.schedule.id for firing in firings if firing.schedule.overlap == TaskSchedule.Overlap.SKIP]
    )
    made = existing_occurrences((firing.schedule.id, at) for firing in firings for at in firing.run)
    for firing in firings:
        schedule = firing.schedule
        run = [at for at in firing.run if (schedule.id, at) not in made]
        if schedule.overlap == TaskSchedule.Overlap.SKIP:
            at_once = 0 if schedule.id in busy else 1
            firing.missed += len(run[at_once:])
            run = run[:at_once]
        if schedule.schedule_x_times is not None:
            run = run[: schedule.schedule_x_times - schedule.run_count]
        firing.run = run


def with_unfinished_task(schedule_ids: Sequence[UUID]) -> set[UUID]:
    """Those of the schedules whose last task is still waiting or running."""
    if not schedule_ids:
        return set()
    last_task = Task.objects.filter(schedule=OuterRef("id")).order_by("-id")
    last_status = Subquery(last_task.values("job__status")[:1])
    schedules = TaskSchedule.objects.filter(id__in=schedule_ids).annotate(last_status=last_status)
    return set(schedules.filter(last_status__in=UNFINISHED).values_list("id", flat=True))


def _create_tasks_of(firings: Sequence[Firing]) -> list[TaskSchedule]:
    """Makes the tasks together or, where that fails, schedule by schedule; returns those that failed, stopped."""
    try:
        _create_together(firings)
    except (OperationalError, InterfaceError):
        # It is the database that is in trouble, not a schedule: all of them stay due.
        raise
    except Exception as error:
        if len(firings) == 1:
            return [_stop(firings[0].schedule, error)]
        return [schedule for firing in firings for schedule in _create_tasks_of([firing])]
    return []


def _create_together(firings: Sequence[Firing]) -> None:
    tasks = [task_of(firing.schedule, at) for firing in firings for at in firing.run]
    if tasks:
        with transaction.atomic():
            create_tasks(tasks)


def _move_on(firing: Firing, now: datetime) -> None:
    schedule = firing.schedule
    after = firing.due[-1] if firing.due else now
    schedule.run_count += len(firing.run)
    schedule.missed_count += firing.missed
    schedule.last_run_at = now if firing.run else schedule.last_run_at
    schedule.last_error = ""
    schedule.next_run_at = next_occurrence(schedule, firing.recurrence, after)


def _stop(schedule: TaskSchedule, error: Exception) -> TaskSchedule:
    """A schedule that cannot fire does not try again until someone has changed or resumed it."""
    logger.error("The schedule %s cannot fire and is stopped.", schedule.id, exc_info=error)
    schedule.next_run_at = None
    schedule.last_error = as_text(f"{type(error).__name__}: {error}", at_most=2_000)
    return schedule


def _write(schedules: Sequence[TaskSchedule]) -> None:
    rows = [
        (str(each.id), each.next_run_at, each.last_run_at, each.run_count, each.missed_count, each.last_error)
        for each in schedules
    ]
    with connection.cursor() as cursor:
        execute_values(cursor.cursor, MOVE_ON, rows, template=MOVED, page_size=SCHEDULES_A_PASS)
