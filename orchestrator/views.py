"""The orchestrator's endpoints: each translates a request and makes one call."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from config import openapi
from config.api import NewestFirst, conditional, etag_of, not_modified, read_body, read_id, read_path, read_query
from config.links import root_of
from config.openapi import ETAG, IDEMPOTENCY_KEY, IF_NONE_MATCH, LOCATION, example, problems
from orchestrator import health, queries, serializers, submission
from orchestrator.idempotency import answered_once
from orchestrator.models import Job
from orchestrator.states import Status

JOB_ID = openapi.path_parameter("job_id", "The job's id, a UUID.", format="uuid")
USERNAME = openapi.path_parameter(
    "username", "1 to 150 letters, digits and @ . + - _", pattern=r"^[\w.@+-]+$", minLength=1, maxLength=150
)


class OrchestrateView(APIView):
    @extend_schema(
        operation_id="orchestrate",
        tags=["orchestration"],
        summary="Start the two-batch orchestration",
        description="Five draws at once, their sum, five more draws offset by it, their sum, and both sums combined. "
        "A user may have only so many unfinished ones; 429 says why and when to try again.",
        parameters=[USERNAME, IDEMPOTENCY_KEY, LOCATION],
        request=serializers.NoFields,
        responses={
            202: OpenApiResponse(serializers.Started, "Accepted; follow `status_url`."),
            **problems(400, 403, 413, 415, 422),
        },
        examples=[example(202, "Started", openapi.STARTED)],
    )
    @answered_once
    def post(self, request: Request, username: str) -> Response:
        owner = read_path(serializers.PATH, username=username)["username"]
        _require_may_submit_for(request, owner)
        read_body(serializers.NoFields, request)
        job = submission.submit(queries.ORCHESTRATION, owner=owner)
        started = serializers.Started(job, context=_context(request)).data
        return Response(started, status=202, headers={"Location": started["status_url"]})


class StatusView(APIView):
    @extend_schema(
        operation_id="status",
        tags=["orchestration"],
        summary="See how an orchestration is doing",
        description="PENDING until it starts. `result` is there when COMPLETED, `error` when FAILED.",
        parameters=[USERNAME, JOB_ID],
        responses={200: serializers.OrchestrationStatus, **problems(400, 404)},
        examples=[
            example(200, "Running", openapi.STATUS | {"status": "RUNNING"}),
            example(200, "Completed", openapi.STATUS | {"status": "COMPLETED", "result": openapi.RESULT}),
        ],
    )
    def get(self, request: Request, username: str, job_id: str) -> Response:
        asked = read_path(serializers.PATH, username=username, job_id=job_id)
        job = queries.orchestration_of(request.user, asked["username"], asked["job_id"])
        return Response(serializers.OrchestrationStatus(job).data)


class JobsView(APIView):
    pagination_class = NewestFirst

    @extend_schema(
        operation_id="submit_job",
        tags=["jobs"],
        summary="Submit a job",
        description="An empty body submits the demo job: five slices of a second, to be watched and cancelled midway.",
        parameters=[IDEMPOTENCY_KEY, LOCATION],
        request=serializers.NewJob,
        responses={
            202: OpenApiResponse(serializers.ShownJob, "Accepted; it will reach a final state."),
            **problems(400, 403, 413, 415, 422),
        },
        examples=[example(None, name, body) for name, body in openapi.NEW_JOBS.items()],
    )
    @answered_once
    def post(self, request: Request) -> Response:
        asked = read_body(serializers.NewJob, request)
        job = submission.submit(**asked | {"owner": _owner(request, asked)})
        shown = _shown(request, job)
        return Response(shown, status=202, headers={"Location": shown["links"]["self"]})

    @extend_schema(
        operation_id="list_jobs",
        tags=["jobs"],
        summary="List jobs, newest first",
        parameters=[serializers.JobFilters],
        # The media type keeps the key of a kind with the others': drf-spectacular takes the least for the main one.
        responses={(200, "application/json"): serializers.ShownJob(many=True), **problems(400)},
    )
    def get(self, request: Request) -> Response:
        filters = read_query(serializers.JobFilters, request)
        pages = NewestFirst()
        page = pages.paginate_queryset(queries.shown_jobs(_filtered(request, filters)), request)
        queries.add_attempts(page)
        return pages.get_paginated_response(serializers.ShownJob(page, many=True, context=_context(request)).data)


class JobView(APIView):
    @extend_schema(
        operation_id="job",
        tags=["jobs"],
        summary="See a job, or wait for its end",
        description="A job that failed is still a 200 when read.",
        parameters=[JOB_ID, serializers.WaitOption, IF_NONE_MATCH, ETAG],
        responses={
            200: serializers.ShownJobWithPayload,
            304: OpenApiResponse(description="It is as it was when the ETag was given."),
            **problems(400, 404),
        },
    )
    def get(self, request: Request, job_id: str) -> HttpResponse:
        id = read_id(job_id=job_id)
        seconds = read_query(serializers.WaitOption, request).get("wait", 0)
        if seconds:
            queries.wait_until_ended(queries.visible_jobs(request.user), id, seconds)
        context = _context(request)
        if "If-None-Match" in request.headers:
            unchanged = not_modified(request, etag_of(queries.version_of(request.user, id), context))
            if unchanged is not None:
                return unchanged
        job = queries.shown_job(request.user, id)
        etag = etag_of(queries.version_shown(job), context)
        return Response(serializers.ShownJobWithPayload(job, context=context).data, headers=conditional(etag))

    @extend_schema(
        operation_id="cancel_job",
        tags=["jobs"],
        summary="Cancel a job",
        description="With its children. A running job notices at its next checkpoint, within about a second.",
        parameters=[JOB_ID],
        responses={
            200: OpenApiResponse(serializers.ShownJob, "It is CANCELLED."),
            202: OpenApiResponse(serializers.ShownJob, "It is running and will notice."),
            **problems(400, 403, 404, 409),
        },
    )
    def delete(self, request: Request, job_id: str) -> Response:
        id = read_id(job_id=job_id)
        queries.require_visible(request.user, id)
        job = submission.cancel(id)
        return Response(_shown(request, job), status=200 if job.status == Status.CANCELLED else 202)


class RetryView(APIView):
    @extend_schema(
        operation_id="retry_job",
        tags=["jobs"],
        summary="Retry a failed or cancelled job",
        description="Of a pipeline only what did not complete is run again.",
        parameters=[JOB_ID, IDEMPOTENCY_KEY, LOCATION],
        request=serializers.NoFields,
        responses={
            202: OpenApiResponse(serializers.ShownJob, "It waits for its next attempt."),
            **problems(400, 403, 404, 409, 413, 415, 422),
        },
    )
    @answered_once
    def post(self, request: Request, job_id: str) -> Response:
        id = read_id(job_id=job_id)
        read_body(serializers.NoFields, request)
        queries.require_visible(request.user, id)
        shown = _shown(request, submission.retry(id))
        return Response(shown, status=202, headers={"Location": shown["links"]["self"]})


class KindsView(APIView):
    @extend_schema(
        operation_id="list_kinds",
        tags=["jobs"],
        summary="List the kinds of job, with the JSON Schema of their payloads",
        responses={200: serializers.ShownKinds, **problems()},
    )
    def get(self, request: Request) -> Response:
        return Response(serializers.ShownKinds({"results": queries.known_kinds()}).data)


class _HealthView(APIView):
    """For whoever watches the process: no token needed, never throttled."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()


class HealthView(_HealthView):
    @extend_schema(
        operation_id="health",
        tags=["health"],
        summary="Whether the process is alive",
        responses={200: openapi.HEALTH},
    )
    def get(self, request: Request) -> Response:
        return Response({"status": "alive"})


class ReadyView(_HealthView):
    @extend_schema(
        operation_id="ready",
        tags=["health"],
        summary="Whether all that work needs is there",
        description="The database, the broker, a live worker for every queue, and a recent tick. It answers within "
        "about a second, whatever hangs.",
        responses={
            200: OpenApiResponse(openapi.READINESS, "All is well."),
            503: OpenApiResponse(openapi.READINESS, "Something is missing; the checks say what."),
        },
    )
    def get(self, request: Request) -> Response:
        is_ready, checks = health.readiness()
        return Response(
            {"status": "ready" if is_ready else "not ready", "checks": checks}, status=200 if is_ready else 503
        )


def _filtered(request: Request, filters: dict[str, Any]) -> Any:
    jobs = queries.visible_jobs(request.user)
    if statuses := filters.get("status"):
        jobs = jobs.filter(status__in=statuses)
    exact = {name: filters[name] for name in ("kind", "owner", "parent") if name in filters}
    return queries.created_between(jobs.filter(**exact), filters.get("created_after"), filters.get("created_before"))


def _owner(request: Request, asked: dict[str, Any]) -> str:
    """Whose job it will be: the owner asked for, where the user may, else the user."""
    own = request.user.get_username() if request.user.is_authenticated else ""
    owner: str = asked.get("owner", own)
    _require_may_submit_for(request, owner)
    return owner


def _require_may_submit_for(request: Request, owner: str) -> None:
    if not queries.sees_everything(request.user) and owner != request.user.get_username():
        raise exceptions.PermissionDenied("You may submit work for yourself only.")


def _shown(request: Request, job: Job) -> dict[str, Any]:
    shown = queries.shown_job(request.user, job.id)
    return serializers.ShownJob(shown, context=_context(request)).data


def _context(request: Request) -> dict[str, Any]:
    return {
        "root": root_of(request),
        "shows_tracebacks": queries.sees_everything(request.user),
    }
