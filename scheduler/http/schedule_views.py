"""The endpoints of schedules: each translates a request and makes one call."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from drf_spectacular.utils import OpenApiResponse, PolymorphicProxySerializer, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import owner_of, with_owners
from orchestrator.http import openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.fields import NoFields
from orchestrator.http.idempotency import idempotent
from orchestrator.http.job_serializers import JobSerializer
from orchestrator.http.job_views import job_shown, visible_notifications
from orchestrator.http.links import location
from orchestrator.http.openapi import IDEMPOTENCY_KEY, LOCATION, LOCATION_OF_NEW, example, problems
from orchestrator.http.pagination import NewestFirst
from orchestrator.http.parsers import ExactJSONParser
from orchestrator.http.requests import read_body, read_id, read_query
from scheduler import queries
from scheduler.http import examples
from scheduler.http.schedule_serializers import (
    BackfillBody,
    Backfilled,
    Preview,
    PreviewBody,
    PreviewOptions,
    ScheduleBody,
    ScheduleFilters,
    ScheduleSerializer,
    jobs_url,
    preview,
    tasks_url,
)
from scheduler.http.task_serializers import TaskSerializer
from scheduler.http.task_views import accepted
from scheduler.models import TaskSchedule
from scheduler.recurrence.rules import zone_named
from scheduler.services.backfills import backfill
from scheduler.services.schedule_limits import check_backfill, check_count, check_jobs, check_schedule
from scheduler.services.schedules import (
    change_schedule,
    create_schedule,
    delete_schedule,
    next_events,
    run_now,
    set_enabled,
)

SCHEDULE_ID = openapi.path_parameter("schedule_id", "The schedule's id, a UUID.", format="uuid")


class SchedulesView(APIView):
    pagination_class = NewestFirst
    parser_classes = (ExactJSONParser,)

    @extend_schema(
        operation_id="create_schedule",
        tags=["schedules"],
        summary="Create a schedule of jobs, or one that adds two numbers",
        description="Give `kind` and `payload`, or `a` and `b`, or `operation`; and exactly one recurrence: "
        "`interval`, `every_x_days` and/or `every_x_hours`, `cron` or `rrule`. Rules with days or times of day follow "
        "local time in `timezone`: a local time that is skipped runs at the first valid instant after it, one that is "
        "repeated runs once, the first time. Seconds and hours alone are elapsed time.",
        parameters=[IDEMPOTENCY_KEY, LOCATION_OF_NEW],
        request=ScheduleBody,
        responses={201: ScheduleSerializer, **problems(413, 415, 422)},
        examples=[example(None, name, body) for name, body in examples.NEW_SCHEDULES.items()]
        + [example(201, "Created", examples.SCHEDULE)],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        columns = _read_schedule(request)
        schedule = TaskSchedule(owner=owner_of(request.user), **columns)
        check_count(request.user, schedule.owner)
        create_schedule(schedule)
        check_schedule(request.user, schedule)
        shown = ScheduleSerializer(schedule).data
        return Response(shown, status=201, headers=location(request, shown["url"]))

    @extend_schema(
        operation_id="list_schedules",
        tags=["schedules"],
        summary="List schedules, newest first",
        parameters=[ScheduleFilters],
        responses={(200, "application/json"): ScheduleSerializer(many=True), **problems()},
        examples=[example(200, "Schedules", examples.SCHEDULE)],
    )
    def get(self, request: Request) -> Response:
        filters = with_owners(request.user, read_query(ScheduleFilters, request))
        schedules = queries.visible_schedules(request.user)
        return NewestFirst().respond(schedules.filter(**filters), request, ScheduleSerializer)


class ScheduleView(APIView):
    parser_classes = (ExactJSONParser,)

    @extend_schema(
        operation_id="schedule",
        tags=["schedules"],
        summary="Get a schedule",
        parameters=[SCHEDULE_ID],
        responses={200: ScheduleSerializer, **problems(404)},
        examples=[example(200, "A schedule", examples.SCHEDULE)],
    )
    def get(self, request: Request, schedule_id: str) -> Response:
        return _schedule_response(request, _visible_schedule(request, schedule_id))

    @extend_schema(
        operation_id="replace_schedule",
        tags=["schedules"],
        summary="Replace a schedule",
        description="Omitted fields get their defaults; scheduled_at and enabled stay as they were. If its times "
        "change it continues from now; otherwise its next run stays the same.",
        parameters=[SCHEDULE_ID],
        request=ScheduleBody,
        responses={200: ScheduleSerializer, **problems(404, 413, 415)},
        examples=[example(None, name, body) for name, body in examples.NEW_SCHEDULES.items()]
        + [example(200, "Changed", examples.SCHEDULE)],
    )
    def put(self, request: Request, schedule_id: str) -> Response:
        return self._change(request, schedule_id, partial=False)

    @extend_schema(
        operation_id="change_schedule",
        tags=["schedules"],
        summary="Change fields of a schedule",
        description="Omitted fields stay as they were; a new recurrence replaces the old one. If its times change "
        "it continues from now; otherwise its next run stays the same.",
        parameters=[SCHEDULE_ID],
        request=ScheduleBody,
        responses={200: ScheduleSerializer, **problems(404, 413, 415)},
        examples=[
            example(None, "Other operands", {"operation": "3+4"}),
            example(None, "Another kind of job", {"kind": "demo.slices", "payload": {"slices": 3}}),
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
        description="Its jobs are kept, and waiting ones still run.",
        parameters=[SCHEDULE_ID],
        responses={204: OpenApiResponse(description="Deleted."), **problems(404, 409)},
    )
    def delete(self, request: Request, schedule_id: str) -> Response:
        delete_schedule(_visible_schedule(request, schedule_id, to="scheduler.delete_taskschedule").id)
        return Response(status=204)

    def _change(self, request: Request, schedule_id: str, *, partial: bool) -> Response:
        schedule = _visible_schedule(request, schedule_id, to="scheduler.change_taskschedule")
        changes = _read_schedule(request, partial=partial)
        with transaction.atomic():
            changed = change_schedule(schedule.id, changes)
            check_schedule(request.user, changed)
        return _schedule_response(request, changed)


class PreviewView(APIView):
    parser_classes = (ExactJSONParser,)

    @extend_schema(
        operation_id="preview",
        tags=["schedules"],
        summary="Preview the runs of a schedule without saving it",
        parameters=[PreviewOptions],
        request=PreviewBody,
        responses={200: Preview, **problems(413, 415)},
        examples=[example(None, name, body) for name, body in examples.NEW_SCHEDULES.items()]
        + [example(200, "Across a clock change", examples.PREVIEW)],
    )
    def post(self, request: Request) -> Response:
        columns = read_body(PreviewBody, request)
        return _preview(request, TaskSchedule(**columns))


class NextRunsView(APIView):
    @extend_schema(
        operation_id="preview_schedule",
        tags=["schedules"],
        summary="Preview the next runs of a schedule",
        description="For a paused schedule: as if it were resumed now.",
        parameters=[SCHEDULE_ID, PreviewOptions],
        responses={200: Preview, **problems(404)},
        examples=[example(200, "Across a clock change", examples.PREVIEW)],
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
        responses={200: ScheduleSerializer, **problems(404, 413, 415)},
        examples=[example(200, "Paused", examples.SCHEDULE | {"enabled": False, "next_run_at": None})],
    )
    def post(self, request: Request, schedule_id: str) -> Response:
        return _enable(request, schedule_id, False)


class ResumeView(APIView):
    @extend_schema(
        operation_id="resume_schedule",
        tags=["schedules"],
        summary="Resume a schedule",
        description="It continues with its next run; missed ones are not made up for.",
        parameters=[SCHEDULE_ID],
        request=NoFields,
        responses={200: ScheduleSerializer, **problems(404, 413, 415)},
        examples=[example(200, "Resumed", examples.SCHEDULE)],
    )
    def post(self, request: Request, schedule_id: str) -> Response:
        return _enable(request, schedule_id, True)


class RunNowView(APIView):
    @extend_schema(
        operation_id="run_schedule_now",
        tags=["schedules"],
        summary="Run a schedule now",
        description="Submits a job, or creates a task if the schedule adds numbers: outside its recurrence, its count "
        "and its overlap policy, even while it is paused.",
        parameters=[SCHEDULE_ID, IDEMPOTENCY_KEY, LOCATION],
        request=NoFields,
        responses={
            202: OpenApiResponse(
                PolymorphicProxySerializer("TaskOrJob", [TaskSerializer, JobSerializer], None), "The new task or job."
            ),
            **problems(404, 413, 415, 422),
        },
        examples=[example(202, "Accepted", examples.NEW_TASK | {"schedule": examples.SCHEDULE_ID})],
    )
    @idempotent
    def post(self, request: Request, schedule_id: str) -> Response:
        read_body(NoFields, request)
        schedule = _visible_schedule(request, schedule_id, to="scheduler.run_taskschedule")
        check_jobs(request.user, schedule, 1)
        new = run_now(schedule.id)
        if schedule.adds:
            return accepted(request, queries.task_detail(request.user, new))
        shown = job_shown(request, new)
        return Response(shown, status=202, headers=location(request, shown["links"]["self"]))


class BackfillView(APIView):
    @extend_schema(
        operation_id="backfill",
        tags=["schedules"],
        summary="Backfill past occurrences of a schedule",
        description="Submits the occurrences in a range, ends included, that were not submitted yet; at most "
        "10,000. They do not count towards its limit, and its policies do not apply. `dry_run` only counts them.",
        parameters=[SCHEDULE_ID, IDEMPOTENCY_KEY],
        request=BackfillBody,
        responses={
            200: OpenApiResponse(Backfilled, "Counted."),
            202: OpenApiResponse(Backfilled, "Accepted."),
            **problems(404, 413, 415, 422),
        },
        examples=[
            example(None, "A day", examples.A_BACKFILL),
            example(200, "Counted", examples.BACKFILLED | {"dry_run": True}),
            example(202, "Accepted", examples.BACKFILLED),
        ],
    )
    @idempotent
    def post(self, request: Request, schedule_id: str) -> Response:
        asked = read_body(BackfillBody, request)
        schedule = _visible_schedule(request, schedule_id, to="scheduler.run_taskschedule")
        dry_run = asked["dry_run"]
        if not dry_run:
            check_backfill(request.user, schedule, asked["from"], asked["to"])
        filled = backfill(schedule.id, asked["from"], asked["to"], dry_run=dry_run)
        shown = {
            "occurrences": filled.occurrences,
            "already_submitted": filled.already_submitted,
            "already_tasks": filled.already_submitted,
            "created": filled.created,
            "dry_run": dry_run,
            "jobs": jobs_url(schedule),
            "tasks": tasks_url(schedule),
        }
        return Response(shown, status=200 if dry_run else 202)


def _read_schedule(request: Request, *, partial: bool = False) -> dict[str, Any]:
    columns = read_body(ScheduleBody, request, partial=partial)
    visible_notifications(columns.get("on_failure", []), request, "on_failure")
    return columns


def _visible_schedule(request: Request, given: str, *, to: str = "") -> TaskSchedule:
    return queries.visible_schedule(request.user, read_id(schedule_id=given), to=to)


def _enable(request: Request, schedule_id: str, enabled: bool) -> Response:
    read_body(NoFields, request)
    schedule = _visible_schedule(request, schedule_id, to="scheduler.pause_taskschedule")
    return _schedule_response(request, set_enabled(schedule.id, enabled))


def _schedule_response(request: Request, schedule: TaskSchedule) -> Response:
    return Response(ScheduleSerializer(schedule).data)


def _preview(request: Request, schedule: TaskSchedule) -> Response:
    count = read_query(PreviewOptions, request)["n"]
    events = next_events(schedule, count)
    return Response(preview(events, zone_named(schedule.timezone)))
