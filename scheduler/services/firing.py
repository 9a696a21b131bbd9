"""Firing: submits what is due, and moves the schedules on to their next occurrences."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import BooleanField, IntegerField, Q, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now
from psycopg2.extras import execute_values

from orchestrator.failpoints import Failpoint
from orchestrator.kinds import all_kinds
from orchestrator.pg_values import as_text
from scheduler.models import TaskSchedule
from scheduler.services.due import Due, DueTimes
from scheduler.services.occurrences import Occurrence, existing_occurrences, has_run_its_times, submit_occurrences
from scheduler.services.overlap import judge, unfinished_jobs
from scheduler.services.owner_quotas import OwnerQuotas, kept_while_held

logger = logging.getLogger(__name__)

tasks_made = Failpoint("schedule-tasks-made")
schedules_moved_on = Failpoint("schedules-moved-on")

# Schedules fired in one transaction, the tasks that they may come to, and the time one tick spends on such
# transactions. The next tick continues with the rest.
SCHEDULES_A_PASS = 500
TASKS_A_PASS = 2_000
FIRING_SECONDS = 1.0

# Schedules that were fired, moved on to their next occurrence.
MOVE_ON = """
UPDATE scheduler_taskschedule AS schedule
SET next_run_at = moved.next_run_at, last_run_at = moved.last_run_at, run_count = moved.run_count,
    missed_count = moved.missed_count, last_error = moved.last_error, queued = moved.queued,
    held_since = moved.held_since
FROM (VALUES %s) AS moved (id, next_run_at, last_run_at, run_count, missed_count, last_error, queued, held_since)
WHERE schedule.id = moved.id
"""
MOVED = "(%s::uuid, %s::timestamptz, %s::timestamptz, %s, %s, %s, %s::timestamptz[], %s::timestamptz)"

# Where nothing waits for earlier jobs, what waits is late.
RUNS_WHAT_IS_LATEST = (TaskSchedule.Overlap.ALLOW, TaskSchedule.Overlap.SKIP)

# Whether an occurrence that waits could start now.
HAS_ROOM = """
overlap = 'allow' OR max_running > (
    SELECT count(*) FROM orchestrator_job AS job
    WHERE job.schedule_id = scheduler_taskschedule.id AND job.status IN ('CREATED', 'RUNNING')
)
"""


# As it is sent to be stored; nothing of a schedule that adds numbers.
PAYLOAD_BYTES = "coalesce(octet_length(payload::text), 0)"


@dataclass
class Firing:
    """A locked schedule with what is due of it: what of that wants to run, and what in the end does."""

    schedule: TaskSchedule
    following: datetime | None = None
    waiting: list[datetime] = field(default_factory=list)
    run: list[datetime] = field(default_factory=list)
    queued: list[datetime] = field(default_factory=list)
    missed: int = 0
    refusal: str = ""
    is_held: bool = False

    def hold(self, times: Sequence[datetime], reason: str) -> None:
        """Of its occurrences, these do not run: there is no room for them among its owner's jobs."""
        kept = kept_while_held(self.schedule, list(times), self.queued)
        self.run = [at for at in self.run if at not in times]
        self.missed += len(times) + len(self.queued) - len(kept)
        becomes = "waits" if kept else "was missed"
        self.queued, self.is_held, self.refusal = kept, True, f"{times[-1]} {becomes}: {reason}"


def fire_due(*, now: datetime | None = None) -> int:
    """Fires the schedules that are due, the longest overdue first, for about FIRING_SECONDS; returns how many
    occurrences that submitted. What is left is due for the next call.

    now: PostgreSQL's time if not given.

    Any number of processes may do so at once: a schedule's row is locked by one of them, its occurrences and its next
    time are written together, and an occurrence can be a job only once. Those whose kind this process does not know,
    as during an upgrade, stay due for a process that does.
    """
    deadline = time.monotonic() + FIRING_SECONDS
    due_times = DueTimes()
    fired = 0
    while True:
        tasks = _fire_pass(Q(), now, due_times)
        if tasks is None:
            return fired
        fired += tasks
        if time.monotonic() >= deadline:
            return fired


def fire_one(schedule_id: UUID, *, now: datetime | None = None) -> None:
    """Fires one schedule if it is due; its PeriodicTask's bell."""
    _fire_pass(Q(id=schedule_id), now, DueTimes())


def _fire_pass(which: Q, now: datetime | None, due_times: DueTimes) -> int | None:
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
        return fire_locked(due, due[0].now, due_times) if due else None


def fire_locked(schedules: Sequence[TaskSchedule], now: datetime, due_times: DueTimes) -> int:
    """Submits what is due and moves the locked schedules on; one that cannot fire stops with its error."""
    firings: list[Firing] = []
    stopped: list[TaskSchedule] = []
    submitted = 0
    due_times.load(schedules)
    for schedule in schedules:
        try:
            firings.append(_firing(schedule, due_times.of(schedule, now), now))
        except Exception as error:
            stopped.append(_stop(schedule, error))
            continue
        submitted += len(firings[-1].waiting)
        if submitted >= TASKS_A_PASS:
            break
    _leave_out(firings)
    _hold_back(firings)
    failed = _submit(firings, now)
    tasks_made()
    fired = [firing for firing in firings if firing.schedule not in failed]
    for firing in fired:
        _move_on(firing, now)
    _write([firing.schedule for firing in fired] + stopped + failed)
    schedules_moved_on()
    return sum(len(firing.run) for firing in fired)


def _firing(schedule: TaskSchedule, due: Due, now: datetime) -> Firing:
    """What of the due occurrences wants to run: what has waited, and what its misfire policy allows."""
    times = due.times
    # Nothing is due where the rules of a time zone, or the row itself, were changed under the schedule.
    if not times or schedule.misfire_policy == TaskSchedule.MisfirePolicy.ALL:
        return Firing(schedule, due.following, [*schedule.queued, *times])
    is_missed = schedule.misfire_policy == TaskSchedule.MisfirePolicy.SKIP and now - times[-1] > due.grace
    wanted = [] if is_missed else times[-1:]
    waiting = [*schedule.queued, *wanted]
    if schedule.misfire_policy == TaskSchedule.MisfirePolicy.LATEST and schedule.overlap in RUNS_WHAT_IS_LATEST:
        waiting = waiting[-1:]
    return Firing(schedule, due.following, waiting, missed=len(times) + len(schedule.queued) - len(waiting))


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


def _hold_back(firings: Sequence[Firing]) -> None:
    """Takes from what runs what there is no room for among the unfinished jobs of its owner."""
    running = [firing for firing in firings if firing.run]
    quotas = OwnerQuotas((firing.schedule.kind, firing.schedule.owner) for firing in running)
    for firing in running:
        count, reason = quotas.take(firing.schedule, len(firing.run))
        if reason:
            firing.hold(firing.run[count:], reason)


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
    for (schedule, at), reason, may_wait in refused:
        firing = firing_of[schedule.id]
        assert at  # They are not run by hand.
        if may_wait:
            firing.hold([at], reason)
        else:
            firing.run.remove(at)
            firing.missed += 1
            firing.refusal = f"{at} was missed: {reason}"


def release_queued(*, now: datetime | None = None) -> int:
    """Submits occurrences that waited for earlier jobs of their schedules, or of their owners, to end; returns how
    many. What has waited longest goes first.
    """
    time_now = Value(now) if now else Now()
    with transaction.atomic():
        room = RawSQL(HAS_ROOM, (), BooleanField())  # noqa: S611 - a constant
        waiting = list(
            TaskSchedule.objects.select_for_update(skip_locked=True, no_key=True)
            .filter(enabled=True, kind__in=_known_kinds())
            .exclude(queued=[])
            .alias(payload_bytes=RawSQL(PAYLOAD_BYTES, (), IntegerField()))  # noqa: S611 - a constant
            .exclude(_has_no_room())
            # One that has stopped because of an error waits until someone has changed or resumed it.
            .exclude(~Q(last_error=""), next_run_at=None)
            .filter(room)
            .annotate(now=time_now)
            .order_by("queued__0", "id")[:SCHEDULES_A_PASS]
        )
        return _release_locked(waiting, waiting[0].now) if waiting else 0


def _has_no_room() -> Q:
    """Schedules that are held back by their owners' limits, as before. However many they are, they keep no others from
    being looked at.
    """
    held = TaskSchedule.objects.filter(enabled=True, held_since__isnull=False, kind__in=_known_kinds())
    those = list(held.exclude(queued=[]).order_by().values_list("kind", "owner").distinct())
    quotas = OwnerQuotas(those)
    full: defaultdict[str, list[str]] = defaultdict(list)
    for kind, owner in those:
        if quotas.why_not(kind, owner):
            full[kind].append(owner)
    found = Q(pk__in=[])
    for kind, owners in full.items():
        found |= Q(kind=kind, owner__in=owners)
    for owner, left in quotas.bytes_left().items():
        found |= Q(owner=owner, payload_bytes__gt=left)
    return found & Q(held_since__isnull=False)


def _release_locked(schedules: Sequence[TaskSchedule], now: datetime) -> int:
    firings = [Firing(schedule, waiting=list(schedule.queued)) for schedule in schedules]
    _leave_out(firings)
    _hold_back(firings)
    failed = _submit(firings, now)
    released = [firing for firing in firings if firing.schedule not in failed]
    for firing in released:
        _count(firing, now)
        _tell(firing)
    _write([firing.schedule for firing in firings])
    return sum(len(firing.run) for firing in released)


def _count(firing: Firing, now: datetime) -> None:
    schedule = firing.schedule
    schedule.queued = firing.queued
    schedule.held_since = (schedule.held_since or now) if firing.is_held else None
    schedule.run_count += len(firing.run)
    schedule.missed_count += firing.missed
    schedule.last_run_at = now if firing.run else schedule.last_run_at


def _move_on(firing: Firing, now: datetime) -> None:
    _count(firing, now)
    schedule = firing.schedule
    schedule.next_run_at = None if has_run_its_times(schedule) else firing.following
    _tell(firing)


def _tell(firing: Firing) -> None:
    """Why an occurrence does not run. One that has come to its end has not stopped because of an error."""
    schedule = firing.schedule
    schedule.last_error = as_text(firing.refusal, at_most=2_000) if schedule.next_run_at else ""
    if not schedule.next_run_at and not schedule.queued:
        schedule.held_since = None


def _stop(schedule: TaskSchedule, error: Exception) -> TaskSchedule:
    """A schedule that cannot fire does not try again until someone has changed or resumed it."""
    logger.error("The schedule %s cannot fire and is stopped.", schedule.id, exc_info=error)
    schedule.next_run_at = schedule.held_since = None
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
            each.held_since,
        )
        for each in schedules
    ]
    with connection.cursor() as cursor:
        execute_values(cursor.cursor, MOVE_ON, rows, template=MOVED, page_size=SCHEDULES_A_PASS)
