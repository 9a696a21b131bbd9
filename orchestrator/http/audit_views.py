"""The audit trail."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import with_owners
from orchestrator import queries
from orchestrator.http.api_view import APIView
from orchestrator.http.audit_serializers import AuditEntrySerializer, AuditFilters
from orchestrator.http.openapi import problems
from orchestrator.http.pagination import LastNumberFirst
from orchestrator.http.requests import read_query


class AuditView(APIView):
    pagination_class = LastNumberFirst

    @extend_schema(
        operation_id="audit_trail",
        tags=["audit"],
        summary="List who changed what, newest first",
        description="What was cancelled, retried, paused, resumed, changed, deleted or given rights, and who logged "
        "in, by the API, the admin and the command line alike. It requires the permission `access.view_auditentry`. "
        "Submissions are not listed: each job names its owner.",
        parameters=[AuditFilters],
        responses={(200, "application/json"): AuditEntrySerializer(many=True), **problems()},
    )
    def get(self, request: Request) -> Response:
        filters = with_owners(request.user, read_query(AuditFilters, request))
        return LastNumberFirst().respond(queries.audit_trail(request.user, filters), request, AuditEntrySerializer)
