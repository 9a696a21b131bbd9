"""What can be done with tasks: create them, run them again, cancel them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.db.models.functions import Now

from access import audit
from orchestrator import submission
from orchestrator.copying import NULL, as_fields, copy_lines
from orchestrator.failpoints import Failpoint
from orchestrator.ids import texts_of, uuid7, uuids7
from orchestrator.models import Job
from orchestrator.states import UNFINISHED, Status
from orchestrator.submission import Occurrence
from scheduler.jobs import Addition, add
from scheduler.models import Task

jobs_without_tasks = Failpoint("jobs-without-tasks")

# Tasks as they are accepted. They are copied, as their jobs are.
COPY = """
COPY scheduler_task (id, job_id, owner, operation, a, b, priority, schedule_id, scheduled_for) FROM STDIN
"""
# One task, written in one message with its job.
INSERT_ONE = """
INSERT INTO scheduler_task (id, owner, a, b, operation, priority, job_id, schedule_id, scheduled_for)
VALUES (
    %(id)s, %(owner)s, %(a)s, %(b)s, %(operation)s, %(priority)s, %(job_id)s, %(schedule_id)s, %(scheduled_for)s
)
RETURNING created_at
"""


class NotEnded(Exception):
    """The task is still waiting or running, so it cannot be run again yet."""

    def __init__(self, task: Task) -> None:
        super().__init__(f"The task {task.id} has not ended yet; run it again when it has, or cancel it first.")


class NotPending(Exception):
    """The task has ended already, so it cannot be cancelled."""

    def __init__(self, task: Task) -> None:
        super().__init__(f"The task {task.id} has already ended; only a PENDING task can be cancelled.")


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """Two numbers someone asked to be added, checked."""

    a: Decimal
    b: Decimal
    operation: str = ""
    priority: int = 5
    owner: str = ""
    schedule_id: UUID | None = None
    scheduled_for: datetime | None = None
    # Not before then.
    run_at: datetime | None = None

    @property
    def occurrence(self) -> Occurrence | None:
        return Occurrence(self.schedule_id, self.scheduled_for) if self.schedule_id else None


class SubmittedJob(msgspec.Struct, frozen=True):
    """The job of a task that has just been accepted, as far as it is shown with it."""

    updated_at: datetime
    status: Status = Status.CREATED
    error: str = ""
    celery_task_id: str = ""


class SubmittedTask(msgspec.Struct, frozen=True):
    """A task that has just been accepted, with what `queries.task_detail` would find: nobody has touched it yet."""

    id: UUID
    owner: str
    a: Decimal
    b: Decimal
    operation: str
    priority: int
    job_id: UUID
    schedule_id: UUID | None
    scheduled_for: datetime | None
    created_at: datetime
    updated_at: datetime
    job: SubmittedJob
    latest_result: None = None


def create_task(new: NewTask) -> SubmittedTask:
    """Accepts a task, and returns it without reading it, or making rows of Django's, which takes as long."""
    id = uuid7()
    columns = msgspec.structs.asdict(new) | {"id": str(id), "schedule_id": new.schedule_id and str(new.schedule_id)}
    columns.pop("run_at")
    with connection.cursor() as cursor:
        job_id = submission.submit_beside(cursor, add, _submission(id, new), INSERT_ONE, columns)
        [created_at] = cursor.fetchone()
    columns |= {"id": id, "schedule_id": new.schedule_id}
    return SubmittedTask(
        **columns, job_id=job_id, created_at=created_at, updated_at=created_at, job=SubmittedJob(created_at)
    )


def create_tasks(tasks: Sequence[NewTask]) -> list[UUID]:
    """Accepts the tasks, all or none, set-wise; returns their ids in order."""
    ids = uuids7(len(tasks))
    with transaction.atomic(savepoint=False):
        job_ids = submission.submit_many(add, [_submission(id, task) for id, task in zip(ids, tasks, strict=True)])
        jobs_without_tasks()
        owners, operations = as_fields([task.owner for task in tasks]), as_fields([task.operation for task in tasks])
        columns = zip(texts_of(ids), texts_of(job_ids), owners, operations, tasks, strict=True)
        lines = [
            f"{id}\t{job_id}\t{owner}\t{operation}\t{task.a}\t{task.b}\t{task.priority}"
            f"\t{task.schedule_id or NULL}\t{task.scheduled_for or NULL}"
            for id, job_id, owner, operation, task in columns
        ]
        copy_lines(COPY, lines)
    return ids


def _submission(id: UUID, task: NewTask) -> submission.Submission:
    return submission.Submission(
        payload=Addition(id, task.a, task.b),
        owner=task.owner,
        priority=task.priority,
        run_at=task.run_at,
        occurrence=task.occurrence,
    )


def run_again(task_id: UUID) -> None:
    """Adds the numbers of a task once more, which adds a result. Raises Task.DoesNotExist, or NotEnded."""
    with transaction.atomic():
        task = _locked_task(task_id)
        if task.job.status in UNFINISHED:
            raise NotEnded(task)
        # As an occurrence it has run, so the job is only one of its schedule's.
        occurrence = Occurrence(task.schedule_id) if task.schedule_id else None
        task.job = submission.submit(
            add, Addition(task.id, task.a, task.b), owner=task.owner, priority=task.priority, occurrence=occurrence
        )
        task.updated_at = Now()
        task.save(update_fields=["job", "updated_at"])
        audit.record("task.retry", task_id, task)


def cancel_task(task_id: UUID) -> None:
    """Cancels a task that is waiting. Raises Task.DoesNotExist, or NotPending."""
    with transaction.atomic():
        task = _locked_task(task_id)
        if task.job.status not in UNFINISHED:
            raise NotPending(task)
        submission.cancel(task.job_id, action="task.cancel", of=task_id)


def _locked_task(task_id: UUID) -> Task:
    """The task and its job, locked in that order. A batch that holds the job may still write the task's result, since
    its foreign key asks for no more than the task's id: so nobody waits in a circle.
    """
    task = Task.objects.select_for_update(no_key=True).get(id=task_id)
    task.job = Job.objects.select_for_update().get(id=task.job_id)
    return task
