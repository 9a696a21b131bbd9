"""The scheduler's endpoints: each translates a request and makes one call."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from config import openapi
from config.api import BadInput, ExactJSONParser, NewestFirst, read_body, read_id, read_query
from config.links import link, root_of
from config.openapi import IDEMPOTENCY_KEY, LOCATION, LOCATION_OF_NEW, example, problems
from orchestrator.idempotency import answered_once
from orchestrator.serializers import NoFields
from scheduler import examples, queries, serializers, services
from scheduler.models import Task, TaskSchedule, TaskStatus

TASK_ID = openapi.path_parameter("task_id", "The task's id, a UUID.", format="uuid")
SCHEDULE_ID = openapi.path_parameter("schedule_id", "The schedule's id, a UUID.", format="uuid")


class TasksView(APIView):
    pagination_class = NewestFirst
    parser_classes = (ExactJSONParser,)

    @extend_schema(
        operation_id="add",
        tags=["tasks"],
        summary="Add two numbers",
        description="Give `a` and `b`, or `operation`. Numbers are taken exactly as they are written.",
        parameters=[IDEMPOTENCY_KEY, LOCATION],
        request={"application/json": serializers.NEW_TASK_SCHEMA},
        responses={
            202: OpenApiResponse(serializers.ShownTask, "Accepted; it will reach a final state."),
            **problems(400, 403, 413, 415, 422),
        },
        examples=[example(None, name, body) for name, body in examples.NEW_TASKS.items()]
        + [example(202, "Accepted", examples.NEW_TASK)],
    )
    @answered_once
    def post(self, request: Request) -> Response:
        new = serializers.read_task(request.data, owner=_owner(request))
        return _accepted(request, services.create_task(new))

    @extend_schema(
        operation_id="list_tasks",
        tags=["tasks"],
        summary="List tasks, newest first",
        parameters=[serializers.TaskFilters],
        responses={(200, "application/json"): serializers.ShownTask(many=True), **problems(400)},
        examples=[example(200, "Tasks", examples.TASK)],
    )
    def get(self, request: Request) -> Response:
        filters = read_query(serializers.TaskFilters, request)
        tasks = queries.filtered_tasks(queries.visible_tasks(request.user), filters)
        pages = NewestFirst()
        page = pages.paginate_queryset(queries.shown_tasks(tasks), request)
        return pages.get_paginated_response(serializers.ShownTask(page, many=True, context=_context(request)).data)


class TaskView(APIView):
    @extend_schema(
        operation_id="task",
        tags=["tasks"],
        summary="See a task with its results",
        description="A task that failed is still a 200 when read.",
        parameters=[TASK_ID],
        responses={200: serializers.ShownTaskWithResults, **problems(400, 404)},
        examples=[example(200, "Done", examples.TASK_WITH_RESULTS)],
    )
    def get(self, request: Request, task_id: str) -> Response:
        id = read_id(task_id=task_id)
        task = queries.shown_task(request.user, id)
        return Response(serializers.ShownTaskWithResults(task, context=_context(request)).data)

    @extend_schema(
        operation_id="cancel_task",
        tags=["tasks"],
        summary="Cancel a task that is waiting",
        parameters=[TASK_ID],
        responses={204: OpenApiResponse(description="It is CANCELLED."), **problems(400, 403, 404, 409)},
    )
    def delete(self, request: Request, task_id: str) -> Response:
        id = read_id(task_id=task_id)
        queries.require_visible_task(request.user, id)
        services.cancel_task(id)
        return Response(status=204)


class RunView(APIView):
    @extend_schema(
        operation_id="run_task",
        tags=["tasks"],
        summary="Run a task again",
        description="Of a task that has ended, however it did. It adds a result.",
        parameters=[TASK_ID, IDEMPOTENCY_KEY, LOCATION],
        request=NoFields,
        responses={
            202: OpenApiResponse(serializers.ShownTask, "It waits for its next run."),
            **problems(400, 403, 404, 409, 413, 415, 422),
        },
        examples=[example(202, "Accepted", examples.TASK | {"status": "PENDING"})],
    )
    @answered_once
    def post(self, request: Request, task_id: str) -> Response:
        id = read_id(task_id=task_id)
        read_body(NoFields, request)
        queries.require_visible_task(request.user, id)
        services.run_again(id)
        return _accepted(request, queries.shown_task(request.user, id))


class BatchView(APIView):
    parser_classes = (ExactJSONParser,)

    @extend_schema(
        operation_id="add_many",
        tags=["tasks"],
        summary="Add up to 10,000 pairs of numbers",
        description="All or none: one bad task refuses the batch, and `errors` has one entry for each bad one, up "
        "to a thousand. With `on_error=skip` the good ones are accepted, unless there are none.",
        parameters=[serializers.BatchOptions, IDEMPOTENCY_KEY],
        request={"application/json": serializers.BATCH_SCHEMA},
        responses={
            202: OpenApiResponse(serializers.AcceptedBatch, "Accepted; the ids are in the order of the batch."),
            **problems(400, 403, 413, 415, 422),
        },
        examples=[
            example(None, "Bare", examples.BATCH),
            example(None, "Named", {"tasks": examples.BATCH}),
            example(202, "Accepted", examples.ACCEPTED_BATCH),
        ],
    )
    @answered_once
    def post(self, request: Request) -> Response:
        skips = read_query(serializers.BatchOptions, request)["on_error"] == "skip"
        batch = serializers.read_batch(request.data, owner=_owner(request))
        errors = serializers.told(batch.problems, of=len(batch.tasks) + len(batch.problems))
        if errors and not (skips and batch.tasks):
            raise BadInput("", errors)
        ids = services.create_tasks(batch.tasks)
        root = root_of(request)
        accepted = [
            {"index": index, "id": str(id), "url": link(root, "task", id), "status": TaskStatus.PENDING.value}
            for index, id in zip(batch.indexes, ids, strict=True)
        ]
        shown_errors = [error._asdict() for error in errors]
        return Response(
            {"accepted": len(ids), "rejected": len(batch.problems), "tasks": accepted, "errors": shown_errors},
            status=202,
        )


class ShortBatchView(BatchView):
    """The same by its short name, which is documented with the long one."""

    schema = None


class SchedulesView(APIView):
    pagination_class = NewestFirst
    parser_classes = (ExactJSONParser,)

    @extend_schema(
        operation_id="create_schedule",
        tags=["schedules"],
        summary="Add two numbers again and again",
        description="Exactly one recurrence: `interval`, `every_x_days` and/or `every_x_hours`, `cron` or `rrule`. "
        "Rules that speak of days or times of day follow the clocks of `timezone`: a local time that the clocks skip "
        "runs at the first valid instant after it, one that they repeat runs once, the first time. Seconds and hours "
        "alone are elapsed time.",
        parameters=[IDEMPOTENCY_KEY, LOCATION_OF_NEW],
        request=serializers.ScheduleBody,
        responses={201: serializers.ShownSchedule, **problems(400, 403, 413, 415, 422)},
        examples=[example(None, name, body) for name, body in examples.NEW_SCHEDULES.items()]
        + [example(201, "Created", examples.SCHEDULE)],
    )
    @answered_once
    def post(self, request: Request) -> Response:
        columns = read_body(serializers.ScheduleBody, request)
        schedule = TaskSchedule(owner=_owner(request), **columns)
        services.create_schedule(schedule)
        shown = serializers.ShownSchedule(schedule, context=_context(request)).data
        return Response(shown, status=201, headers={"Location": shown["url"]})

    @extend_schema(
        operation_id="list_schedules",
        tags=["schedules"],
        summary="List schedules, newest first",
        parameters=[serializers.ScheduleFilters],
        responses={(200, "application/json"): serializers.ShownSchedule(many=True), **problems(400)},
        examples=[example(200, "Schedules", examples.SCHEDULE)],
    )
    def get(self, request: Request) -> Response:
        filters = read_query(serializers.ScheduleFilters, request)
        schedules = queries.visible_schedules(request.user)
        given = {name: value for name, value in filters.items() if value is not None}
        pages = NewestFirst()
        page = pages.paginate_queryset(schedules.filter(**given), request)
        return pages.get_paginated_response(serializers.ShownSchedule(page, many=True, context=_context(request)).data)


class ScheduleView(APIView):
    parser_classes = (ExactJSONParser,)

    @extend_schema(
        operation_id="schedule",
        tags=["schedules"],
        summary="See a schedule",
        parameters=[SCHEDULE_ID],
        responses={200: serializers.ShownSchedule, **problems(400, 404)},
        examples=[example(200, "A schedule", examples.SCHEDULE)],
    )
    def get(self, request: Request, schedule_id: str) -> Response:
        return _shown_schedule(request, _visible_schedule(request, schedule_id))

    @extend_schema(
        operation_id="replace_schedule",
        tags=["schedules"],
        summary="Change a schedule, all of it",
        description="What is left out becomes its default; scheduled_at and enabled stay as they were. If its times "
        "change it goes on from now; otherwise its next run stays what it was.",
        parameters=[SCHEDULE_ID],
        request=serializers.ScheduleBody,
        responses={200: serializers.ShownSchedule, **problems(400, 403, 404, 413, 415)},
        examples=[example(None, name, body) for name, body in examples.NEW_SCHEDULES.items()]
        + [example(200, "Changed", examples.SCHEDULE)],
    )
    def put(self, request: Request, schedule_id: str) -> Response:
        return self._change(request, schedule_id, partial=False)

    @extend_schema(
        operation_id="change_schedule",
        tags=["schedules"],
        summary="Change a part of a schedule",
        description="What is left out stays as it was; one recurrence takes the place of another. If its times change "
        "it goes on from now; otherwise its next run stays what it was.",
        parameters=[SCHEDULE_ID],
        request=serializers.ScheduleBody,
        responses={200: serializers.ShownSchedule, **problems(400, 403, 404, 413, 415)},
        examples=[
            example(None, "Other operands", {"operation": "3+4"}),
            example(None, "Another rule", {"cron": "0 6 * * *", "timezone": "Europe/Bucharest"}),
            example(200, "Changed", examples.SCHEDULE),
        ],
    )
    def patch(self, request: Request, schedule_id: str) -> Response:
        return self._change(request, schedule_id, partial=True)

    @extend_schema(
        operation_id="delete_schedule",
        tags=["schedules"],
        summary="Delete a schedule",
        description="The tasks it has made stay, and those that wait still run.",
        parameters=[SCHEDULE_ID],
        responses={204: OpenApiResponse(description="It is gone."), **problems(400, 403, 404)},
    )
    def delete(self, request: Request, schedule_id: str) -> Response:
        services.delete_schedule(_visible_schedule(request, schedule_id).id)
        return Response(status=204)

    def _change(self, request: Request, schedule_id: str, *, partial: bool) -> Response:
        schedule = _visible_schedule(request, schedule_id)
        changes = read_body(serializers.ScheduleBody, request, partial=partial)
        return _shown_schedule(request, services.change_schedule(schedule.id, changes))


class PreviewView(APIView):
    parser_classes = (ExactJSONParser,)

    @extend_schema(
        operation_id="preview",
        tags=["schedules"],
        summary="See when a schedule would run, without saving it",
        parameters=[serializers.PreviewOptions],
        request=serializers.PreviewBody,
        responses={200: serializers.Preview, **problems(400, 403, 413, 415)},
        examples=[example(None, name, body) for name, body in examples.NEW_SCHEDULES.items()]
        + [example(200, "Over a change of clocks", examples.PREVIEW)],
    )
    def post(self, request: Request) -> Response:
        columns = read_body(serializers.PreviewBody, request)
        return _preview(request, TaskSchedule(**columns))


class NextRunsView(APIView):
    @extend_schema(
        operation_id="preview_schedule",
        tags=["schedules"],
        summary="See when a schedule will run next",
        description="Of a paused schedule: when it would if it were resumed now.",
        parameters=[SCHEDULE_ID, serializers.PreviewOptions],
        responses={200: serializers.Preview, **problems(400, 404)},
        examples=[example(200, "Over a change of clocks", examples.PREVIEW)],
    )
    def get(self, request: Request, schedule_id: str) -> Response:
        return _preview(request, _visible_schedule(request, schedule_id))


class PauseView(APIView):
    @extend_schema(
        operation_id="pause_schedule",
        tags=["schedules"],
        summary="Pause a schedule",
        parameters=[SCHEDULE_ID],
        request=NoFields,
        responses={200: serializers.ShownSchedule, **problems(400, 403, 404, 413, 415)},
        examples=[example(200, "Paused", examples.SCHEDULE | {"enabled": False, "next_run_at": None})],
    )
    def post(self, request: Request, schedule_id: str) -> Response:
        return _enable(request, schedule_id, False)


class ResumeView(APIView):
    @extend_schema(
        operation_id="resume_schedule",
        tags=["schedules"],
        summary="Resume a schedule",
        description="It goes on with its next run; what it missed meanwhile is not made up for.",
        parameters=[SCHEDULE_ID],
        request=NoFields,
        responses={200: serializers.ShownSchedule, **problems(400, 403, 404, 413, 415)},
        examples=[example(200, "Resumed", examples.SCHEDULE)],
    )
    def post(self, request: Request, schedule_id: str) -> Response:
        return _enable(request, schedule_id, True)


class RunNowView(APIView):
    @extend_schema(
        operation_id="run_schedule_now",
        tags=["schedules"],
        summary="Make a task of a schedule at once",
        description="Outside its recurrence and its count, also while it is paused.",
        parameters=[SCHEDULE_ID, IDEMPOTENCY_KEY, LOCATION],
        request=NoFields,
        responses={
            202: OpenApiResponse(serializers.ShownTask, "The task."),
            **problems(400, 403, 404, 413, 415, 422),
        },
        examples=[example(202, "Accepted", examples.NEW_TASK | {"schedule": examples.SCHEDULE_ID})],
    )
    @answered_once
    def post(self, request: Request, schedule_id: str) -> Response:
        read_body(NoFields, request)
        schedule = _visible_schedule(request, schedule_id)
        return _accepted(request, queries.shown_task(request.user, services.run_now(schedule.id)))


class BackfillView(APIView):
    @extend_schema(
        operation_id="backfill",
        tags=["schedules"],
        summary="Make tasks of occurrences that are past",
        description="Of those from one time to another, both included, that are no tasks yet; at most 10,000. Outside "
        "its count and its policies. `dry_run` counts first.",
        parameters=[SCHEDULE_ID, IDEMPOTENCY_KEY],
        request=serializers.BackfillBody,
        responses={
            200: OpenApiResponse(serializers.Backfilled, "Counted."),
            202: OpenApiResponse(serializers.Backfilled, "Accepted."),
            **problems(400, 403, 404, 413, 415, 422),
        },
        examples=[
            example(None, "A day", examples.A_BACKFILL),
            example(200, "Counted", examples.BACKFILLED | {"dry_run": True}),
            example(202, "Accepted", examples.BACKFILLED),
        ],
    )
    @answered_once
    def post(self, request: Request, schedule_id: str) -> Response:
        asked = read_body(serializers.BackfillBody, request)
        schedule = _visible_schedule(request, schedule_id)
        dry_run = asked["dry_run"]
        filled = services.backfill(schedule.id, asked["from"], asked["to"], dry_run=dry_run)
        shown = {
            "occurrences": filled.occurrences,
            "already_tasks": filled.already_tasks,
            "created": filled.occurrences - filled.already_tasks,
            "dry_run": dry_run,
            "tasks": serializers.tasks_url(root_of(request), schedule),
        }
        return Response(shown, status=200 if dry_run else 202)


def _visible_schedule(request: Request, given: str) -> TaskSchedule:
    return queries.visible_schedules(request.user).get(id=read_id(schedule_id=given))


def _accepted(request: Request, task: Task) -> Response:
    shown = serializers.ShownTask(task, context=_context(request)).data
    return Response(shown, status=202, headers={"Location": shown["url"]})


def _enable(request: Request, schedule_id: str, enabled: bool) -> Response:
    read_body(NoFields, request)
    schedule = _visible_schedule(request, schedule_id)
    return _shown_schedule(request, services.set_enabled(schedule.id, enabled))


def _shown_schedule(request: Request, schedule: TaskSchedule) -> Response:
    return Response(serializers.ShownSchedule(schedule, context=_context(request)).data)


def _preview(request: Request, schedule: TaskSchedule) -> Response:
    count = read_query(serializers.PreviewOptions, request)["n"]
    runs = services.next_runs(schedule, count)
    return Response(serializers.preview(runs, schedule.recurrence.zone))


def _owner(request: Request) -> str:
    return request.user.get_username() if request.user.is_authenticated else ""


def _context(request: Request) -> dict[str, Any]:
    return {"root": root_of(request)}
