"""The endpoint of uploads of any length."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

from django.conf import settings
from django.http.request import UnreadablePostError
from django.utils.http import parse_header_parameters
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import owner_of
from ingestion.http.ingestion_views import accepted
from ingestion.http.serializers import CSV, NDJSON, Accepted, StreamOptions
from ingestion.models import Ingestion
from ingestion.queries import received_bytes
from ingestion.records import uploads
from ingestion.services.receiving import discard_upload, receive, submit_upload
from orchestrator.client_limits import check_quotas, limits_of
from orchestrator.http.api_view import APIView
from orchestrator.http.idempotency import fingerprint_of, key_of, respond_once
from orchestrator.http.openapi import IDEMPOTENCY_KEY, LOCATION, problems
from orchestrator.http.parsers import content_codings
from orchestrator.http.requests import BadInput, read_query
from orchestrator.kind_problems import Problem

# What an upload is, by its content type.
FORMATS = {
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
}


class UnsupportedUpload(exceptions.APIException):
    """Neither NDJSON nor CSV with a header."""

    status_code = 415
    default_detail = "Send Content-Type: application/x-ndjson, or text/csv with a header."


class LengthNeeded(exceptions.APIException):
    """The web server ends a chunked body alike whether it is complete or its connection broke."""

    status_code = 411
    default_detail = (
        "Send a Content-Length, or compress the body with gzip (Content-Encoding: gzip): otherwise a broken "
        "connection would look like the end of the file."
    )


class TooLargeUpload(exceptions.APIException):
    """More than the settings allow for one upload."""

    status_code = 413


class StreamView(APIView):
    submits = True
    reads_stream = True

    @extend_schema(
        operation_id="ingest_stream",
        tags=["ingestion"],
        summary="Store the student records of a file of any length",
        description="NDJSON, or CSV with a header that names the fields, in UTF-8, with a Content-Length; or "
        "compressed with gzip, then also chunked. It becomes jobs of 1,000 records under one parent, which share "
        "one status. Invalid lines are reported by number, from 1. Nothing is stored until the whole file has "
        "arrived; if the connection breaks nothing is kept.\n\n"
        "`curl -T students.csv -H 'Content-Type: text/csv' -X POST http://localhost:8000/api/data/ingest/stream`",
        parameters=[StreamOptions, IDEMPOTENCY_KEY, LOCATION],
        request={"application/x-ndjson": NDJSON, "text/csv": CSV},
        responses={
            202: OpenApiResponse(Accepted, "Accepted; follow `status_url`."),
            **problems(411, 413, 415, 422),
        },
    )
    def post(self, request: Request) -> Response:
        key = key_of(request)
        on_conflict = read_query(StreamOptions, request)["on_conflict"]
        digest = hashlib.sha256()
        ingestion = _received(request, digest, on_conflict)
        try:
            return respond_once(
                request,
                key,
                fingerprint_of(request, digest.digest()),
                lambda: _submitted(request, ingestion),
            )
        finally:
            discard_upload(ingestion)


def _submitted(request: Request, ingestion: Ingestion) -> Response:
    """Raises QuotaExceeded; then the upload is not kept."""
    owner = owner_of(request.user)
    check_quotas({owner: 1}, limits_of(request.user), stored=received_bytes(ingestion))
    return accepted(request, submit_upload(ingestion, owner=owner))


def _received(request: Request, digest: Any, on_conflict: str) -> Ingestion:
    """The records of a streamed body, kept but not yet submitted; nothing is kept where it is refused."""
    is_packed = bool(content_codings(request, "gzip"))
    format = _format_of(request.content_type or "")
    has_a_known_end = request.META.get("CONTENT_LENGTH") or request.META.get("muster.tells_a_broken_body")
    if not is_packed and not has_a_known_end:
        raise LengthNeeded
    body = _body(request, digest)
    # Read before anything is stored: that it has not come yet must reach the server unchanged.
    first = next(body, b"")
    lines = uploads.staged_lines(
        chain([first], body),
        format=format,
        is_packed=is_packed,
        max_bytes=settings.ENV.INGESTION_MAX_UPLOAD_BYTES,
        max_records=settings.ENV.INGESTION_MAX_UPLOAD_RECORDS,
    )
    try:
        ingestion = receive(lines, on_conflict=on_conflict)
    except uploads.BadUpload as error:
        raise BadInput("", error.problems) from None
    except uploads.UploadTooLarge as error:
        raise TooLargeUpload(str(error)) from None
    if not ingestion.total_records:
        discard_upload(ingestion)
        raise BadInput("", [Problem("", "empty", "The body contains no records.")])
    return ingestion


def _format_of(content_type: str) -> str:
    """What an upload is; raises UnsupportedUpload for what is not known, and for CSV that has no header (RFC 4180)."""
    media_type, parameters = parse_header_parameters(content_type)
    format = FORMATS.get(media_type)
    if format is None or parameters.get("header", "").lower() == "absent":
        raise UnsupportedUpload
    return format


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
    except UnreadablePostError:
        raise
    except OSError as error:
        raise UnreadablePostError(*error.args) from error
    if declared and received < int(declared):
        raise UnreadablePostError("The connection closed before the whole body had arrived.")
