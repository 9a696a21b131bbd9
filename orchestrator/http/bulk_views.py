"""Many jobs at once: submitted together, or those that match a filter cancelled, retried or changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import User, owner_of
from orchestrator import client_limits, submission
from orchestrator.http import examples
from orchestrator.http.api_view import APIView
from orchestrator.http.bulk_serializers import BulkAnswer, BulkChangeRequest, BulkRequest
from orchestrator.http.idempotency import idempotent
from orchestrator.http.job_serializers import MAX_JOBS, AcceptedJobs, NewJob, NewJobs
from orchestrator.http.job_views import as_change, known_notifications, owner_named, visible_among
from orchestrator.http.links import link, location
from orchestrator.http.openapi import IDEMPOTENCY_KEY, LOCATION, example, problems
from orchestrator.http.requests import BadInput, body_bytes, first_problems, problems_in, read_body, unknown_problems
from orchestrator.http.unique_jobs import check_may_have, check_unique
from orchestrator.kind_problems import BadPayload, InternalKind, Problem, UnknownKind
from orchestrator.kinds import Kind, kind_open_to_clients
from orchestrator.steering.actions import PERMISSIONS, eligible, start
from orchestrator.steering.batches import Verb
from orchestrator.steering.changing import Change
from orchestrator.steering.selection import JobFilter, count, permitted

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
            **problems(409, 413, 415, 422),
        },
        examples=[
            example(None, "Two kinds", examples.NEW_JOBS_TOGETHER),
            example(202, "Accepted", examples.ACCEPTED_JOBS),
        ],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        limits = client_limits.limits_of(request.user)
        asked = _read_jobs(request, limits)
        owners = Counter(options["owner"] for _, options in asked)
        client_limits.check_quotas(owners, limits, stored=body_bytes(request))
        try:
            accepted = submission.submit_all(asked)
        except submission.BadBatch as error:
            raise _refusal(error.problems, of=len(asked)) from None
        shown = []
        for job, (kind, options) in zip(accepted, asked, strict=True):
            check_may_have(request, job, kind, options["owner"])
            link_to = link("job", job.id)
            shown.append({"job_id": str(job.id), "kind": kind.name, "link": link_to, "duplicate": job.duplicate})
        new = sum(not job.duplicate for job in accepted)
        return Response({"accepted": new, "jobs": shown}, status=202)


class BulkActionView(APIView):
    """What is done to all jobs that match; each subclass does one thing."""

    verb: Verb
    input: type[BulkRequest] = BulkRequest

    def act(self, request: Request) -> Response:
        asked = read_body(self.input, request)
        limits = client_limits.limits_of(request.user)
        client_limits.check(asked.get("change", {}), limits, "/change")
        change = _as_change(asked["change"]) if "change" in asked else None
        described = JobFilter(**asked["filter"])
        jobs = permitted(request.user, described, PERMISSIONS[self.verb])
        if asked["dry_run"]:
            found = count(eligible(self.verb, jobs, change))
            return Response(self._answer(dry_run=True, matched=found.matched, exact=found.exact))
        owner, quotas = owner_of(request.user), limits.quotas
        started = start(self.verb, jobs, described.given, owner=owner, change=change, quotas=quotas)
        answer = self._answer(matched=started.matched, more=started.more)
        if started.job is None:
            return Response(answer)
        itself = link("job", started.job.id)
        answer |= {"job_id": str(started.job.id), "link": itself}
        return Response(answer, status=202, headers=location(request, itself))

    def _answer(self, **known: Any) -> dict[str, Any]:
        nothing = {"dry_run": False, "exact": True, "more": False, "job_id": None, "link": None}
        return {"action": self.verb} | nothing | known


def _as_change(asked: dict[str, Any]) -> Change:
    """Raises BadSubmission with pointers into the body."""
    try:
        return as_change(asked)
    except submission.BadSubmission as error:
        error.problems = [each._replace(pointer=f"/change{each.pointer}") for each in error.problems]
        raise


def documented(verb: Verb, body: type[BulkRequest], what: str) -> Callable[[Any], Any]:
    """The document of one of these endpoints."""
    return extend_schema(
        operation_id=f"{verb}_jobs",
        tags=["jobs"],
        summary=f"{verb.capitalize()} all jobs that match",
        description=f"{what} Those that match in the moment of the request, and that you may {verb} one by one: your "
        "own, or everyone's with the permission. Few are done before the response, many by a job in the background, "
        "which can be watched and cancelled. The audit trail has an entry for each job.",
        parameters=[IDEMPOTENCY_KEY, LOCATION],
        request=body,
        responses={
            200: OpenApiResponse(BulkAnswer, "A dry run, or nothing matched."),
            202: OpenApiResponse(BulkAnswer, "Accepted; the job's result says what became of it."),
            **problems(413, 415, 422),
        },
        examples=[
            example(None, "Yes", examples.BULK[verb]),
            example(None, "Only count", examples.BULK[verb] | {"dry_run": True}),
            example(202, "Accepted", examples.BULK_ANSWER | {"action": verb}),
        ],
    )


class CancelJobsView(BulkActionView):
    verb = "cancel"

    @documented(verb, BulkRequest, "Running ones are asked to stop; pipelines are cancelled with their children.")
    @idempotent
    def post(self, request: Request) -> Response:
        return self.act(request)


class RetryJobsView(BulkActionView):
    verb = "retry"

    @documented(verb, BulkRequest, "Failed and cancelled ones run again; of pipelines what did not complete.")
    @idempotent
    def post(self, request: Request) -> Response:
        return self.act(request)


class ChangeJobsView(BulkActionView):
    verb, input = "change", BulkChangeRequest

    @documented(verb, BulkChangeRequest, "What has not started gets another priority or start.")
    @idempotent
    def post(self, request: Request) -> Response:
        return self.act(request)


def _read_jobs(request: Request, limits: client_limits.ClientLimits) -> Asked:
    """What is asked for; raises BadInput with what is wrong with each job."""
    items = _items(request.data)
    serializer, owners = NewJob(), dict[str | None, str]()
    asked: Asked = []
    notify: dict[int, list[UUID]] = {}
    found: list[Problem] = []
    for place, item in enumerate(items):
        try:
            options: dict[str, Any] = {"payload": None} | serializer.run_validation(item)
            kind = kind_open_to_clients(options.pop("kind"))
            name = options.get("owner")
            if name not in owners:
                owners[name] = owner_of(request.user) if name is None else owner_named(name, request)
            notify[place] = options["notify"] = options.get("notify") or []
            kind.read_payload({} if options["payload"] is None else options["payload"])
            check_unique(kind, options)
            client_limits.check(options, limits)
            asked.append((kind, options | {"owner": owners[name]}))
        except ValidationError as error:
            found += problems_in(error.detail, f"/{place}")
        except (UnknownKind, InternalKind, BadPayload, BadInput, client_limits.BeyondLimits) as error:
            found += [each._replace(pointer=f"/{place}{each.pointer}") for each in error.problems]
    if found := found + _problems_of_notify(notify, request.user):
        raise _refusal(found, of=len(items))
    return asked


def _problems_of_notify(notify: Mapping[int, list[UUID]], user: User) -> list[Problem]:
    """What is wrong with the notifications that each job names, looked up all at once."""
    known = visible_among({id for ids in notify.values() for id in ids}, user)
    found: list[Problem] = []
    for place, ids in notify.items():
        try:
            known_notifications(ids, known)
        except BadInput as error:
            found += [each._replace(pointer=f"/{place}{each.pointer}") for each in error.problems]
    return found


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
