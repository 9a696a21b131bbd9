"""Firing: submits what is due, and moves the schedules on to their next occurrences."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import BooleanField, Q, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now
from psycopg2.extras import execute_values

from orchestrator.failpoints import Failpoint
from orchestrator.kinds import all_kinds
from orchestrator.pg_values import as_text
from scheduler.models import TaskSchedule
from scheduler.recurrence.rules import Recurrence
from scheduler.services.calendars import load_calendars
from scheduler.services.occurrences import Occurrence, existing_occurrences, next_occurrence, submit_occurrences
from scheduler.services.overlap import judge, unfinished_jobs

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
    missed_count = moved.missed_count, last_error = moved.last_error, queued = moved.queued
FROM (VALUES %s) AS moved (id, next_run_at, last_run_at, run_count, missed_count, last_error, queued)
WHERE schedule.id = moved.id
"""
MOVED = "(%s::uuid, %s::timestamptz, %s::timestamptz, %s, %s, %s, %s::timestamptz[])"

# Whether an occurrence that waits could start now.
HAS_ROOM = """
overlap = 'allow' OR max_running > (
    SELECT count(*) FROM orchestrator_job AS job
    WHERE job.schedule_id = scheduler_taskschedule.id AND job.status IN ('CREATED', 'RUNNING')
)
"""


@dataclass
class Firing:
    """A locked schedule with what is due of it: what of that wants to run, and what in the end does."""

    schedule: TaskSchedule
    recurrence: Recurrence | None = None
    due: list[datetime] = field(default_factory=list)
    waiting: list[datetime] = field(default_factory=list)
    run: list[datetime] = field(default_factory=list)
    queued: list[datetime] = field(default_factory=list)
    missed: int = 0
    refusal: str = ""


def fire_due(*, now: datetime | None = None) -> int:
    """Fires the schedules that are due, the longest overdue first, for about FIRING_SECONDS; returns how many
    occurrences that submitted. What is left is due for the next call.

    now: PostgreSQL's time if not given.

    Any number of processes may do so at once: a schedule's row is locked by one of them, its occurrences and its next
    time are written together, and an occurrence can be a job only once. Those whose kind this process does not know,
    as during an upgrade, stay due for a process that does.
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
    """Fires some of the due schedules in one transaction; returns how many occurrences that submitted, or None if none
    is due.
    """
    time_now = Value(now) if now else Now()
    with transaction.atomic():
        due = list(
            TaskSchedule.objects.select_for_update(skip_locked=True, no_key=True)
            .filter(which, enabled=True, next_run_at__lte=time_now, kind__in=_known_kinds())
            .annotate(now=time_now)
            .order_by("next_run_at")[:SCHEDULES_A_PASS]
        )
        load_calendars(due)
        return fire_locked(due, due[0].now) if due else None


def fire_locked(schedules: Sequence[TaskSchedule], now: datetime) -> int:
    """Submits what is due and moves the locked schedules on; one that cannot fire stops with its error."""
    firings: list[Firing] = []
    stopped: list[TaskSchedule] = []
    submitted = 0
    for schedule in schedules:
        try:
            firings.append(_firing(schedule, now))
        except Exception as error:
            stopped.append(_stop(schedule, error))
            continue
        submitted += len(firings[-1].waiting)
        if submitted >= TASKS_A_PASS:
            break
    _leave_out(firings)
    failed = _submit(firings, now)
    tasks_made()
    fired = [firing for firing in firings if firing.schedule not in failed]
    for firing in fired:
        assert firing.recurrence
        _move_on(firing, firing.recurrence, now)
    _write([firing.schedule for firing in fired] + stopped + failed)
    schedules_moved_on()
    return sum(len(firing.run) for firing in fired)


def _firing(schedule: TaskSchedule, now: datetime) -> Firing:
    """What is due of the schedule, and what wants to run: what has waited, and what its misfire policy allows."""
    assert schedule.next_run_at
    recurrence = schedule.recurrence
    due = recurrence.between(schedule.next_run_at, now, limit=OCCURRENCES_AT_ONCE)
    # Nothing is due where the rules of a time zone, or the row itself, were changed under the schedule.
    if not due or schedule.misfire_policy == TaskSchedule.MisfirePolicy.ALL:
        return Firing(schedule, recurrence, due, [*schedule.queued, *due])
    if len(due) == OCCURRENCES_AT_ONCE:
        # So much was missed that only its end is looked for; what lies between is not counted one by one.
        due[-1] = recurrence.latest(now)
    if schedule.misfire_policy == TaskSchedule.MisfirePolicy.LATEST:
        return Firing(schedule, recurrence, due, [*schedule.queued, due[-1]], missed=len(due) - 1)
    timely = due[-1:] if now - due[-1] <= _grace(recurrence, due[-1]) else []
    return Firing(schedule, recurrence, due, [*schedule.queued, *timely], missed=len(due) - len(timely))


def _grace(recurrence: Recurrence, occurrence: datetime) -> timedelta:
    """How late the occurrence may be without being missed."""
    following = recurrence.next_after(occurrence)
    return min(max(MIN_GRACE, (following - occurrence) / 10), MAX_GRACE) if following else MAX_GRACE


def _leave_out(firings: Sequence[Firing]) -> None:
    """Takes from what runs what must not: what was submitted already, is too much at once, or one time too many."""
    limited = [firing.schedule.id for firing in firings if firing.schedule.overlap != TaskSchedule.Overlap.ALLOW]
    unfinished = unfinished_jobs(limited)
    made = existing_occurrences((firing.schedule.id, at) for firing in firings for at in firing.waiting)
    for firing in firings:
        schedule = firing.schedule
        waiting = [at for at in firing.waiting if (schedule.id, at) not in made]
        firing.run, firing.queued, missed = judge(schedule, waiting, unfinished.get(schedule.id, 0))
        firing.missed += missed


def _submit(firings: Sequence[Firing], now: datetime) -> list[TaskSchedule]:
    """Submits what runs together or, where that fails, schedule by schedule; returns those that failed, stopped."""
    try:
        _submit_together(firings, now)
    except (OperationalError, InterfaceError):
        # It is the database that is in trouble, not a schedule: all of them stay due.
        raise
    except Exception as error:
        if len(firings) == 1:
            return [_stop(firings[0].schedule, error)]
        return [schedule for firing in firings for schedule in _submit([firing], now)]
    return []


def _submit_together(firings: Sequence[Firing], now: datetime) -> None:
    wanted = [Occurrence(firing.schedule, at) for firing in firings for at in firing.run]
    if not wanted:
        return
    with transaction.atomic():
        refused = submit_occurrences(wanted, now)
    firing_of = {firing.schedule.id: firing for firing in firings} if refused else {}
    for (schedule, at), reason in refused:
        firing = firing_of[schedule.id]
        firing.run.remove(at)  # type: ignore[arg-type] # It is one of them.
        firing.missed += 1
        firing.refusal = f"{at} was missed: {reason}"


def release_queued(*, now: datetime | None = None) -> int:
    """Submits occurrences that waited for earlier jobs of their schedules to end; returns how many."""
    time_now = Value(now) if now else Now()
    with transaction.atomic():
        room = RawSQL(HAS_ROOM, (), BooleanField())  # noqa: S611 - a constant
        waiting = list(
            TaskSchedule.objects.select_for_update(skip_locked=True, no_key=True)
            .filter(enabled=True, kind__in=_known_kinds())
            .exclude(queued=[])
            # One that has stopped because of an error waits until someone has changed or resumed it.
            .exclude(~Q(last_error=""), next_run_at=None)
            .filter(room)
            .annotate(now=time_now)
            .order_by("id")[:SCHEDULES_A_PASS]
        )
        return _release_locked(waiting, waiting[0].now) if waiting else 0


def _release_locked(schedules: Sequence[TaskSchedule], now: datetime) -> int:
    firings = [Firing(schedule, waiting=list(schedule.queued)) for schedule in schedules]
    _leave_out(firings)
    failed = _submit(firings, now)
    released = [firing for firing in firings if firing.schedule not in failed]
    for firing in released:
        _count(firing, now)
    _write([firing.schedule for firing in firings])
    return sum(len(firing.run) for firing in released)


def _count(firing: Firing, now: datetime) -> None:
    schedule = firing.schedule
    schedule.queued = firing.queued
    schedule.run_count += len(firing.run)
    schedule.missed_count += firing.missed
    schedule.last_run_at = now if firing.run else schedule.last_run_at


def _move_on(firing: Firing, recurrence: Recurrence, now: datetime) -> None:
    _count(firing, now)
    schedule = firing.schedule
    after = firing.due[-1] if firing.due else now
    schedule.next_run_at = next_occurrence(schedule, recurrence, after)
    # One that has come to its end has not stopped because of an error.
    schedule.last_error = as_text(firing.refusal, at_most=2_000) if schedule.next_run_at else ""


def _stop(schedule: TaskSchedule, error: Exception) -> TaskSchedule:
    """A schedule that cannot fire does not try again until someone has changed or resumed it."""
    logger.error("The schedule %s cannot fire and is stopped.", schedule.id, exc_info=error)
    schedule.next_run_at = None
    schedule.last_error = as_text(f"{type(error).__name__}: {error}", at_most=2_000)
    return schedule


def _known_kinds() -> list[str]:
    return [kind.name for kind in all_kinds()]


def _write(schedules: Sequence[TaskSchedule]) -> None:
    rows = [
        (
            str(each.id),
            each.next_run_at,
            each.last_run_at,
            each.run_count,
            each.missed_count,
            each.last_error,
            each.queued,
        )
        for each in schedules
    ]
    with connection.cursor() as cursor:
        execute_values(cursor.cursor, MOVE_ON, rows, template=MOVED, page_size=SCHEDULES_A_PASS)
