"""The endpoints of tasks: each translates a request and makes one call."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import owner_of, require_visible, with_owners
from orchestrator import client_limits
from orchestrator.http import openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.fields import NoFields
from orchestrator.http.idempotency import idempotent, idempotent_transaction
from orchestrator.http.links import links, location
from orchestrator.http.openapi import IDEMPOTENCY_KEY, LOCATION, example, problems
from orchestrator.http.pagination import NewestFirst
from orchestrator.http.parsers import ExactJSONParser
from orchestrator.http.requests import BadInput, body_bytes, read_body, read_id, read_query
from scheduler import queries
from scheduler.http import examples
from scheduler.http.components import BATCH, NEW_TASK
from scheduler.http.new_tasks import read_batch, read_task, truncate_errors
from scheduler.http.task_serializers import (
    AcceptedBatch,
    BatchOptions,
    TaskDetailSerializer,
    TaskFilters,
    TaskSerializer,
    representation_of,
)
from scheduler.models import Task, TaskStatus
from scheduler.services.schedule_limits import check_run_again
from scheduler.services.tasks import SubmittedTask, cancel_task, create_task, create_tasks, run_again

TASK_ID = openapi.path_parameter("task_id", "The task's id, a UUID.", format="uuid")


class TasksView(APIView):
    submits = True
    pagination_class = NewestFirst
    parser_classes = (ExactJSONParser,)

    @extend_schema(
        operation_id="add",
        tags=["tasks"],
        summary="Add two numbers",
        description="Give `a` and `b`, or `operation`. Numbers are taken exactly as they are written.",
        parameters=[IDEMPOTENCY_KEY, LOCATION],
        request={"application/json": NEW_TASK},
        responses={
            202: OpenApiResponse(TaskSerializer, "Accepted; it will reach a final state."),
            **problems(413, 415, 422),
        },
        examples=[example(None, name, body) for name, body in examples.NEW_TASKS.items()]
        + [example(202, "Accepted", examples.NEW_TASK)],
    )
    @idempotent_transaction
    def post(self, request: Request) -> Response:
        owner, limits = owner_of(request.user), client_limits.limits_of(request.user)
        new = read_task(request.data, owner=owner, limits=limits)
        client_limits.check_quotas({owner: 1}, limits, stored=body_bytes(request))
        return accepted(request, create_task(new))

    @extend_schema(
        operation_id="list_tasks",
        tags=["tasks"],
        summary="List tasks, newest first",
        parameters=[TaskFilters],
        responses={(200, "application/json"): TaskSerializer(many=True), **problems()},
        examples=[example(200, "Tasks", examples.TASK)],
    )
    def get(self, request: Request) -> Response:
        filters = with_owners(request.user, read_query(TaskFilters, request))
        tasks = queries.filtered_tasks(queries.visible_tasks(request.user), filters)
        return NewestFirst().respond(queries.with_details(tasks), request, TaskSerializer)


class TaskView(APIView):
    @extend_schema(
        operation_id="task",
        tags=["tasks"],
        summary="Get a task with its results",
        description="Reading a failed task is still a 200.",
        parameters=[TASK_ID],
        responses={200: TaskDetailSerializer, **problems(404)},
        examples=[example(200, "Done", examples.TASK_WITH_RESULTS)],
    )
    def get(self, request: Request, task_id: str) -> Response:
        id = read_id(task_id=task_id)
        task = queries.task_detail(request.user, id)
        return Response(TaskDetailSerializer(task).data)

    @extend_schema(
        operation_id="cancel_task",
        tags=["tasks"],
        summary="Cancel a task that is waiting",
        parameters=[TASK_ID],
        responses={204: OpenApiResponse(description="It is CANCELLED."), **problems(404, 409)},
    )
    def delete(self, request: Request, task_id: str) -> Response:
        id = read_id(task_id=task_id)
        require_visible(request.user, Task, id, to="scheduler.cancel_task")
        cancel_task(id)
        return Response(status=204)


class RunView(APIView):
    @extend_schema(
        operation_id="run_task",
        tags=["tasks"],
        summary="Run a task again",
        description="The task must have ended, in any way. The run adds a result.",
        parameters=[TASK_ID, IDEMPOTENCY_KEY, LOCATION],
        request=NoFields,
        responses={
            202: OpenApiResponse(TaskSerializer, "It waits for its next run."),
            **problems(404, 409, 413, 415, 422),
        },
        examples=[example(202, "Accepted", examples.TASK | {"status": "PENDING"})],
    )
    @idempotent
    def post(self, request: Request, task_id: str) -> Response:
        id = read_id(task_id=task_id)
        read_body(NoFields, request)
        require_visible(request.user, Task, id, to="scheduler.retry_task")
        check_run_again(request.user, id)
        run_again(id)
        return accepted(request, queries.task_detail(request.user, id))


class BatchView(APIView):
    submits = True
    parser_classes = (ExactJSONParser,)

    @extend_schema(
        operation_id="add_many",
        tags=["tasks"],
        summary="Add up to 10,000 pairs of numbers",
        description="All or none: one invalid task refuses the batch, and `errors` has one entry for each invalid "
        "one, up to a thousand. With `on_error=skip` the valid ones are accepted, unless there are none.",
        parameters=[BatchOptions, IDEMPOTENCY_KEY],
        request={"application/json": BATCH},
        responses={
            202: OpenApiResponse(AcceptedBatch, "Accepted; the ids are in the order of the batch."),
            **problems(413, 415, 422),
        },
        examples=[
            example(None, "Bare", examples.BATCH),
            example(None, "Named", {"tasks": examples.BATCH}),
            example(202, "Accepted", examples.ACCEPTED_BATCH),
        ],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        skips = read_query(BatchOptions, request)["on_error"] == "skip"
        owner, limits = owner_of(request.user), client_limits.limits_of(request.user)
        batch = read_batch(request.data, owner=owner, limits=limits)
        client_limits.check_quotas({owner: len(batch.tasks)}, limits, stored=body_bytes(request))
        errors = truncate_errors(batch.problems, of=len(batch.tasks) + len(batch.problems))
        if errors and not (skips and batch.tasks):
            raise BadInput("", errors)
        ids = [*map(str, create_tasks(batch.tasks))]
        accepted_tasks = [
            {"index": index, "id": id, "url": url, "status": TaskStatus.PENDING.value}
            for index, id, url in zip(batch.indexes, ids, links("task", ids), strict=True)
        ]
        shown_errors = [error._asdict() for error in errors]
        return Response(
            {"accepted": len(ids), "rejected": len(batch.problems), "tasks": accepted_tasks, "errors": shown_errors},
            status=202,
        )


class ShortBatchView(BatchView):
    """The same by its short name, which is documented with the long one."""

    schema = None


def accepted(request: Request, task: queries.TaskDetail | SubmittedTask) -> Response:
    shown = representation_of(task)
    return Response(shown, status=202, headers=location(request, shown["url"]))
