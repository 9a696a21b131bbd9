"""The endpoint of the records that were not stored, as JSON page by page or as CSV all at once."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from django.db.models import QuerySet
from django.http import HttpResponseBase, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request

from ingestion import queries
from ingestion.http.ingestion_views import TASK_ID
from ingestion.http.serializers import ErrorsOptions, RecordErrorSerializer, for_spreadsheet
from ingestion.models import RecordError
from orchestrator.http.api_view import APIView
from orchestrator.http.openapi import problems
from orchestrator.http.pagination import LastNumberFirst
from orchestrator.http.requests import read_id, read_query
from orchestrator.http.responses import JSONRenderer

FILE_NAME = OpenApiParameter(
    "Content-Disposition",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    response=[200],
    description="The file name for browsers.",
)


# Rows of errors that a CSV file being read keeps in memory.
ERRORS_AT_ONCE = 250


class ByIndex(LastNumberFirst):
    """Pages of record errors in the order of what was sent."""

    column = ordering = "index"


class JSONOrCSV(JSONRenderer):
    """JSON, for a view that writes CSV by itself."""

    also_known_as = ("text/csv", *JSONRenderer.also_known_as)


class ErrorsView(APIView):
    pagination_class = ByIndex
    renderer_classes = (JSONOrCSV,)

    @extend_schema(
        operation_id="ingestion_errors",
        tags=["ingestion"],
        summary="List the records that were not stored, and why",
        parameters=[TASK_ID, ErrorsOptions, FILE_NAME],
        responses={
            (200, "application/json"): RecordErrorSerializer(many=True),
            (200, "text/csv"): OpenApiTypes.STR,
            **problems(404),
        },
    )
    def get(self, request: Request, task_id: str) -> HttpResponseBase:
        id = read_id(task_id=task_id)
        options = read_query(ErrorsOptions, request)
        errors = RecordError.objects.filter(ingestion=queries.visible_ingestion(request.user, id))
        by_header = "csv" if request.accepted_media_type == "text/csv" else "json"
        if options.get("format", by_header) == "csv":
            name = f'attachment; filename="errors-{id}.csv"'
            return StreamingHttpResponse(
                _csv_lines(errors), content_type="text/csv; charset=utf-8", headers={"Content-Disposition": name}
            )
        return ByIndex().respond(errors, request, RecordErrorSerializer)


class _Line:
    """What csv.writer writes to; it hands each line back."""

    def write(self, line: str) -> str:
        return line


def _csv_lines(errors: QuerySet[RecordError]) -> Iterator[str]:
    """One line a bad field. It begins with a byte order mark, or Excel would not read UTF-8."""
    writer = csv.writer(_Line())
    yield "\ufeff" + writer.writerow(["index", "student_id", "field", "code", "message"])
    after = -1
    rows = errors.order_by("index").values_list("index", "student_id", "errors")
    # In short pages, not by a cursor of the database: each may be read by another thread, and waits for a slow client.
    while page := list(rows.filter(index__gt=after)[:ERRORS_AT_ONCE]):
        for after, student_id, fields in page:
            for each in fields:
                texts = [student_id, each["field"], each["code"], each["message"]]
                yield writer.writerow([after, *map(for_spreadsheet, texts)])
