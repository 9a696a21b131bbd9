"""Jobs and their kinds: each endpoint translates a request and makes one call."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import (
    UnknownOwner,
    User,
    may,
    owner_of,
    owner_to_submit_for,
    require_visible,
    visible,
)
from orchestrator import client_limits, queries, submission
from orchestrator.http import examples, openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.fields import NoFields
from orchestrator.http.idempotency import idempotent
from orchestrator.http.job_filters import JobFilters
from orchestrator.http.job_serializers import (
    DuplicateJobSerializer,
    JobChange,
    JobSerializer,
    JobWithPayloadSerializer,
    NewJob,
    WaitOption,
)
from orchestrator.http.links import location
from orchestrator.http.openapi import (
    ETAG,
    IDEMPOTENCY_KEY,
    IF_NONE_MATCH,
    LOCATION,
    LOCATION_OF_JOB,
    example,
    problems,
)
from orchestrator.http.pagination import NewestFirst
from orchestrator.http.requests import BadInput, body_bytes, read_body, read_id, read_query
from orchestrator.http.responses import cache_headers, etag_of, not_modified
from orchestrator.http.unique_jobs import check_may_have, check_unique
from orchestrator.kind_problems import Problem
from orchestrator.kinds import kind_open_to_clients
from orchestrator.models import Job, Notification
from orchestrator.states import Status
from orchestrator.steering.changing import Change, change
from orchestrator.steering.selection import JobFilter

JOB_ID = openapi.path_parameter("job_id", "The job's id, a UUID.", format="uuid")


class JobsView(APIView):
    submits = True
    pagination_class = NewestFirst

    @extend_schema(
        operation_id="submit_job",
        tags=["jobs"],
        summary="Submit a job",
        description="An empty body submits the demo job: five slices of one second, which can be watched and "
        "cancelled. `internal` kinds are refused; the error names the endpoint to use instead.",
        parameters=[IDEMPOTENCY_KEY, LOCATION_OF_JOB],
        request=NewJob,
        responses={
            200: OpenApiResponse(DuplicateJobSerializer, "There is such a unique job already: this one."),
            202: OpenApiResponse(JobSerializer, "Accepted; it will reach a final state."),
            **problems(409, 413, 415, 422),
        },
        examples=[example(None, name, body) for name, body in examples.NEW_JOBS.items()],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        asked = read_body(NewJob, request)
        kind = kind_open_to_clients(asked["kind"])
        owner = owner_named(asked["owner"], request) if "owner" in asked else owner_of(request.user)
        check_unique(kind, asked)
        limits = client_limits.limits_of(request.user)
        client_limits.check(asked, limits)
        client_limits.check_quotas({owner: 1}, limits, stored=body_bytes(request))
        notify = visible_notifications(asked.get("notify") or [], request)
        job = submission.submit(**asked | {"kind": kind, "owner": owner, "notify": notify})
        check_may_have(request, job, kind, owner)
        shown = job_shown(request, job.id) | ({"duplicate": True} if job.duplicate else {})
        headers = location(request, shown["links"]["self"])
        return Response(shown, status=200 if job.duplicate else 202, headers=headers)

    @extend_schema(
        operation_id="list_jobs",
        tags=["jobs"],
        summary="List jobs, newest first",
        parameters=[JobFilters],
        # The media type keeps the key of a kind with the others': drf-spectacular takes the least for the main one.
        responses={(200, "application/json"): JobSerializer(many=True), **problems()},
    )
    def get(self, request: Request) -> Response:
        jobs = _filtered(request.user, read_query(JobFilters, request))
        pages = NewestFirst()
        page = pages.paginate_queryset(queries.with_details(jobs), request)
        queries.add_attempts(page)
        return pages.get_paginated_response(JobSerializer(page, many=True, context=_context(request)).data)


class JobView(APIView):
    @extend_schema(
        operation_id="job",
        tags=["jobs"],
        summary="Get a job, or wait for its end",
        description="Reading a failed job is still a 200.",
        parameters=[JOB_ID, WaitOption, IF_NONE_MATCH, ETAG],
        responses={
            200: JobWithPayloadSerializer,
            304: OpenApiResponse(description="It has not changed since the response with this ETag."),
            **problems(404),
        },
    )
    def get(self, request: Request, job_id: str) -> HttpResponse:
        id = read_id(job_id=job_id)
        seconds = read_query(WaitOption, request).get("wait", 0)
        if seconds:
            queries.wait_until_ended(queries.visible_jobs(request.user), id, seconds, user_id=request.user.pk)
        context = _context(request)
        if "If-None-Match" in request.headers:
            unchanged = not_modified(request, etag_of(queries.version_of(request.user, id), context))
            if unchanged is not None:
                return unchanged
        job = queries.job_detail(request.user, id)
        etag = etag_of(queries.version_in(job), context)
        return Response(JobWithPayloadSerializer(job, context=context).data, headers=cache_headers(etag))

    @extend_schema(
        operation_id="change_job",
        tags=["jobs"],
        summary="Change a job before it starts",
        description="Its place in the queue follows. A pipeline's children that have not started get the same "
        "priority and `run_at`; once one of them has started, only the priority can be changed.",
        parameters=[JOB_ID],
        request=JobChange,
        responses={200: OpenApiResponse(JobSerializer, "It is changed."), **problems(404, 409, 413, 415)},
        examples=[example(None, name, body) for name, body in examples.JOB_CHANGES.items()],
    )
    def patch(self, request: Request, job_id: str) -> Response:
        id = read_id(job_id=job_id)
        asked = read_body(JobChange, request, partial=True)
        wanted = as_change(asked)
        require_visible(request.user, Job, id, to="orchestrator.reschedule_job")
        client_limits.check(asked, client_limits.limits_of(request.user))
        return Response(job_shown(request, change(id, wanted).id))

    @extend_schema(
        operation_id="cancel_job",
        tags=["jobs"],
        summary="Cancel a job",
        description="Its children are cancelled, too. A running job stops at its next checkpoint, within about a "
        "second.",
        parameters=[JOB_ID],
        responses={
            200: OpenApiResponse(JobSerializer, "It is CANCELLED."),
            202: OpenApiResponse(JobSerializer, "It is running and will stop."),
            **problems(404, 409),
        },
    )
    def delete(self, request: Request, job_id: str) -> Response:
        id = read_id(job_id=job_id)
        require_visible(request.user, Job, id, to="orchestrator.cancel_job")
        job = submission.cancel(id)
        return Response(job_shown(request, id), status=200 if job.status == Status.CANCELLED else 202)


class RetryView(APIView):
    @extend_schema(
        operation_id="retry_job",
        tags=["jobs"],
        summary="Retry a failed or cancelled job",
        description="In a pipeline only the jobs that did not complete run again.",
        parameters=[JOB_ID, IDEMPOTENCY_KEY, LOCATION],
        request=NoFields,
        responses={
            202: OpenApiResponse(JobSerializer, "It waits for its next attempt."),
            **problems(404, 409, 413, 415, 422),
        },
    )
    @idempotent
    def post(self, request: Request, job_id: str) -> Response:
        id = read_id(job_id=job_id)
        read_body(NoFields, request)
        require_visible(request.user, Job, id, to="orchestrator.retry_job")
        client_limits.check_retry(id, client_limits.limits_of(request.user).quotas)
        shown = job_shown(request, submission.retry(id).id)
        return Response(shown, status=202, headers=location(request, shown["links"]["self"]))


def as_change(asked: dict[str, Any]) -> Change:
    """The change that a JobChange asks for; raises BadSubmission."""
    return Change(**asked, at_once="run_at" in asked and asked["run_at"] is None)


def _filtered(user: User, filters: dict[str, Any]) -> QuerySet[Job]:
    """The jobs that the user sees and that fit; children, too, unless the parent is None."""
    jobs = queries.visible_jobs(user)
    if "parent" in filters and filters["parent"] is None:
        jobs = jobs.filter(parent=None)
    wanted = {name: value for name, value in filters.items() if value is not None}
    return JobFilter(**wanted).of(user).matching(jobs) if wanted else jobs


def owner_named(name: str, request: Request) -> str:
    """The owner of work submitted for the user of that name; raises BadInput if there is no such user."""
    try:
        return owner_to_submit_for(request.user, name)
    except UnknownOwner as error:
        raise BadInput("", [Problem("/owner", "unknown_user", str(error))]) from None


def visible_notifications(ids: list[UUID], request: Request, field: str = "notify") -> list[UUID]:
    """The ids, which the field has; raises BadInput for one of a notification that the user may not see."""
    return known_notifications(ids, visible_among(ids, request.user), field)


def visible_among(ids: Collection[UUID], user: User) -> set[UUID]:
    """Those of the ids that are of notifications which the user may see."""
    return set(visible(Notification.objects.filter(id__in=ids), user).values_list("id", flat=True)) if ids else set()


def known_notifications(ids: list[UUID], known: Collection[UUID], field: str = "notify") -> list[UUID]:
    """The ids; raises BadInput for one that is not among the known."""
    unknown = [
        Problem(f"/{field}/{position}", "unknown", f"There is no notification {id}, or you may not see it.")
        for position, id in enumerate(ids)
        if id not in known
    ]
    if unknown:
        raise BadInput("", unknown)
    return ids


def job_shown(request: Request, job_id: UUID) -> dict[str, Any]:
    """The job as the API shows it to the user; raises Job.DoesNotExist."""
    shown = queries.job_detail(request.user, job_id)
    return JobSerializer(shown, context=_context(request)).data


def _context(request: Request) -> dict[str, Any]:
    return {"shows_tracebacks": may(request.user, "orchestrator.view_attempt")}
