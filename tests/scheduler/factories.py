"""What tests of the scheduler work with: schedules and tasks, moments, and a worker that adds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now
from django_celery_beat.models import PeriodicTask

from orchestrator.claimed import Claimed
from orchestrator.models import Job
from orchestrator.queue import claims
from orchestrator.worker import batches
from orchestrator.worker.process import WorkerProcess
from scheduler.jobs import add
from scheduler.models import Task, TaskSchedule
from scheduler.services.schedules import create_schedule
from scheduler.services.tasks import NewTask, create_tasks
from tests.moves import put

# Far ahead: whatever the clock says, tests move a time of their own on from here.
MONDAY = datetime(2096, 4, 2, 12, 0, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


def make_schedule(start: datetime = MONDAY, **columns: Any) -> TaskSchedule:
    """A schedule that has not run yet, every minute from its start if nothing else is said."""
    if not {"interval", "every_x_days", "every_x_hours", "cron", "rrule"} & columns.keys():
        columns["interval"] = 60
    schedule = TaskSchedule(scheduled_at=start, **{"a": Decimal(1), "b": Decimal(2)} | columns)
    create_schedule(schedule)
    return schedule


def make_job_schedule(start: datetime = MONDAY, **columns: Any) -> TaskSchedule:
    """A schedule of demo jobs, every minute from its start if nothing else is said."""
    work = {"kind": "demo.slices", "payload": {"slices": 1}, "a": None, "b": None}
    return make_schedule(start, **work | columns)


def make_task(**columns: Any) -> Task:
    [id] = create_tasks([NewTask(**{"a": Decimal(1), "b": Decimal(2)} | columns)])
    return Task.objects.select_related("job").get(id=id)


def occurrences(schedule: TaskSchedule) -> list[datetime]:
    """Those that became tasks."""
    times = Task.objects.filter(schedule=schedule.id).order_by("scheduled_for").values_list("scheduled_for", flat=True)
    return [scheduled_for for scheduled_for in times if scheduled_for]


def periodic_task(schedule: TaskSchedule) -> PeriodicTask:
    """The schedule's row in django-celery-beat, as it is now."""
    return PeriodicTask.objects.get(taskschedule=schedule.id)


def again(schedule: TaskSchedule) -> TaskSchedule:
    """The schedule as it is now."""
    return TaskSchedule.objects.get(id=schedule.id)


def end(*task_ids: UUID) -> None:
    """Lets the tasks end, as if workers had run them; all of them if none is named."""
    jobs = Job.objects.filter(id__in=Task.objects.filter(id__in=task_ids).values("job")) if task_ids else Job.objects
    put(jobs.filter(ready=True), status="COMPLETED", ready=False, finished_at=Now())


def run_locked(jobs: Sequence[Claimed]) -> None:
    """Runs a batch that this transaction has locked."""
    batches.run_locked(add, jobs, WorkerProcess("tester@here", ["default"]))


def run_all() -> None:
    """Runs what waits, in the order and in the batches in which a worker would."""
    while True:
        with transaction.atomic():
            jobs = claims.lock_ready(add, worker_id=0)
            if not jobs:
                return
            run_locked(jobs)
