"""Pipelines: graphs of steps, submitted, watched, cancelled and retried as wholes."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import owner_of, require_visible
from orchestrator import client_limits, composition, queries, submission
from orchestrator.http import examples, openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.fields import NoFields
from orchestrator.http.idempotency import idempotent
from orchestrator.http.job_views import owner_named
from orchestrator.http.links import link, location
from orchestrator.http.openapi import IDEMPOTENCY_KEY, LOCATION, example, problems
from orchestrator.http.pipeline_serializers import (
    OF_STEPS,
    AcceptedPipeline,
    ForkParameters,
    NewPipeline,
    PipelineSerializer,
)
from orchestrator.http.requests import BadInput, body_bytes, read_body, read_id, read_query
from orchestrator.kind_problems import Problem
from orchestrator.models import Job
from orchestrator.states import Status

PIPELINE_ID = openapi.path_parameter("pipeline_id", "The pipeline's id, which is a job's.", format="uuid")


class PipelinesView(APIView):
    submits = True

    @extend_schema(
        operation_id="submit_pipeline",
        tags=["pipelines"],
        summary="Submit a graph of up to 10,000 steps",
        description="The graph is given as `steps`, or by the name of a `definition` in code with its `input`. It is "
        "checked as a whole: kinds, references, circles, and payloads as far as they are known. If anything is wrong "
        "nothing is stored, and `errors` points to each problem, as `/steps/load/payload/rows`.",
        parameters=[IDEMPOTENCY_KEY, LOCATION],
        request=NewPipeline,
        responses={
            202: OpenApiResponse(AcceptedPipeline, "Accepted; it will reach a final state."),
            **problems(413, 415, 422),
        },
        examples=[
            *(example(None, name, body) for name, body in examples.NEW_PIPELINES.items()),
            example(202, "Accepted", examples.ACCEPTED_PIPELINE),
        ],
    )
    @idempotent
    def post(self, request: Request) -> Response:
        asked = read_body(NewPipeline, request)
        owner = owner_named(asked.pop("owner"), request) if "owner" in asked else owner_of(request.user)
        limits = client_limits.limits_of(request.user)
        client_limits.check_pipeline(asked, limits)
        client_limits.check_quotas({owner: 1}, limits, stored=body_bytes(request))
        job, steps = _submitted(asked, owner)
        itself = link("pipeline", job.id)
        accepted = {"pipeline_id": job.id, "status_url": itself, "steps": steps}
        return Response(accepted, status=202, headers=location(request, itself))


def _submitted(asked: dict[str, Any], owner: str) -> tuple[Job, int]:
    """What was asked for, and how many steps it has."""
    if "definition" not in asked:
        missing = [] if "steps" in asked else [Problem("/steps", "required", "Give steps, or a definition.")]
        others = [
            Problem(f"/{name}", "not_allowed", "It belongs to a definition.") for name in ("input",) if name in asked
        ]
        if missing or others:
            raise BadInput("", missing + others)
        return composition.submit_pipeline(**asked, owner=owner), len(asked["steps"])
    if said := [name for name in OF_STEPS if name in asked]:
        raise BadInput("", [Problem(f"/{name}", "not_allowed", "A definition says so itself.") for name in said])
    job = composition.start_definition(asked.pop("definition"), asked.pop("input", None), **asked, owner=owner)
    return job, job.children.count()


class PipelineView(APIView):
    @extend_schema(
        operation_id="pipeline",
        tags=["pipelines"],
        summary="Get a pipeline with all of its steps",
        description="Any job with children is a pipeline. `GET /jobs/{id}?wait=` waits for its end.",
        parameters=[PIPELINE_ID],
        responses={200: PipelineSerializer, **problems(404)},
        examples=[example(200, "A pipeline", examples.A_PIPELINE)],
    )
    def get(self, request: Request, pipeline_id: str) -> Response:
        return Response(_detail(request, read_id(pipeline_id=pipeline_id)))

    @extend_schema(
        operation_id="cancel_pipeline",
        tags=["pipelines"],
        summary="Cancel a pipeline",
        description="Steps that have not started are cancelled at once; running ones stop at their next checkpoint.",
        parameters=[PIPELINE_ID],
        responses={
            200: OpenApiResponse(PipelineSerializer, "It is CANCELLED."),
            202: OpenApiResponse(PipelineSerializer, "Steps of it are running and will stop."),
            **problems(404, 409),
        },
    )
    def delete(self, request: Request, pipeline_id: str) -> Response:
        id = read_id(pipeline_id=pipeline_id)
        require_visible(request.user, Job, id, to="orchestrator.cancel_job")
        _detail(request, id)
        job = submission.cancel(id)
        return Response(_detail(request, id), status=200 if job.status == Status.CANCELLED else 202)


class RetryPipelineView(APIView):
    @extend_schema(
        operation_id="retry_pipeline",
        tags=["pipelines"],
        summary="Retry a failed or cancelled pipeline",
        description="What failed, was cancelled or was not reached runs; what has completed does not run again, nor "
        "does a failed step after which the pipeline has gone on.",
        parameters=[PIPELINE_ID, IDEMPOTENCY_KEY, LOCATION],
        request=NoFields,
        responses={
            202: OpenApiResponse(PipelineSerializer, "It goes on."),
            **problems(404, 409, 413, 415, 422),
        },
    )
    @idempotent
    def post(self, request: Request, pipeline_id: str) -> Response:
        id = read_id(pipeline_id=pipeline_id)
        read_body(NoFields, request)
        require_visible(request.user, Job, id, to="orchestrator.retry_job")
        _detail(request, id)
        client_limits.check_retry(id, client_limits.limits_of(request.user).quotas)
        submission.retry(id)
        return Response(_detail(request, id), status=202, headers=location(request, link("pipeline", id)))


class ForkPipelineView(APIView):
    @extend_schema(
        operation_id="fork_pipeline",
        tags=["pipelines"],
        summary="Start a pipeline that takes over results of another",
        description="The new one has the same steps and the same owner. The step `from`, what comes after it, and "
        "what has not completed run; the others are COMPLETED at once with the results that they had, and their "
        "`outcome` is REUSED. Priorities and attempts that you may not ask for become the nearest that you "
        "may. The pipeline that it is forked from, in whatever state it is, stays as it is.",
        parameters=[PIPELINE_ID, ForkParameters, IDEMPOTENCY_KEY, LOCATION],
        request=NoFields,
        responses={
            202: OpenApiResponse(PipelineSerializer, "The new pipeline; it will reach a final state."),
            **problems(404, 413, 415, 422),
        },
    )
    @idempotent
    def post(self, request: Request, pipeline_id: str) -> Response:
        id = read_id(pipeline_id=pipeline_id)
        first = read_query(ForkParameters, request)["from"]
        read_body(NoFields, request)
        require_visible(request.user, Job, id, to="orchestrator.retry_job")
        _detail(request, id)
        pipeline = Job.objects.get(id=id)
        limits = client_limits.limits_of(request.user)
        client_limits.check_again(Job.objects.filter(id=id), limits.quotas)
        try:
            new = composition.fork(pipeline, first, limits=limits)
        except composition.NoSuchStep as error:
            raise BadInput("query", [Problem("/from", "unknown_step", str(error))]) from None
        return Response(_detail(request, new.id), status=202, headers=location(request, link("pipeline", new.id)))


def _detail(request: Request, id: Any) -> dict[str, Any]:
    """Raises Job.DoesNotExist for what the user may not see, and for what is no pipeline."""
    return composition.pipeline_detail(queries.visible_jobs(request.user).get(id=id))
