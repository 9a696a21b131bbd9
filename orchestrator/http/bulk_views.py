"""Many jobs at once: submitted together."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import owner_of
from orchestrator import submission
from orchestrator.http import examples
from orchestrator.http.api_view import APIView
from orchestrator.http.idempotency import idempotent
from orchestrator.http.job_serializers import MAX_JOBS, AcceptedJobs, NewJob, NewJobs
from orchestrator.http.job_views import owner_named
from orchestrator.http.links import link
from orchestrator.http.openapi import IDEMPOTENCY_KEY, example, problems
from orchestrator.http.requests import BadInput, first_problems, problems_in, unknown_problems
from orchestrator.kinds import BadPayload, InternalKind, Kind, Problem, UnknownKind, kind_open_to_clients

Asked = list[tuple[Kind, dict[str, Any]]]


class BulkView(APIView):
    submits = True

    @extend_schema(
        operation_id="submit_jobs",
        tags=["jobs"],
        summary="Submit up to 10,000 jobs at once",
        description="Of any kinds, also pipelines; all or none: one invalid job refuses the request, and `errors` "
        "points to each invalid one, as `/jobs/17/payload/slices`, up to a thousand of them.",
        parameters=[IDEMPOTENCY_KEY],
        request=NewJobs,
        responses={
            202: OpenApiResponse(AcceptedJobs, "Accepted; each will reach a final state."),
            **problems(413, 415, 422),
        },
        examples=[
            example(None, "Two kinds", examples.NEW_JOBS_TOGETHER),
            example(202, "Accepted", examples.ACCEPTED_JOBS),
        ],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        asked = _read_jobs(request)
        try:
            ids = submission.submit_all(asked)
        except submission.BadBatch as error:
            raise _refusal(error.problems, of=len(asked)) from None
        accepted = [
            {"job_id": str(id), "kind": kind.name, "link": link("job", id)}
            for id, (kind, _) in zip(ids, asked, strict=True)
        ]
        return Response({"accepted": len(ids), "jobs": accepted}, status=202)


def _read_jobs(request: Request) -> Asked:
    """What is asked for; raises BadInput with what is wrong with each job."""
    items = _items(request.data)
    serializer, owners = NewJob(), dict[str | None, str]()
    asked: Asked = []
    found: list[Problem] = []
    for place, item in enumerate(items):
        try:
            options: dict[str, Any] = {"payload": None} | serializer.run_validation(item)
            kind = kind_open_to_clients(options.pop("kind"))
            name = options.get("owner")
            if name not in owners:
                owners[name] = owner_of(request.user) if name is None else owner_named(name, request)
            kind.read_payload({} if options["payload"] is None else options["payload"])
            asked.append((kind, options | {"owner": owners[name]}))
        except ValidationError as error:
            found += problems_in(error.detail, f"/{place}")
        except (UnknownKind, InternalKind, BadPayload, BadInput) as error:
            found += [each._replace(pointer=f"/{place}{each.pointer}") for each in error.problems]
    if found:
        raise _refusal(found, of=len(items))
    return asked


def _items(body: Any) -> list[Any]:
    items = body.get("jobs") if isinstance(body, dict) else None
    if not isinstance(items, list):
        raise BadInput("", [Problem("/jobs", "invalid", 'Send a list of jobs, as {"jobs": [{"kind": "…"}, …]}.')])
    if unknown := body.keys() - {"jobs"}:
        raise BadInput("", unknown_problems(unknown, ["jobs"]))
    if not 1 <= len(items) <= MAX_JOBS:
        raise BadInput("", [Problem("/jobs", "out_of_range", f"Send 1 to {MAX_JOBS:,} jobs, not {len(items):,}.")])
    return items


def _refusal(found: list[Problem], *, of: int) -> BadInput:
    return BadInput(
        "", first_problems([each._replace(pointer=f"/jobs{each.pointer}") for each in found], of=of, what="jobs")
    )
