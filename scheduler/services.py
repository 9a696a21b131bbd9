"""What clients and the tick do with tasks and schedules."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice, takewhile
from typing import Any
from uuid import UUID

import msgspec
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import F, OuterRef, Q, Subquery, Value
from django.db.models.functions import Now
from django_celery_beat.models import PeriodicTasks
from psycopg2.extras import execute_values

from orchestrator import submission
from orchestrator.failpoints import Failpoint
from orchestrator.ids import uuid7
from orchestrator.models import Job
from orchestrator.states import UNFINISHED, Status
from orchestrator.storable import as_text
from scheduler import queries
from scheduler.jobs import add
from scheduler.models import Task, TaskSchedule
from scheduler.recurrence import MICROSECOND, BadRecurrence, Recurrence, require_firing

logger = logging.getLogger(__name__)

jobs_without_tasks = Failpoint("jobs-without-tasks")
tasks_made = Failpoint("schedule-tasks-made")
schedules_moved_on = Failpoint("schedules-moved-on")

# Schedules fired in one transaction, the tasks that they may come to (all and each), and the time one tick spends on
# such transactions. What is left goes on with the next tick.
SCHEDULES_A_PASS = 500
TASKS_A_PASS = 2_000
OCCURRENCES_AT_ONCE = 1_000
FIRING_SECONDS = 1.0
# An occurrence is missed if it is later than a tenth of the time to the next one, within these bounds.
LEAST_GRACE, MOST_GRACE = timedelta(seconds=3), timedelta(seconds=30)

MOST_TIMES = 2**31 - 1
# Occurrences one request may add: by a backfill, or by a start that long ago.
MOST_BACKFILLED = 10_000

# Tasks as they are accepted. They travel as one JSON document, as their jobs do.
INSERT = """
INSERT INTO scheduler_task (id, owner, a, b, operation, priority, job_id, schedule_id, scheduled_for)
SELECT id, owner, a, b, operation, priority, job_id, schedule_id, scheduled_for
FROM json_to_recordset(%s) AS new (
    id uuid, owner text, a numeric, b numeric, operation text, priority integer, job_id uuid, schedule_id uuid,
    scheduled_for timestamptz
)
RETURNING created_at
"""

# Schedules that were fired, moved on to their next occurrence.
MOVE_ON = """
UPDATE scheduler_taskschedule AS schedule
SET next_run_at = moved.next_run_at, last_run_at = moved.last_run_at, run_count = moved.run_count,
    missed_count = moved.missed_count, last_error = moved.last_error
FROM (VALUES %s) AS moved (id, next_run_at, last_run_at, run_count, missed_count, last_error)
WHERE schedule.id = moved.id
"""
MOVED = "(%s::uuid, %s::timestamptz, %s::timestamptz, %s, %s, %s)"

# Which of these occurrences are tasks already.
MADE_ALREADY = """
SELECT schedule_id, scheduled_for FROM scheduler_task
WHERE (schedule_id, scheduled_for) IN (SELECT asked.id::uuid, asked.at FROM (VALUES %s) AS asked (id, at))
"""

# What an edit can change so that its occurrences are others.
TIMES = {"interval", "every_x_days", "every_x_hours", "cron", "rrule", "timezone", "scheduled_at"}


class NotEnded(Exception):
    """The task is still waiting or running, so it cannot be run again yet."""

    def __init__(self, task: Task) -> None:
        super().__init__(f"The task {task.id} has not ended yet; run it again when it has, or cancel it first.")


class NotPending(Exception):
    """The task has ended already, so it cannot be cancelled."""

    def __init__(self, task: Task) -> None:
        super().__init__(f"The task {task.id} has ended already; only a PENDING task can be cancelled.")


class BadBackfill(ValueError):
    """The time to be filled holds what cannot be."""

    def __init__(self, message: str) -> None:
        self.fields = ("to",)
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """Two numbers someone asked to be added, checked."""

    a: Decimal
    b: Decimal
    operation: str = ""
    priority: int = 5
    owner: str = ""
    schedule_id: UUID | None = None
    scheduled_for: datetime | None = None


@dataclass(frozen=True)
class Backfill:
    """How many occurrences there are, how many of them were tasks already, and the tasks made of the others."""

    occurrences: int
    already_tasks: int
    task_ids: list[UUID] = field(default_factory=list)


@dataclass
class Firing:
    """A locked schedule with what is due of it: the occurrences that are run, and how far it moves on."""

    schedule: TaskSchedule
    recurrence: Recurrence
    due: list[datetime]
    run: list[datetime]
    missed: int = 0


# Tasks


def create_task(new: NewTask) -> Task:
    """Accepts a task, and answers it as `queries.shown_task` would, without asking: nobody has touched it yet."""
    with transaction.atomic(savepoint=False), connection.cursor() as cursor:
        [row] = _insert([new], cursor)
        [created_at] = cursor.fetchone()
    task = Task(**row, created_at=created_at, updated_at=created_at)
    task.job = Job.from_db(connection.alias, queries.JOB, [task.job_id, Status.CREATED, "", "", created_at])
    task.latest_result = None
    return task


def create_tasks(tasks: Sequence[NewTask]) -> list[UUID]:
    """Accepts the tasks, all or none, set-wise; answers their ids in order."""
    with transaction.atomic(savepoint=False), connection.cursor() as cursor:
        return [row["id"] for row in _insert(tasks, cursor)]


def _insert(tasks: Sequence[NewTask], cursor: Any) -> list[dict[str, Any]]:
    """Writes the tasks and their jobs; answers the tasks' columns."""
    rows = [{"id": uuid7()} | vars(task) for task in tasks]
    job_ids = submission.submit_many(
        add,
        [
            submission.Submission(payload=_payload(row["id"], task), owner=task.owner, priority=task.priority)
            for row, task in zip(rows, tasks, strict=True)
        ],
    )
    jobs_without_tasks()
    for row, job_id in zip(rows, job_ids, strict=True):
        row["job_id"] = job_id
    cursor.execute(INSERT, [msgspec.json.encode(rows).decode()])
    return rows


def run_again(task_id: UUID) -> None:
    """Adds the numbers of a task once more, which adds a result. Raises Task.DoesNotExist, or NotEnded."""
    with transaction.atomic():
        task = _locked_task(task_id)
        if task.job.status in UNFINISHED:
            raise NotEnded(task)
        task.job = submission.submit(add, _payload(task.id, task), owner=task.owner, priority=task.priority)
        task.updated_at = Now()
        task.save(update_fields=["job", "updated_at"])


def cancel_task(task_id: UUID) -> None:
    """Cancels a task that is waiting. Raises Task.DoesNotExist, or NotPending."""
    with transaction.atomic():
        task = _locked_task(task_id)
        if task.job.status not in UNFINISHED:
            raise NotPending(task)
        submission.cancel(task.job_id)


def _payload(id: UUID, task: NewTask | Task) -> dict[str, str]:
    return {"task_id": str(id), "a": str(task.a), "b": str(task.b)}


def _locked_task(task_id: UUID) -> Task:
    """The task and its job, locked in that order. A batch that holds the job may still write the task's result, since
    its foreign key asks for no more than the task's id: so nobody waits in a circle.
    """
    task = Task.objects.select_for_update(no_key=True).get(id=task_id)
    task.job = Job.objects.select_for_update().get(id=task.job_id)
    return task


# Schedules


def create_schedule(schedule: TaskSchedule) -> None:
    """Writes a new schedule with its first occurrence and its PeriodicTask. If it is to start before now, or has no
    start, which means now, its misfire policy says what becomes of what it has missed.

    Raises BadRecurrence for one that would never fire, or that says something that cannot be.
    """
    schedule.scheduled_at = (schedule.scheduled_at or database_now()).replace(microsecond=0)
    recurrence = checked(schedule)
    with transaction.atomic():
        schedule.next_run_at = recurrence.first() if schedule.enabled else None
        schedule.schedule_celery_beat_task()
        schedule.save(force_insert=True)
    schedule.refresh_from_db()


def change_schedule(schedule_id: UUID, changes: Mapping[str, Any]) -> TaskSchedule:
    """Changes some columns of a schedule. Its row is locked, so that nobody fires it meanwhile.

    A schedule whose times changed, that was resumed, or that had come to its end goes on from now: what it missed by
    its old times is not made up for. Otherwise its next occurrence stays what it was.

    Raises TaskSchedule.DoesNotExist, or BadRecurrence as `create_schedule` does; then nothing was written.
    """
    with transaction.atomic():
        schedule = _locked_schedule(schedule_id)
        changed = {name for name, value in changes.items() if getattr(schedule, name) != value}
        for name in changed:
            setattr(schedule, name, changes[name])
        if "scheduled_at" in changed:
            schedule.scheduled_at = schedule.scheduled_at.replace(microsecond=0)
        # Otherwise it is only paused, which a broken schedule can be too.
        if changed - {"enabled"} or schedule.enabled:
            _settle(schedule, begins_anew=bool(changed & TIMES))
        if not schedule.enabled:
            schedule.next_run_at = None
        schedule.updated_at = Now()
        schedule.update_celery_beat_task()
        schedule.save()
    return TaskSchedule.objects.get(id=schedule_id)


def set_enabled(schedule_id: UUID, enabled: bool) -> TaskSchedule:
    """Pauses or resumes a schedule. Resumed, it goes on with its next occurrence. Raises as `change_schedule` does."""
    return change_schedule(schedule_id, {"enabled": enabled})


def delete_schedule(schedule_id: UUID) -> None:
    """Deletes a schedule and its PeriodicTask; its tasks stay, and what is waiting still runs.

    Raises TaskSchedule.DoesNotExist.
    """
    with transaction.atomic():
        schedule = _locked_schedule(schedule_id)
        schedule.delete_celery_beat_task()
        schedule.delete()


def run_now(schedule_id: UUID) -> UUID:
    """Makes a task of the schedule at once, outside its recurrence and its count; answers the task's id.

    Raises TaskSchedule.DoesNotExist.
    """
    schedule = TaskSchedule.objects.get(id=schedule_id)
    return create_tasks([_task(schedule, None)])[0]


def backfill(
    schedule_id: UUID, begin: datetime, end: datetime, *, dry_run: bool = False, now: datetime | None = None
) -> Backfill:
    """Makes tasks of the schedule's occurrences from one time to another, both included, that are none yet; outside
    its count, and whatever its policies. A dry run only counts.

    Raises TaskSchedule.DoesNotExist, BadRecurrence, or BadBackfill for what is still to come or too much.
    """
    with transaction.atomic():
        schedule = _locked_schedule(schedule_id)
        if end > (now or database_now()):
            raise BadBackfill("Only what is past can be filled in; what is to come runs by itself.")
        occurrences = list(
            islice(
                takewhile(lambda at: at <= end, schedule.recurrence.after(begin - MICROSECOND)), MOST_BACKFILLED + 1
            )
        )
        if len(occurrences) > MOST_BACKFILLED:
            raise BadBackfill(
                f"More than {MOST_BACKFILLED:,} occurrences lie in between; fill them in piece by piece."
            )
        made = _made_already((schedule.id, at) for at in occurrences)
        missing = [at for at in occurrences if (schedule.id, at) not in made]
        ids = [] if dry_run else create_tasks([_task(schedule, at) for at in missing])
    return Backfill(len(occurrences), len(made), ids)


def checked(schedule: TaskSchedule) -> Recurrence:
    """The schedule's recurrence; raises BadRecurrence for a schedule that could not do what it says."""
    times = schedule.schedule_x_times
    if times is not None and not 1 <= times <= MOST_TIMES:
        raise BadRecurrence("schedule_x_times", f"1 to {MOST_TIMES:,} times, not {times:,}.")
    if times is not None and times < schedule.run_count:
        raise BadRecurrence("schedule_x_times", f"It has run {schedule.run_count:,} times already.")
    recurrence = schedule.recurrence
    require_firing(recurrence)
    if schedule._state.adding:
        _require_few_missed(schedule, recurrence)
    return recurrence


def next_runs(schedule: TaskSchedule, count: int) -> list[datetime]:
    """When the schedule will run next or, while it is paused, would if it were resumed now. One that is not saved yet
    is read as `create_schedule` would, which settles its start.

    Raises BadRecurrence for a schedule that could not do what it says.
    """
    now = database_now()
    begin = now
    if schedule._state.adding:
        schedule.scheduled_at = (schedule.scheduled_at or now).replace(microsecond=0)
        if schedule.scheduled_at >= now.replace(microsecond=0):
            begin = schedule.scheduled_at - MICROSECOND
    elif schedule.enabled and schedule.next_run_at is None:
        return []
    elif schedule.enabled:
        begin = schedule.next_run_at - MICROSECOND
    recurrence = checked(schedule)
    if schedule.schedule_x_times is not None:
        count = min(count, schedule.schedule_x_times - schedule.run_count)
    return list(islice(recurrence.after(begin), count))


def database_now() -> datetime:
    """PostgreSQL's time, by which alone schedules go."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


def _locked_schedule(schedule_id: UUID) -> TaskSchedule:
    return TaskSchedule.objects.select_for_update(no_key=True).get(id=schedule_id)


def _settle(schedule: TaskSchedule, *, begins_anew: bool) -> None:
    """Checks a changed schedule and gives it its next occurrence: the one it had, if it had one and still has."""
    recurrence = checked(schedule)
    after = schedule.next_run_at and schedule.next_run_at - MICROSECOND
    if begins_anew or after is None:
        after = database_now()
    schedule.next_run_at = _next(schedule, recurrence, after)
    schedule.last_error = ""


def _next(schedule: TaskSchedule, recurrence: Recurrence, after: datetime) -> datetime | None:
    """The next occurrence; None when the schedule has run as often as it should."""
    if schedule.schedule_x_times is not None and schedule.run_count >= schedule.schedule_x_times:
        return None
    return recurrence.next_after(after)


def _require_few_missed(schedule: TaskSchedule, recurrence: Recurrence) -> None:
    if schedule.misfire_policy != TaskSchedule.MisfirePolicy.ALL:
        return
    now = database_now()
    missed = takewhile(lambda at: at <= now, recurrence.after(recurrence.start - MICROSECOND))
    if len(list(islice(missed, MOST_BACKFILLED + 1))) > MOST_BACKFILLED:
        raise BadRecurrence(
            "scheduled_at",
            f"More than {MOST_BACKFILLED:,} occurrences since then would run at once; start later, or leave out what "
            "is missed (misfire_policy latest or skip).",
        )


def _task(schedule: TaskSchedule, scheduled_for: datetime | None) -> NewTask:
    return NewTask(
        a=schedule.a,
        b=schedule.b,
        operation=schedule.operation,
        priority=schedule.priority,
        owner=schedule.owner,
        schedule_id=schedule.id,
        scheduled_for=scheduled_for,
    )


# Firing


def fire_due(*, now: datetime | None = None) -> int:
    """Fires the schedules that are due, the longest overdue first, for about FIRING_SECONDS; answers how many tasks
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


def follow_beat() -> None:
    """Pauses and resumes the schedules whose PeriodicTasks were disabled or enabled in Beat's own admin.

    Asks only after something changed there, so that it costs nothing however many schedules there are. A schedule and
    its PeriodicTask are always written together, so where they differ it was someone else who wrote.
    """
    global _beat_followed_until
    changed_at = PeriodicTasks.last_change()
    if changed_at == _beat_followed_until:
        return
    changed = TaskSchedule.objects.exclude(enabled=F("periodic_task__enabled")).exclude(periodic_task=None)
    for schedule_id, enabled in changed.values_list("id", "periodic_task__enabled"):
        _follow(schedule_id, enabled)
    _beat_followed_until = changed_at


_beat_followed_until: datetime | None = None


def _follow(schedule_id: UUID, enabled: bool) -> None:
    try:
        set_enabled(schedule_id, enabled)
    except TaskSchedule.DoesNotExist:
        pass
    except BadRecurrence as error:
        # It cannot be resumed as it is: it stays paused, and so its PeriodicTask shows.
        with transaction.atomic():
            schedule = _locked_schedule(schedule_id)
            schedule.last_error = as_text(str(error), at_most=2_000)
            schedule.update_celery_beat_task()
            schedule.save()


def _fire_pass(which: Q, now: datetime | None) -> int | None:
    """Fires some of the due schedules in one transaction; answers how many tasks that made, or None if none is due."""
    time_now = Value(now) if now else Now()
    with transaction.atomic():
        due = list(
            TaskSchedule.objects.select_for_update(skip_locked=True, no_key=True)
            .filter(which, enabled=True, next_run_at__lte=time_now)
            .annotate(now=time_now)
            .order_by("next_run_at")[:SCHEDULES_A_PASS]
        )
        return _fire(due, due[0].now) if due else None


def _fire(schedules: Sequence[TaskSchedule], now: datetime) -> int:
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
    ahead = takewhile(lambda at: at <= now, recurrence.after(schedule.next_run_at - MICROSECOND))
    due = list(islice(ahead, OCCURRENCES_AT_ONCE))
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
    return min(max(LEAST_GRACE, (following - occurrence) / 10), MOST_GRACE) if following else MOST_GRACE


def _leave_out(firings: Iterable[Firing]) -> None:
    """Takes from what runs what must not: because of overlap, as a task already, or as one time too many."""
    busy = _with_unfinished_task(
        [firing.schedule.id for firing in firings if firing.schedule.overlap == TaskSchedule.Overlap.SKIP]
    )
    made = _made_already((firing.schedule.id, at) for firing in firings for at in firing.run)
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


def _with_unfinished_task(schedule_ids: Sequence[UUID]) -> set[UUID]:
    """Those of the schedules whose last task is still waiting or running."""
    if not schedule_ids:
        return set()
    last_task = Task.objects.filter(schedule=OuterRef("id")).order_by("-id")
    last_status = Subquery(last_task.values("job__status")[:1])
    schedules = TaskSchedule.objects.filter(id__in=schedule_ids).annotate(last_status=last_status)
    return set(schedules.filter(last_status__in=UNFINISHED).values_list("id", flat=True))


def _made_already(occurrences: Iterable[tuple[UUID, datetime]]) -> set[tuple[UUID, datetime]]:
    """Those of the occurrences that are tasks, as a backfill makes them. Their schedules are locked."""
    asked = [(str(schedule_id), at) for schedule_id, at in occurrences]
    if not asked:
        return set()
    with connection.cursor() as cursor:
        return set(execute_values(cursor.cursor, MADE_ALREADY, asked, page_size=len(asked), fetch=True))


def _create_tasks_of(firings: Sequence[Firing]) -> list[TaskSchedule]:
    """Makes the tasks together or, where that fails, schedule by schedule; answers those that failed, stopped."""
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
    tasks = [_task(firing.schedule, at) for firing in firings for at in firing.run]
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
    schedule.next_run_at = _next(schedule, firing.recurrence, after)


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
