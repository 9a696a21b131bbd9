"""What clients and the tick do with tasks and schedules."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice, takewhile
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from django_celery_beat.models import PeriodicTasks
from psycopg2.extras import execute_values

from orchestrator import submission
from orchestrator.ids import uuid7
from orchestrator.states import UNFINISHED
from orchestrator.storable import as_text
from scheduler.jobs import add
from scheduler.models import Task, TaskSchedule
from scheduler.recurrence import Recurrence, require_firing

logger = logging.getLogger(__name__)

# Schedules fired in one transaction, and occurrences of one schedule in one pass; the rest follows at once.
SCHEDULES_A_PASS = 500
OCCURRENCES_A_PASS = 1_000
# An occurrence older than this when it is fired was missed.
MISFIRE_GRACE = timedelta(seconds=30)
MICROSECOND = timedelta(microseconds=1)

INSERT_TASKS = """
INSERT INTO scheduler_task (id, owner, a, b, operation, priority, job_id, schedule_id, scheduled_for) VALUES %s
"""


class NotEnded(Exception):
    """The task is still waiting or running, so it cannot be run again yet."""

    def __init__(self, task: Task) -> None:
        super().__init__(f"The task {task.id} has not ended yet; run it again when it has, or cancel it first.")


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


def create_tasks(tasks: Sequence[NewTask]) -> list[UUID]:
    """Accepts the tasks, all or none, set-wise; answers their ids in order."""
    ids = [uuid7() for _ in tasks]
    with transaction.atomic():
        job_ids = submission.submit_many(
            add,
            [
                submission.Submission(
                    payload={"task_id": str(id), "a": str(task.a), "b": str(task.b)},
                    owner=task.owner,
                    priority=task.priority,
                )
                for id, task in zip(ids, tasks, strict=True)
            ],
        )
        rows = [
            (
                str(id), task.owner, task.a, task.b, task.operation, task.priority, str(job_id),
                task.schedule_id and str(task.schedule_id), task.scheduled_for,
            )
            for id, task, job_id in zip(ids, tasks, job_ids, strict=True)
        ]  # fmt: skip
        with connection.cursor() as cursor:
            execute_values(cursor.cursor, INSERT_TASKS, rows, page_size=1_000)
    return ids


def run_again(task_id: UUID) -> Task:
    """Adds the numbers of a task once more, which adds a result. Raises Task.DoesNotExist, or NotEnded."""
    with transaction.atomic():
        task = Task.objects.select_for_update(of=("self",)).select_related("job").get(id=task_id)
        if task.job.status in UNFINISHED:
            raise NotEnded(task)
        payload = {"task_id": str(task.id), "a": str(task.a), "b": str(task.b)}
        task.job = submission.submit(add, payload, owner=task.owner, priority=task.priority)
        task.updated_at = Now()
        task.save(update_fields=["job", "updated_at"])
    return Task.objects.select_related("job").get(id=task_id)


def save_schedule(schedule: TaskSchedule) -> None:
    """Writes a new or changed schedule with its first occurrence and its PeriodicTask.

    A schedule whose times changed goes on from now: what it missed by its old times is not made up for.

    Raises BadRecurrence for one that would never fire.
    """
    recurrence = schedule.recurrence
    require_firing(recurrence)
    with transaction.atomic():
        started = timezone.now() if schedule.run_count or not schedule._state.adding else None
        schedule.next_run_at = _next(schedule, recurrence, started)
        schedule.last_error = ""
        schedule.updated_at = Now()
        schedule.update_celery_beat_task()
        schedule.save()
    schedule.refresh_from_db()


def delete_schedule(schedule: TaskSchedule) -> None:
    """Deletes a schedule and its PeriodicTask; its tasks stay, and what is waiting still runs."""
    with transaction.atomic():
        schedule.delete_celery_beat_task()
        schedule.delete()


def set_enabled(schedule_id: UUID, enabled: bool) -> TaskSchedule:
    """Pauses or resumes a schedule. Resumed, it goes on with its next occurrence."""
    with transaction.atomic():
        schedule = TaskSchedule.objects.select_for_update(of=("self",)).get(id=schedule_id)
        if schedule.enabled != enabled:
            schedule.enabled = enabled
            if enabled:
                schedule.next_run_at = _next(schedule, schedule.recurrence, timezone.now())
            schedule.update_celery_beat_task()
            schedule.updated_at = Now()
            schedule.save()
    return TaskSchedule.objects.get(id=schedule_id)


def run_now(schedule_id: UUID) -> UUID:
    """Makes a task of the schedule at once, outside its recurrence and its count; answers the task's id."""
    schedule = TaskSchedule.objects.get(id=schedule_id)
    return create_tasks([_task(schedule, None)])[0]


def fire_due() -> int:
    """Fires every schedule that is due, in passes; answers how many occurrences became tasks.

    Any number of processes may do so at once: a schedule's row is locked by one of them, its occurrences and its next
    time are written together, and an occurrence can be a task only once.
    """
    fired = 0
    while True:
        with transaction.atomic():
            due = list(
                TaskSchedule.objects.select_for_update(skip_locked=True, of=("self",))
                .filter(enabled=True, next_run_at__lte=Now())
                .order_by("next_run_at")[:SCHEDULES_A_PASS]
            )
            if not due:
                return fired
            fired += _fire(due, timezone.now())


def fire_one(schedule_id: UUID) -> None:
    """Fires one schedule if it is due; its PeriodicTask's bell."""
    with transaction.atomic():
        due = TaskSchedule.objects.select_for_update(skip_locked=True, of=("self",)).filter(
            id=schedule_id, enabled=True, next_run_at__lte=Now()
        )
        _fire(list(due), timezone.now())


def follow_beat() -> None:
    """Pauses and resumes the schedules whose PeriodicTasks were disabled or enabled in Beat's own admin.

    Asks only after something changed there, so that it costs nothing however many schedules there are.
    """
    global _beat_followed_until
    changed_at = PeriodicTasks.last_change()
    if changed_at == _beat_followed_until:
        return
    changed = TaskSchedule.objects.exclude(periodic_task=None).exclude(enabled=F("periodic_task__enabled"))
    for schedule_id, enabled in changed.values_list("id", "periodic_task__enabled"):
        set_enabled(schedule_id, enabled)
    _beat_followed_until = changed_at


_beat_followed_until: datetime | None = None


def _fire(schedules: Sequence[TaskSchedule], now: datetime) -> int:
    """Makes tasks of what is due and moves the locked schedules on; one that cannot fire stops with its error."""
    busy = set(
        Task.objects.filter(
            schedule__in=[schedule.id for schedule in schedules if schedule.overlap == TaskSchedule.Overlap.SKIP],
            job__status__in=UNFINISHED,
        ).values_list("schedule_id", flat=True)
    )
    tasks: list[NewTask] = []
    for schedule in schedules:
        try:
            tasks += _due_tasks(schedule, now, is_busy=schedule.id in busy)
        except Exception as error:
            logger.exception("The schedule %s cannot fire and is stopped.", schedule.id)
            schedule.next_run_at = None
            schedule.last_error = as_text(f"{type(error).__name__}: {error}", at_most=2_000)
    create_tasks(tasks)
    TaskSchedule.objects.bulk_update(
        schedules, ["next_run_at", "last_run_at", "run_count", "missed_count", "last_error"], batch_size=500
    )
    return len(tasks)


def _due_tasks(schedule: TaskSchedule, now: datetime, *, is_busy: bool) -> list[NewTask]:
    """The tasks that the schedule's due occurrences come to under its policies; moves the schedule on past them."""
    recurrence = schedule.recurrence
    assert schedule.next_run_at
    due = list(
        takewhile(
            lambda at: at <= now, islice(recurrence.after(schedule.next_run_at - MICROSECOND), OCCURRENCES_A_PASS)
        )
    )
    if len(due) == OCCURRENCES_A_PASS and schedule.misfire_policy != TaskSchedule.MisfirePolicy.ALL:
        # So much was missed that only the last of it is looked for; what lies between is not counted one by one.
        due.append(recurrence.latest(now))
    to_run = _by_policy(schedule, due, now)
    if schedule.overlap == TaskSchedule.Overlap.SKIP:
        to_run = [] if is_busy else to_run[:1]
    if schedule.schedule_x_times is not None:
        to_run = to_run[: schedule.schedule_x_times - schedule.run_count]
    schedule.run_count += len(to_run)
    schedule.missed_count += len(due) - len(to_run)
    schedule.last_run_at = now if to_run else schedule.last_run_at
    schedule.next_run_at = _next(schedule, recurrence, due[-1])
    return [_task(schedule, at) for at in to_run]


def _by_policy(schedule: TaskSchedule, due: list[datetime], now: datetime) -> list[datetime]:
    match schedule.misfire_policy:
        case TaskSchedule.MisfirePolicy.ALL:
            return due
        case TaskSchedule.MisfirePolicy.LATEST:
            return due[-1:]
        case _:
            return [at for at in due[-1:] if now - at <= MISFIRE_GRACE]


def _next(schedule: TaskSchedule, recurrence: Recurrence, after: datetime | None) -> datetime | None:
    """The next occurrence, or the first; None when the schedule has run as often as it should."""
    if schedule.schedule_x_times is not None and schedule.run_count >= schedule.schedule_x_times:
        return None
    return recurrence.first() if after is None else recurrence.next_after(after)


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
