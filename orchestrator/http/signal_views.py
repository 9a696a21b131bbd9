"""Signals to jobs and pipelines."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import owner_of, require_visible
from orchestrator import signalling
from orchestrator.client_limits import check_signal, limits_of
from orchestrator.graphs.waits import NAME
from orchestrator.http import openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.idempotency import idempotent
from orchestrator.http.job_views import JOB_ID
from orchestrator.http.openapi import IDEMPOTENCY_KEY, example, problems
from orchestrator.http.requests import BadInput, body_bytes, read_path
from orchestrator.kind_problems import Problem
from orchestrator.models import Job

PATH: dict[str, serializers.Field[Any, Any, Any, Any]] = {
    "job_id": serializers.UUIDField(),
    "name": serializers.RegexField(rf"^{NAME.pattern}$", error_messages={"invalid": "No signal has such a name."}),
}


@extend_schema_serializer(component_name="SentSignal")
class SentSignal(serializers.Serializer[Any]):
    job_id = serializers.UUIDField()
    signal = serializers.CharField()


class SignalView(APIView):
    @extend_schema(
        operation_id="send_signal",
        tags=["jobs"],
        summary="Send a signal to a job or a pipeline",
        description="To a job that was submitted with `wait_for`, or to a pipeline, for all of its steps that wait "
        "for it. It is kept if they do not wait yet; a second one is refused. The body is an object, with the "
        "fields that `wait_for` names if it names any, of up to 64 KiB. An empty body is `{}`.",
        parameters=[
            JOB_ID,
            openapi.path_parameter("name", "As in `wait_for`.", pattern=rf"^{NAME.pattern}$"),
            IDEMPOTENCY_KEY,
        ],
        request={"application/json": {"type": "object"}},
        responses={
            202: OpenApiResponse(SentSignal, "It is kept, and what waited for it goes on."),
            **problems(404, 409, 413, 415, 422),
        },
        examples=[example(None, "Approved", {"approved": True})],
    )
    @idempotent
    def post(self, request: Request, job_id: str, name: str) -> Response:
        path = read_path(PATH, job_id=job_id, name=name)
        require_visible(request.user, Job, path["job_id"], to="orchestrator.signal_job")
        body = request.data
        if not isinstance(body, dict):
            raise BadInput("", [Problem("", "not_an_object", "The body of a signal must be a JSON object.")])
        check_signal(path["job_id"], limits_of(request.user).quotas, stored=body_bytes(request))
        signalling.send_signal(path["job_id"], name, body, sent_by=owner_of(request.user))
        return Response({"job_id": path["job_id"], "signal": name}, status=202)
