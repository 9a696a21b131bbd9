"""Tasks in the API: the options of requests, and the form of responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from orchestrator.http.fields import (
    AwareDateTimeField,
    LinkField,
    QueryIntegerField,
    StrictCharField,
    StrictChoiceField,
    StrictMultipleChoiceField,
    StrictSerializer,
    StrictUUIDField,
)
from orchestrator.http.links import link
from orchestrator.states import Status
from scheduler.http.numbers import NUMBER_SCHEMA, Number
from scheduler.jobs import shown
from scheduler.models import Task, TaskResult, TaskStatus
from scheduler.queries import STATUSES

if TYPE_CHECKING:
    from scheduler.queries import TaskDetail
    from scheduler.services.tasks import SubmittedTask


class TaskFilters(StrictSerializer):
    status = StrictMultipleChoiceField(
        choices=TaskStatus.choices,
        required=False,
        help_text="Any of these; may be repeated.",
    )
    schedule = StrictUUIDField(required=False, help_text="Created by this schedule.")
    priority = QueryIntegerField(required=False, min_value=0, max_value=9)
    owner = StrictCharField(required=False, max_length=150)
    created_after = AwareDateTimeField(required=False, help_text="Created at this time or later.")
    created_before = AwareDateTimeField(required=False, help_text="Created before this time.")


class BatchOptions(StrictSerializer):
    on_error = StrictChoiceField(
        choices=["refuse", "skip"],
        default="refuse",
        help_text="What to do with an invalid task: refuse the whole batch, or skip it and accept the others.",
    )


@extend_schema_serializer(component_name="TaskResult")
class TaskResultSerializer(serializers.Serializer[TaskResult]):
    id = serializers.UUIDField()
    result = Number()
    created_at = serializers.DateTimeField()


@extend_schema_serializer(component_name="Task")
class TaskSerializer(serializers.Serializer["TaskDetail"]):
    """Two numbers to add, and what came of it."""

    url = LinkField()
    id = serializers.UUIDField()
    a = Number()
    b = Number()
    operation = serializers.CharField(allow_null=True, help_text="As it was sent; null if a and b were sent.")
    priority = serializers.IntegerField(help_text="0 is the most urgent, 9 the least.")
    owner = serializers.CharField()
    status = serializers.ChoiceField(choices=TaskStatus.choices)
    result = serializers.SerializerMethodField(help_text="The latest; null if there is none yet.")
    failed_message = serializers.CharField(allow_null=True, help_text="The error of the last failed attempt, if any.")
    celery_task_id = serializers.CharField(
        allow_null=True, help_text="The id of its latest run in Flower; null until it runs."
    )
    schedule = serializers.UUIDField(allow_null=True, help_text="The schedule that created it, even if deleted since.")
    scheduled_for = serializers.DateTimeField(allow_null=True, help_text="The occurrence of its schedule.")
    job = LinkField(help_text="GET: the job of its latest run.")
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()

    @extend_schema_field(NUMBER_SCHEMA | {"type": ["integer", "number", "string", "null"]})
    def get_result(self, task: Task) -> Any:
        return None

    def to_representation(self, task: TaskDetail) -> dict[str, Any]:
        return representation_of(task)


def representation_of(task: TaskDetail | SubmittedTask) -> dict[str, Any]:
    """The task as `TaskSerializer` declares it."""
    job = task.job
    return {
        "url": link("task", task.id),
        "id": task.id,
        "a": shown(task.a),
        "b": shown(task.b),
        "operation": task.operation or None,
        "priority": task.priority,
        "owner": task.owner,
        "status": STATUSES[Status(job.status)].value,
        "result": None if task.latest_result is None else shown(task.latest_result),
        "failed_message": job.error or None,
        "celery_task_id": job.celery_task_id or None,
        "schedule": task.schedule_id,
        "scheduled_for": task.scheduled_for,
        "job": link("job", task.job_id),
        "created_at": task.created_at,
        "updated_at": max(task.updated_at, job.updated_at),
    }


@extend_schema_serializer(component_name="TaskWithResults")
class TaskDetailSerializer(TaskSerializer):
    """A task and what its runs came to."""

    results = TaskResultSerializer(many=True, help_text="Newest first, at most a hundred.")

    def to_representation(self, task: TaskDetail) -> dict[str, Any]:
        results = [
            {"id": result.id, "result": shown(result.result), "created_at": result.created_at}
            for result in task.newest_results
        ]
        return super().to_representation(task) | {"results": results}


class AcceptedTask(serializers.Serializer[Any]):
    index = serializers.IntegerField(help_text="Its index in the batch.")
    id = serializers.UUIDField()
    url = LinkField()
    status = serializers.CharField(help_text="PENDING.")


class RejectedTask(serializers.Serializer[Any]):
    pointer = serializers.CharField(help_text="The place of the error, as a JSON pointer (RFC 6901).")
    code = serializers.CharField(help_text="Machine-readable.")
    detail = serializers.CharField(help_text="Human-readable.")


class AcceptedBatch(serializers.Serializer[Any]):
    """What became of a batch."""

    accepted = serializers.IntegerField()
    rejected = serializers.IntegerField(help_text="0 unless on_error=skip.")
    tasks = AcceptedTask(many=True, help_text="The accepted tasks, in the order of the batch.")
    errors = RejectedTask(  # type: ignore[assignment] # Its name, which clients know.
        many=True, help_text="One for each task rejected, up to a thousand."
    )
