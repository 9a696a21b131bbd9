"""The ingestion's endpoints: each translates a request and makes one call."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db.models import QuerySet
from django.http import HttpResponseBase, StreamingHttpResponse
from django.http.request import UnreadablePostError
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

from config import openapi
from config.api import BadInput, NewestFirst, read_body, read_id, read_path, read_query
from config.links import link, root_of
from config.openapi import IDEMPOTENCY_KEY, LOCATION, problems
from ingestion import queries, serializers, services, uploads
from ingestion.models import Ingestion, Record, RecordError
from orchestrator import submission
from orchestrator.idempotency import answer_once, answered_once, check_key, fingerprint_of
from orchestrator.kinds import Problem
from orchestrator.states import Status

TASK_ID = openapi.path_parameter("task_id", "What the ingestion was answered with, a UUID.", format="uuid")
STUDENT_ID = openapi.path_parameter("student_id", "The record's student_id.", minLength=1, maxLength=50)


# What an upload is, by its content type.
FORMATS = {
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
}


class IngestView(APIView):
    @extend_schema(
        operation_id="ingest",
        tags=["ingestion"],
        summary="Store up to 1,000 student records",
        description="The records are validated and stored in the background, a hundred at a time. Bad ones are "
        "reported by their index; of several with the same student_id the first good one counts.",
        parameters=[IDEMPOTENCY_KEY, LOCATION],
        request=serializers.NewIngestion,
        responses={
            202: OpenApiResponse(serializers.Accepted, "Accepted; follow `status_url`."),
            **problems(400, 403, 413, 415, 422),
        },
    )
    @answered_once
    def post(self, request: Request) -> Response:
        asked = read_body(serializers.NewIngestion, request)
        ingestion = services.accept(**asked, owner=_owner(request))
        return accepted(request, ingestion)


class UnsupportedUpload(exceptions.APIException):
    """Neither NDJSON nor CSV, or packed in a way that is not known here."""

    status_code = 415
    default_detail = "Send Content-Type: application/x-ndjson or text/csv, as it is or with Content-Encoding: gzip."


class LengthNeeded(exceptions.APIException):
    """The web server ends a chunked body alike whether it is complete or its connection broke."""

    status_code = 411
    default_detail = (
        "Send a Content-Length, or pack the body with gzip (Content-Encoding: gzip), which has an end of its own: "
        "otherwise a connection that breaks could not be told from the end of the file."
    )


class TooLargeUpload(exceptions.APIException):
    """More than the settings allow for one upload."""

    status_code = 413


class StreamView(APIView):
    reads_stream = True

    @extend_schema(
        operation_id="ingest_stream",
        tags=["ingestion"],
        summary="Store student records of a file of any length",
        description="NDJSON, or CSV with a header that names the fields, with a Content-Length; or packed with gzip, "
        "then also chunked. It becomes jobs of 1,000 records under one parent, which share one status. What "
        "cannot be read is reported by its line number, from 1. Until the whole file has arrived nothing is stored, "
        "and if the connection breaks nothing is kept.\n\n"
        "`curl -T students.csv -H 'Content-Type: text/csv' -X POST http://localhost:8000/api/data/ingest/stream`",
        parameters=[serializers.StreamOptions, IDEMPOTENCY_KEY, LOCATION],
        request={"application/x-ndjson": OpenApiTypes.STR, "text/csv": OpenApiTypes.STR},
        responses={
            202: OpenApiResponse(serializers.Accepted, "Accepted; follow `status_url`."),
            **problems(400, 403, 411, 413, 415, 422),
        },
    )
    def post(self, request: Request) -> Response:
        key = request.headers.get("Idempotency-Key")
        if key is not None:
            check_key(key)
        on_conflict = read_query(serializers.StreamOptions, request)["on_conflict"]
        digest = hashlib.sha256()
        ingestion = _received(request, digest, on_conflict)
        try:
            return answer_once(
                request,
                key,
                fingerprint_of(request, digest.digest()),
                lambda: accepted(request, services.submit_upload(ingestion, owner=_owner(request))),
            )
        finally:
            services.forget(ingestion)


def _received(request: Request, digest: Any, on_conflict: str) -> Ingestion:
    """The records of a streamed body, kept but not yet submitted; nothing is kept where it is refused."""
    format = FORMATS.get((request.content_type or "").partition(";")[0].strip().lower())
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if format is None or encoding not in ("identity", "gzip"):
        raise UnsupportedUpload
    if encoding != "gzip" and not request.META.get("CONTENT_LENGTH"):
        raise LengthNeeded
    lines = uploads.waiting_lines(
        _body(request, digest),
        format=format,
        is_packed=encoding == "gzip",
        most_bytes=settings.ENV.INGESTION_MAX_UPLOAD_BYTES,
        most_records=settings.ENV.INGESTION_MAX_UPLOAD_RECORDS,
    )
    try:
        ingestion = services.receive(lines, on_conflict=on_conflict)
    except uploads.BadUpload as error:
        raise BadInput("", error.problems) from None
    except uploads.UploadTooLarge as error:
        raise TooLargeUpload(str(error)) from None
    if not ingestion.total_records:
        services.forget(ingestion)
        raise BadInput("", [Problem("", "empty", "The body holds no records.")])
    return ingestion


def _body(request: Request, digest: Any) -> Iterator[bytes]:
    """The body piece by piece, and its hash; raises UnreadablePostError where it ends before its Content-Length."""
    declared = request.META.get("CONTENT_LENGTH")
    # Without Content-Length Django sees no body.
    read = request.read if declared else request.META["wsgi.input"].read
    received = 0
    try:
        for piece in uploads.pieces(read):
            received += len(piece)
            digest.update(piece)
            yield piece
    except OSError as error:
        raise UnreadablePostError(*error.args) from error
    if declared and received < int(declared):
        raise UnreadablePostError("The body broke off.")


class IngestionStatusView(APIView):
    @extend_schema(
        operation_id="ingestion_status",
        tags=["ingestion"],
        summary="See how far an ingestion is",
        parameters=[TASK_ID],
        responses={200: serializers.IngestionStatus, **problems(400, 404)},
    )
    def get(self, request: Request, task_id: str) -> Response:
        id = read_id(task_id=task_id)
        return _status_response(request, queries.visible_ingestion(request.user, id))

    @extend_schema(
        operation_id="cancel_ingestion",
        tags=["ingestion"],
        summary="Cancel an ingestion",
        description="Steps that are finished are kept, unless it is all or nothing. A running one notices within "
        "about a second.",
        parameters=[TASK_ID],
        responses={
            200: OpenApiResponse(serializers.IngestionStatus, "It is CANCELLED."),
            202: OpenApiResponse(serializers.IngestionStatus, "It is running and will notice."),
            **problems(400, 403, 404, 409),
        },
    )
    def delete(self, request: Request, task_id: str) -> Response:
        id = read_id(task_id=task_id)
        queries.visible_ingestion(request.user, id)
        job = submission.cancel(id)
        ingestion = queries.visible_ingestion(request.user, id)
        return _status_response(request, ingestion, status=200 if job.status == Status.CANCELLED else 202)


class ByIndex(NewestFirst):
    """Pages of record errors in the order of what was sent."""

    def paginate_queryset(
        self, queryset: QuerySet[Any], request: Request, view: APIView | None = None
    ) -> list[RecordError]:
        limit = self._limit(request)
        if cursor := request.query_params.get("cursor"):
            queryset = queryset.filter(index__gt=self._index(cursor))
        rows = list(queryset.order_by("index")[: limit + 1])
        self._next = None
        if len(rows) > limit:
            self._next = replace_query_param(request.build_absolute_uri(), "cursor", str(rows[limit - 1].index))
        return rows[:limit]

    def _index(self, cursor: str) -> int:
        if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 10):
            raise BadInput("query", [Problem("/cursor", "invalid", "This is no cursor; take the one in `next`.")])
        return int(cursor)


class ErrorsView(APIView):
    pagination_class = ByIndex

    @extend_schema(
        operation_id="ingestion_errors",
        tags=["ingestion"],
        summary="See which records were not stored, and why",
        parameters=[TASK_ID, serializers.ErrorsOptions],
        responses={
            (200, "application/json"): serializers.ShownRecordError(many=True),
            (200, "text/csv"): OpenApiTypes.STR,
            **problems(400, 404),
        },
    )
    def get(self, request: Request, task_id: str) -> HttpResponseBase:
        id = read_id(task_id=task_id)
        options = read_query(serializers.ErrorsOptions, request)
        errors = RecordError.objects.filter(ingestion=queries.visible_ingestion(request.user, id))
        if options["format"] == "csv":
            name = f'attachment; filename="errors-{id}.csv"'
            return StreamingHttpResponse(
                _csv_lines(errors), content_type="text/csv; charset=utf-8", headers={"Content-Disposition": name}
            )
        pages = ByIndex()
        page = pages.paginate_queryset(errors, request)
        return pages.get_paginated_response(serializers.ShownRecordError(page, many=True).data)


class RecordsView(APIView):
    pagination_class = NewestFirst

    @extend_schema(
        operation_id="list_records",
        tags=["ingestion"],
        summary="List the stored records, newest first",
        parameters=[serializers.RecordFilters],
        responses={(200, "application/json"): serializers.ShownRecord(many=True), **problems(400)},
    )
    def get(self, request: Request) -> Response:
        filters = read_query(serializers.RecordFilters, request)
        pages = NewestFirst()
        page = pages.paginate_queryset(_filtered(request, filters), request)
        return pages.get_paginated_response(serializers.ShownRecord(page, many=True).data)


class RecordView(APIView):
    @extend_schema(
        operation_id="record",
        tags=["ingestion"],
        summary="See a stored record",
        parameters=[STUDENT_ID],
        responses={200: serializers.ShownRecord, **problems(400, 404)},
    )
    def get(self, request: Request, student_id: str) -> Response:
        asked = read_path(serializers.PATH, student_id=student_id)["student_id"]
        return Response(serializers.ShownRecord(queries.visible_record(request.user, asked)).data)


def accepted(request: Request, ingestion: Ingestion) -> Response:
    """202 for an ingestion that was just submitted."""
    status_url = _url(request, "ingestion_status", ingestion)
    body = {
        "task_id": ingestion.job_id,
        "status": "PENDING",
        "message": "Data ingestion started.",
        "total_records": ingestion.total_records,
        "status_url": status_url,
    }
    return Response(serializers.Accepted(body).data, status=202, headers={"Location": status_url})


def _status_response(request: Request, ingestion: Ingestion, status: int = 200) -> Response:
    context = {"errors_url": _url(request, "ingestion_errors", ingestion)}
    progress = queries.progress_of(ingestion)
    return Response(serializers.IngestionStatus(progress, context=context).data, status=status)


def _url(request: Request, name: str, ingestion: Ingestion) -> str:
    return link(root_of(request), name, ingestion.job_id)


def _owner(request: Request) -> str:
    return request.user.get_username() if request.user.is_authenticated else ""


def _filtered(request: Request, filters: dict[str, Any]) -> QuerySet[Record]:
    records = queries.visible_records(request.user).select_related("ingestion")
    renamed = {"task_id": "ingestion__job", "updated_after": "updated_at__gte", "updated_before": "updated_at__lt"}
    return records.filter(**{renamed.get(name, name): value for name, value in filters.items()})


class _Line:
    """What csv.writer writes to; it hands each line back."""

    def write(self, line: str) -> str:
        return line


def _csv_lines(errors: QuerySet[RecordError]) -> Iterator[str]:
    """One line a bad field. It begins with a byte order mark, or Excel would not read UTF-8."""
    writer = csv.writer(_Line())
    yield "\ufeff" + writer.writerow(["index", "student_id", "field", "code", "message"])
    for error in errors.order_by("index").iterator(2_000):
        for each in error.errors:
            texts = [error.student_id, each["field"], each["code"], each["message"]]
            yield writer.writerow([error.index, *map(serializers.for_spreadsheet, texts)])
