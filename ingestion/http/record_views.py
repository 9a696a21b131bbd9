"""The endpoints of stored records."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import with_owners
from ingestion import queries
from ingestion.http.serializers import PATH, RecordFilters, RecordSerializer
from ingestion.models import Record
from orchestrator.http import openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.openapi import problems
from orchestrator.http.pagination import LastNumberFirst
from orchestrator.http.requests import read_path, read_query

STUDENT_ID = openapi.path_parameter("student_id", "The record's student_id.", minLength=1, maxLength=50)


class RecordsView(APIView):
    pagination_class = LastNumberFirst

    @extend_schema(
        operation_id="list_records",
        tags=["ingestion"],
        summary="List the stored records, newest first",
        parameters=[RecordFilters],
        responses={(200, "application/json"): RecordSerializer(many=True), **problems()},
    )
    def get(self, request: Request) -> Response:
        filters = with_owners(request.user, read_query(RecordFilters, request))
        return LastNumberFirst().respond(_filtered(request, filters), request, RecordSerializer)


class RecordView(APIView):
    @extend_schema(
        operation_id="record",
        tags=["ingestion"],
        summary="Get a stored record",
        parameters=[STUDENT_ID],
        responses={200: RecordSerializer, **problems(404)},
    )
    def get(self, request: Request, student_id: str) -> Response:
        asked = read_path(PATH, student_id=student_id)["student_id"]
        return Response(RecordSerializer(queries.visible_record(request.user, asked)).data)


def _filtered(request: Request, filters: dict[str, Any]) -> QuerySet[Record]:
    records = queries.visible_records(request.user).select_related("ingestion")
    renamed = {"task_id": "ingestion__job", "updated_after": "updated_at__gte", "updated_before": "updated_at__lt"}
    return records.filter(**{renamed.get(name, name): value for name, value in filters.items()})
