"""The two-batch orchestration of a user: each endpoint translates a request and makes one call."""

from __future__ import annotations

from django.http import Http404
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import UnknownOwner, owner_to_submit_for
from orchestrator import queries, submission
from orchestrator.client_limits import check_quotas, limits_of
from orchestrator.http import examples, openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.fields import NoFields
from orchestrator.http.idempotency import idempotent
from orchestrator.http.job_views import JOB_ID
from orchestrator.http.links import location
from orchestrator.http.openapi import IDEMPOTENCY_KEY, LOCATION, example, problems
from orchestrator.http.orchestration_serializers import PATH, OrchestrationStatusSerializer, StartedSerializer
from orchestrator.http.requests import read_body, read_path
from orchestrator.kinds import kind_named

USERNAME = openapi.path_parameter(
    "username",
    "1 to 150 letters, digits and @ . + - _; not . or .. alone.",
    pattern=r"^(?!\.{1,2}$)[\w.@+-]+$",
    minLength=1,
    maxLength=150,
)


class OrchestrateView(APIView):
    submits = True

    @extend_schema(
        operation_id="orchestrate",
        tags=["orchestration"],
        summary="Start the two-batch orchestration",
        description="Five parallel draws, their sum, five more draws with an offset derived from it, their sum, and "
        "both sums combined. The number of unfinished ones per user is limited; a 429 says when to try again.",
        parameters=[USERNAME, IDEMPOTENCY_KEY, LOCATION],
        request=NoFields,
        responses={
            202: OpenApiResponse(StartedSerializer, "Accepted; follow `status_url`."),
            **problems(404, 413, 415, 422),
        },
        examples=[example(202, "Started", examples.STARTED)],
    )
    @idempotent
    def post(self, request: Request, username: str) -> Response:
        name = read_path(PATH, username=username)["username"]
        try:
            owner = owner_to_submit_for(request.user, name)
        except UnknownOwner as error:
            raise Http404(str(error)) from None
        read_body(NoFields, request)
        check_quotas({owner: 1}, limits_of(request.user), stored=0)
        # As one of many, whose rows are not read again: the answer shows no more than was asked for.
        [accepted] = submission.submit_all([(kind_named(queries.ORCHESTRATION), {"payload": {}, "owner": owner})])
        started = StartedSerializer(accepted).data
        return Response(started, status=202, headers=location(request, started["status_url"]))


class StatusView(APIView):
    @extend_schema(
        operation_id="status",
        tags=["orchestration"],
        summary="Get the status of an orchestration",
        description="PENDING until it starts. `result` is there when COMPLETED, `error` when FAILED.",
        parameters=[USERNAME, JOB_ID],
        responses={200: OrchestrationStatusSerializer, **problems(404)},
        examples=[
            example(200, "Running", examples.STATUS | {"status": "RUNNING"}),
            example(200, "Completed", examples.STATUS | {"status": "COMPLETED", "result": examples.RESULT}),
        ],
    )
    def get(self, request: Request, username: str, job_id: str) -> Response:
        asked = read_path(PATH, username=username, job_id=job_id)
        job = queries.orchestration_of(request.user, asked["username"], asked["job_id"])
        return Response(OrchestrationStatusSerializer(job).data)
