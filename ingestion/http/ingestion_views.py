"""The endpoints of ingestions: each translates a request and makes one call."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import owner_of
from ingestion import queries
from ingestion.http.records_parser import RecordsParser
from ingestion.http.serializers import Accepted, IngestionStatus, NewIngestion
from ingestion.models import Ingestion
from ingestion.services.receiving import accept
from orchestrator import stored_bytes, submission
from orchestrator.client_limits import check_quotas, limits_of
from orchestrator.http import openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.idempotency import idempotent
from orchestrator.http.links import link, location
from orchestrator.http.openapi import IDEMPOTENCY_KEY, LOCATION, problems
from orchestrator.http.requests import body_bytes, read_body, read_id
from orchestrator.states import Status

stored_bytes.SOURCES.append(queries.STORED)

TASK_ID = openapi.path_parameter("task_id", "The ingestion's id, a UUID.", format="uuid")


class IngestView(APIView):
    submits = True
    parser_classes = (RecordsParser,)

    @extend_schema(
        operation_id="ingest",
        tags=["ingestion"],
        summary="Store up to 1,000 student records",
        description="The records are validated and stored in the background, in steps of a hundred "
        "where an external service is called. Invalid ones "
        "are reported by their index; of several with the same student_id the first valid one is used.",
        parameters=[IDEMPOTENCY_KEY, LOCATION],
        request=NewIngestion,
        responses={
            202: OpenApiResponse(Accepted, "Accepted; follow `status_url`."),
            **problems(413, 415, 422),
        },
    )
    @idempotent
    def post(self, request: Request) -> Response:
        asked = read_body(NewIngestion, request)
        owner = owner_of(request.user)
        check_quotas({owner: 1}, limits_of(request.user), stored=body_bytes(request))
        ingestion = accept(**asked, owner=owner)
        return accepted(request, ingestion)


class IngestionStatusView(APIView):
    @extend_schema(
        operation_id="ingestion_status",
        tags=["ingestion"],
        summary="Get the status of an ingestion",
        parameters=[TASK_ID],
        responses={200: IngestionStatus, **problems(404)},
    )
    def get(self, request: Request, task_id: str) -> Response:
        id = read_id(task_id=task_id)
        return _status_response(queries.visible_ingestion(request.user, id))

    @extend_schema(
        operation_id="cancel_ingestion",
        tags=["ingestion"],
        summary="Cancel an ingestion",
        description="Completed steps are kept, unless the mode is all_or_nothing. A running ingestion stops within "
        "about a second.",
        parameters=[TASK_ID],
        responses={
            200: OpenApiResponse(IngestionStatus, "It is CANCELLED."),
            202: OpenApiResponse(IngestionStatus, "It is running and will stop."),
            **problems(404, 409),
        },
    )
    def delete(self, request: Request, task_id: str) -> Response:
        id = read_id(task_id=task_id)
        queries.visible_ingestion(request.user, id, to="ingestion.cancel_ingestion")
        job = submission.cancel(id, action="ingestion.cancel")
        ingestion = queries.visible_ingestion(request.user, id)
        return _status_response(ingestion, status=200 if job.status == Status.CANCELLED else 202)


def accepted(request: Request, ingestion: Ingestion) -> Response:
    """202 for an ingestion that was just submitted."""
    status_url = link("ingestion_status", ingestion.job_id)
    body = {
        "task_id": ingestion.job_id,
        "status": "PENDING",
        "message": "Data ingestion started.",
        "total_records": ingestion.total_records,
        "status_url": status_url,
    }
    return Response(Accepted(body).data, status=202, headers=location(request, status_url))


def _status_response(ingestion: Ingestion, status: int = 200) -> Response:
    context = {"errors_url": link("ingestion_errors", ingestion.job_id)}
    progress = queries.progress_of(ingestion)
    return Response(IngestionStatus(progress, context=context).data, status=status)
