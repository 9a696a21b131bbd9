"""Reads: which tasks and schedules someone sees, and tasks as they are shown."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import OuterRef, QuerySet, Subquery

from orchestrator.models import Job
from orchestrator.queries import User, created_between, sees_everything, sight_of
from orchestrator.states import Status
from scheduler.models import Task, TaskResult, TaskSchedule, TaskStatus

# A task's status is its job's, in the words of tasks.
STATUSES = {
    Status.CREATED: TaskStatus.PENDING,
    Status.RUNNING: TaskStatus.PENDING,
    Status.COMPLETED: TaskStatus.SUCCESS,
    Status.FAILED: TaskStatus.FAILED,
    Status.CANCELLED: TaskStatus.CANCELLED,
}
# Results shown of one task: the newest.
MOST_RESULTS = 100
# What is told of a task, its job and its results, each in the order of the columns.
TASK = [field.attname for field in Task._meta.concrete_fields]
JOB = ["id", "status", "error", "celery_task_id", "updated_at"]
RESULT = ["id", "created_at", "result"]
# A task with its job, a row for each of its results, the newest first; one row without a result if there is none.
SHOWN_TASK = f"""
SELECT {", ".join([f"task.{name}" for name in TASK] + [f"job.{name}" for name in JOB])}, result.*
FROM scheduler_task task
JOIN orchestrator_job job ON job.id = task.job_id
LEFT JOIN LATERAL (
    SELECT {", ".join(RESULT)} FROM scheduler_taskresult WHERE task_id = task.id ORDER BY id DESC LIMIT {MOST_RESULTS}
) AS result ON true
WHERE task.id = %(id)s AND (%(sees_everything)s OR task.owner = %(owner)s)
ORDER BY result.id DESC
"""  # noqa: S608 It is made of constants.


def visible_tasks(user: User) -> QuerySet[Task]:
    """The tasks the user may see and touch."""
    return _visible(Task.objects.all(), user)


def visible_schedules(user: User) -> QuerySet[TaskSchedule]:
    """The schedules the user may see and touch."""
    return _visible(TaskSchedule.objects.all(), user)


def _visible(rows: QuerySet[Any], user: User) -> QuerySet[Any]:
    if sees_everything(user):
        return rows
    return rows.filter(owner=user.get_username()) if user.is_authenticated else rows.none()


def require_visible_task(user: User, task_id: UUID) -> None:
    """Raises Task.DoesNotExist for a task that is not there as far as the user may know."""
    visible_tasks(user).only("id").get(id=task_id)


def require_visible_schedule(user: User, schedule_id: UUID) -> None:
    """Raises TaskSchedule.DoesNotExist for a schedule that is not there as far as the user may know."""
    visible_schedules(user).only("id").get(id=schedule_id)


def shown_tasks(tasks: QuerySet[Task]) -> QuerySet[Task]:
    """The tasks with their jobs and their latest results, in the one statement that reads them."""
    results = TaskResult.objects.filter(task=OuterRef("id")).order_by("-id")
    return (
        tasks.select_related("job")
        .defer("job__payload", "job__result", "job__progress_message")
        .annotate(latest_result=Subquery(results.values("result")[:1]))
    )


def shown_task(user: User, task_id: UUID) -> Task:
    """The task with all that is told of it; raises Task.DoesNotExist as `require_visible_task` does."""
    with connection.cursor() as cursor:
        cursor.execute(SHOWN_TASK, {"id": task_id} | sight_of(user))
        rows = cursor.fetchall()
    if not rows:
        raise Task.DoesNotExist
    task = Task.from_db(connection.alias, TASK, rows[0][: len(TASK)])
    task.job = Job.from_db(connection.alias, JOB, rows[0][len(TASK) : -len(RESULT)])
    results = [TaskResult.from_db(connection.alias, RESULT, row[-len(RESULT) :]) for row in rows]
    task.newest_results = [result for result in results if result.id]
    task.latest_result = results[0].result
    return task


def filtered_tasks(tasks: QuerySet[Task], filters: dict[str, Any]) -> QuerySet[Task]:
    """The tasks that fit: status (any of some), schedule, priority, owner, created_after, created_before."""
    if statuses := filters.get("status"):
        tasks = tasks.filter(job__status__in=_job_statuses(statuses))
    exact = {name: filters[name] for name in ("schedule", "priority", "owner") if name in filters}
    return created_between(tasks.filter(**exact), filters.get("created_after"), filters.get("created_before"))


def _job_statuses(statuses: Collection[str]) -> list[Status]:
    return [status for status, shown in STATUSES.items() if shown in statuses]
