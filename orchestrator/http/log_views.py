"""What the handler of a job has logged."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import require_visible
from orchestrator import queries
from orchestrator.http.api_view import APIView
from orchestrator.http.examples import A_LOG_LINE
from orchestrator.http.fields import QueryIntegerField, StrictSerializer
from orchestrator.http.job_views import JOB_ID
from orchestrator.http.openapi import problems
from orchestrator.http.pagination import CursorPagination
from orchestrator.http.requests import read_id, read_query
from orchestrator.models import Job

MAX_ROW, MAX_NUMBER = 2**63 - 1, 2**31 - 1


class LogFilters(StrictSerializer):
    attempt = QueryIntegerField(
        required=False, min_value=1, max_value=MAX_NUMBER, help_text="Only of the attempt with this number."
    )


@extend_schema_serializer(
    component_name="LogLine", examples=[OpenApiExample("A line", A_LOG_LINE, response_only=True)]
)
class LogLineSerializer(serializers.Serializer[Any]):
    """A line that a handler has logged."""

    id = serializers.CharField(help_text="`?cursor=` it for the lines that follow, also those that are still to come.")
    attempt = serializers.IntegerField()
    number = serializers.IntegerField(
        help_text="Counts from 1 within the attempt; where it jumps, the lines between were more than JOB_LOG_LINES."
    )
    at = serializers.DateTimeField()
    level = serializers.CharField(help_text="Such as INFO, WARNING or ERROR.")
    logger = serializers.CharField(help_text="The kind's name for `job.log`.")
    message = serializers.CharField(help_text="With the traceback, if there was one; its first 2,000 characters.")

    def to_representation(self, line: queries.LogLine) -> dict[str, Any]:
        return {"id": f"{line.row}-{line.number}"} | {name: getattr(line, name) for name in list(self.fields)[1:]}


class LinesInOrder(CursorPagination):
    """Lines by their ids, the first first."""

    cursor = {"type": "string", "pattern": "^[0-9]{1,18}-[0-9]{1,9}$"}

    def read_cursor(self, text: str) -> tuple[int, int]:
        if not re.fullmatch(r"[0-9]{1,18}-[0-9]{1,9}", text):
            raise ValueError(text)
        row, _, number = text.partition("-")
        return int(row), int(number)

    def page(self, request: Request, job_id: UUID, attempt: int | None) -> Response:
        limit, after = self.limit(request), self.position(request) or (0, 0)
        lines = queries.log_lines(job_id, attempt=attempt, after=after, limit=limit + 1)
        shown = LogLineSerializer(lines[:limit], many=True).data
        self.set_next(request, shown[-1]["id"] if len(lines) > limit else None)
        return self.get_paginated_response(shown)


class LogsView(APIView):
    pagination_class = LinesInOrder

    @extend_schema(
        operation_id="job_logs",
        tags=["jobs"],
        summary="List what the job's handler has logged, the first line first",
        description="What `job.log` and any other logger wrote while the handler ran, from `LOG_LEVEL` up. Of each "
        "attempt at most `JOB_LOG_LINES` are kept: the first and the last half. A line can be read about a second "
        "after it was logged.",
        parameters=[JOB_ID, LogFilters],
        responses={(200, "application/json"): LogLineSerializer(many=True), **problems(404)},
    )
    def get(self, request: Request, job_id: str) -> Response:
        id = read_id(job_id=job_id)
        asked = read_query(LogFilters, request)
        require_visible(request.user, Job, id)
        return LinesInOrder().page(request, id, asked.get("attempt"))
