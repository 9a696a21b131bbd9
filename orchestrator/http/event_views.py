"""Live events: what becomes of a job, or of an owner's jobs, as server-sent events."""

from __future__ import annotations

from typing import Any, TypeVar

from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request

from access.permissions import NotPermitted, may, owner_of, owners_named
from orchestrator import queries
from orchestrator.http import examples
from orchestrator.http.api_view import APIView
from orchestrator.http.event_stream import HEADERS, MEDIA_TYPE, EventStream, EventStreamRenderer, is_head
from orchestrator.http.fields import StrictCharField, StrictSerializer
from orchestrator.http.job_views import JOB_ID
from orchestrator.http.openapi import example, problems
from orchestrator.http.requests import BadInput, read_id, read_query
from orchestrator.kind_problems import Problem
from orchestrator.live.moves import MARK, PLACE, Place, read_mark, read_place
from orchestrator.live.watching import watching
from orchestrator.models import Job
from orchestrator.states import FINAL

T = TypeVar("T")


def _last_event_id(pattern: str) -> OpenApiParameter:
    return OpenApiParameter(
        "Last-Event-ID",
        {"type": "string", "maxLength": 50, "pattern": f"^{pattern}$"},
        OpenApiParameter.HEADER,
        description="The id of the last event that was received: what has happened since comes first.",
    )


# Of one event, as OpenAPI's readers take the schema of a stream. Without a type: the example is the text of several.
EVENT = {
    "description": "One event: its lines by their names. `data` is JSON.",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string", "enum": ["status", "progress", "children", "gone"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
        "retry": {"type": "integer"},
    },
}
STREAM = {
    (200, MEDIA_TYPE): OpenApiResponse(EVENT, "Events, until the end."),
}


class EventFilters(StrictSerializer):
    owner = StrictCharField(
        required=False, max_length=150, help_text="Whose jobs; by default yours. Others' need permission to see them."
    )


class JobEventsView(APIView):
    renderer_classes = (EventStreamRenderer,)

    @extend_schema(
        operation_id="job_events",
        tags=["jobs"],
        summary="Watch a job until its end",
        description="Server-sent events: `status` for each change of its status, `progress`, `children` when those "
        "of a pipeline start, come further or end, and `gone` if it is deleted. The first says how the job is. The "
        "stream ends with the job. A client that connects again with `Last-Event-ID` gets what it has missed: each "
        "status, and the latest progress. Lines that begin with a colon are sent when nothing happens for a while.",
        parameters=[JOB_ID, _last_event_id(PLACE)],
        responses={
            **STREAM,
            204: OpenApiResponse(description="The job has ended, and `Last-Event-ID` is of its end."),
            **problems(404),
        },
        examples=[example(200, "A job that completes", examples.EVENTS)],
    )
    def get(self, request: Request, job_id: str) -> HttpResponseBase:
        id = read_id(job_id=job_id)
        seen: Place | None = _last_event(request, read_place)
        job = queries.visible_jobs(request.user).only("status", "attempt", "updated_at").filter(id=id).first()
        if job is None:
            raise Job.DoesNotExist
        if seen and job.status in FINAL and seen == (job.attempt, job.status, job.updated_at):
            # By which the browsers' EventSource stops connecting again.
            return HttpResponse(status=204)
        if is_head(request):
            return HttpResponse(content_type=MEDIA_TYPE, headers=HEADERS)
        return EventStream(watching().watch_job(id, user_id=request.user.pk, seen=seen))


class EventsView(APIView):
    renderer_classes = (EventStreamRenderer,)

    @extend_schema(
        operation_id="events",
        tags=["jobs"],
        summary="Watch an owner's jobs",
        description="Server-sent events as those of one job, of all jobs of an owner, also children of pipelines: "
        "`status` and `progress`. It starts with now: open the stream first, then list the jobs. It has no end. After "
        "connecting again with `Last-Event-ID` nothing is missed, and some may be repeated: `job_id`, `attempt`, "
        "`status` and `at` are the same then.",
        parameters=[EventFilters, _last_event_id(MARK)],
        responses={**STREAM, **problems()},
        examples=[example(200, "A job that completes", examples.EVENTS_OF_OWNER)],
    )
    def get(self, request: Request) -> HttpResponseBase:
        owners = _owners(request, read_query(EventFilters, request).get("owner"))
        since = _last_event(request, read_mark)
        if is_head(request):
            return HttpResponse(content_type=MEDIA_TYPE, headers=HEADERS)
        return EventStream(watching().watch_owners(owners, user_id=request.user.pk, since=since))


def _owners(request: Request, name: str | None) -> list[str]:
    """Whom the name means; raises NotPermitted if their jobs are not for the user to see."""
    own = owner_of(request.user)
    if name is None and not own:
        raise BadInput("query", [Problem("/owner", "required", "Say whose jobs: ?owner=NAME.")])
    owners = [own] if name is None else owners_named(request.user, name)
    if owners != [own] and not may(request.user, "orchestrator.view_job"):
        raise NotPermitted("orchestrator.view_job")
    return owners


def _last_event(request: Request, read: Any) -> Any:
    """What Last-Event-ID says; None without one. Raises BadInput."""
    text = request.headers.get("Last-Event-ID")
    if text is None:
        return None
    try:
        return read(text)
    except ValueError:
        detail = "This is not the id of an event of this stream."
        raise BadInput("header", [Problem("/Last-Event-ID", "invalid", detail)]) from None
