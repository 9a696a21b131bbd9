"""Reads: which tasks and schedules someone sees, and tasks as they are shown."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from django.db import connection
from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import Now

from access.permissions import User, is_visible, require, visibility_params, visible
from orchestrator.models import Job
from orchestrator.queries import created_between
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
# Due schedules are fired by the next tick, and a great many of them within some more.
OVERDUE = timedelta(minutes=1)
# Results shown of one task: the newest.
MAX_RESULTS = 100
# What is shown of a task, its job and its results, each in the order of the columns.
TASK = [field.attname for field in Task._meta.concrete_fields]
JOB = ["id", "status", "error", "celery_task_id", "updated_at"]
RESULT = ["created_at", "id", "result"]
# A task with its job, a row for each of its results, the newest first; one row without a result if there is none.
TASK_DETAIL = f"""
SELECT {", ".join([f"task.{name}" for name in TASK] + [f"job.{name}" for name in JOB])}, result.*
FROM scheduler_task task
JOIN orchestrator_job job ON job.id = task.job_id
LEFT JOIN LATERAL (
    SELECT {", ".join(RESULT)} FROM scheduler_taskresult WHERE task_id = task.id ORDER BY id DESC LIMIT {MAX_RESULTS}
) AS result ON true
WHERE task.id = %(id)s AND {is_visible("task")}
ORDER BY result.id DESC
"""  # noqa: S608 It is made of constants.


if TYPE_CHECKING:

    class TaskDetail(Task):
        """A task as `task_detail` and `with_details` read it."""

        latest_result: Decimal | None
        newest_results: list[TaskResult]


def overdue_schedules() -> QuerySet[TaskSchedule]:
    """Those that the tick should have fired, the longest due first."""
    return TaskSchedule.objects.filter(enabled=True, next_run_at__lt=Now() - OVERDUE).order_by("next_run_at")


def stopped_schedules() -> QuerySet[TaskSchedule]:
    """Those that have stopped because of an error."""
    return TaskSchedule.objects.filter(enabled=True, next_run_at=None).exclude(last_error="").order_by("id")


def held_schedules() -> QuerySet[TaskSchedule]:
    """Those whose occurrences have been held back by the limits of their owners for a while, the longest first."""
    return TaskSchedule.objects.filter(enabled=True, held_since__lt=Now() - OVERDUE).order_by("held_since")


def visible_tasks(user: User) -> QuerySet[Task]:
    """The tasks the user may see."""
    return visible(Task.objects.all(), user)


def visible_schedules(user: User) -> QuerySet[TaskSchedule]:
    """The schedules the user may see."""
    return visible(TaskSchedule.objects.all(), user)


def visible_schedule(user: User, schedule_id: UUID, *, to: str = "") -> TaskSchedule:
    """The schedule. Raises TaskSchedule.DoesNotExist for one that is not there as far as the user may know, and
    NotPermitted for another's if the user lacks the permission `to` do something to it.
    """
    schedule = visible_schedules(user).get(id=schedule_id)
    if to:
        require(user, schedule.owner, to)
    return schedule


def with_details(tasks: QuerySet[Task]) -> QuerySet[TaskDetail]:
    """The tasks with their jobs and their latest results, in the one statement that reads them."""
    results = TaskResult.objects.filter(task=OuterRef("id")).order_by("-id")
    found = tasks.select_related("job").defer("job__payload", "job__result", "job__progress_message")
    return cast("QuerySet[TaskDetail]", found.annotate(latest_result=Subquery(results.values("result")[:1])))


def task_detail(user: User, task_id: UUID) -> TaskDetail:
    """The task with all that is shown of it; raises Task.DoesNotExist if the user may not see it."""
    with connection.cursor() as cursor:
        cursor.execute(TASK_DETAIL, {"id": task_id} | visibility_params(user, Task))
        rows = cursor.fetchall()
    if not rows:
        raise Task.DoesNotExist
    task = cast("TaskDetail", Task.from_db(connection.alias, TASK, rows[0][: len(TASK)]))
    task.job = Job.from_db(connection.alias, JOB, rows[0][len(TASK) : -len(RESULT)])
    results = [TaskResult.from_db(connection.alias, RESULT, row[-len(RESULT) :]) for row in rows]
    task.newest_results = [result for result in results if result.id]
    task.latest_result = results[0].result
    return task


def filtered_tasks(tasks: QuerySet[Task], filters: dict[str, Any]) -> QuerySet[Task]:
    """The tasks that fit: status (any of some), schedule, priority, owner__in, created_after, created_before."""
    if statuses := filters.get("status"):
        tasks = tasks.filter(job__status__in=_job_statuses(statuses))
    exact = {name: filters[name] for name in ("schedule", "priority", "owner__in") if name in filters}
    return created_between(tasks.filter(**exact), filters.get("created_after"), filters.get("created_before"))


def _job_statuses(statuses: Collection[str]) -> list[Status]:
    return [status for status, shown in STATUSES.items() if shown in statuses]
