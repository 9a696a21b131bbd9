"""Kinds of job: what there are, and their limits, which operators change while they run."""

from __future__ import annotations

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import require_granted
from orchestrator import queries
from orchestrator.http import examples, openapi
from orchestrator.http.api_view import APIView
from orchestrator.http.kind_serializers import ChangedKind, KindSerializer, KindsSerializer
from orchestrator.http.openapi import example, problems
from orchestrator.http.requests import read_body
from orchestrator.queue.limiting import change_limits
from orchestrator.queue.pausing import pause_kind, resume_kind

KIND = openapi.path_parameter("kind", "The kind's name.")


class KindsView(APIView):
    @extend_schema(
        operation_id="list_kinds",
        tags=["jobs"],
        summary="List the kinds of job with the JSON Schemas of their payloads",
        responses={200: KindsSerializer, **problems()},
    )
    def get(self, request: Request) -> Response:
        return Response(KindsSerializer({"results": queries.known_kinds()}).data)


class KindView(APIView):
    @extend_schema(
        operation_id="kind",
        tags=["jobs"],
        summary="Get a kind with its limits",
        parameters=[KIND],
        responses={200: KindSerializer, **problems(404)},
    )
    def get(self, request: Request, kind: str) -> Response:
        return Response(KindSerializer(queries.kind_detail(kind)).data)

    @extend_schema(
        operation_id="change_kind",
        tags=["jobs"],
        summary="Pause a kind, or change its limits",
        description="Takes effect within a second. Nothing that runs is stopped. What is set here stays when another "
        "release declares other limits; `null` restores what is declared.",
        parameters=[KIND],
        request=ChangedKind,
        responses={200: KindSerializer, **problems(404, 413, 415)},
        examples=[example(None, name, body) for name, body in examples.CHANGED_KINDS.items()],
    )
    def patch(self, request: Request, kind: str) -> Response:
        changes = read_body(ChangedKind, request, partial=True)
        paused = changes.pop("paused", None)
        if paused is not None:
            require_granted(request.user, "orchestrator.pause_kind")
        if changes or paused is None:
            require_granted(request.user, "orchestrator.limit_kind")
        with transaction.atomic():
            change_limits(kind, changes)
            if paused is not None:
                (pause_kind if paused else resume_kind)(kind)
        return Response(KindSerializer(queries.kind_detail(kind)).data)
