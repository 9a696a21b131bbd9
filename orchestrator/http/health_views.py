"""Whether the process is alive, and whether all that work needs is there."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from orchestrator.diagnostics import readiness
from orchestrator.http import openapi
from orchestrator.http.api_view import APIView

HEALTH = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"const": "healthy"}},
    "example": {"status": "healthy"},
}


def _check(**found: Any) -> dict[str, Any]:
    """A check of readiness, with what it may have found besides."""
    properties = {"ok": {"type": "boolean"}, "detail": {"type": "string", "description": "What is wrong."}}
    return {"type": "object", "required": ["ok"], "properties": properties | found}


_WORKERS = _check(
    queues={
        "type": "object",
        "additionalProperties": {"type": "integer", "minimum": 0},
        "description": "How many processes serve each queue; absent when the database did not respond.",
    },
    hung={
        "type": "object",
        "additionalProperties": {"type": "integer", "minimum": 1},
        "description": "Slots of each queue whose jobs go on after their timeouts; absent when there are none.",
    },
)
_TICK = _check(
    age_seconds={
        "type": ["number", "null"],
        "description": "Since the last tick; null if there was none, absent when the database did not respond.",
    }
)
_KINDS = _check(
    failing={
        "type": "integer",
        "minimum": 1,
        "description": "Kinds most of whose jobs failed within the last hour, which leaves the service ready; absent "
        "when there are none.",
    }
)
_SCHEDULES = _check(
    overdue={
        "type": "integer",
        "minimum": 1,
        "description": "Schedules that were due over a minute ago and did not fire; absent when there are none.",
    },
    stopped={
        "type": "integer",
        "minimum": 1,
        "description": "Schedules that have stopped because of an error; absent when there are none.",
    },
)
READINESS = {
    "type": "object",
    "required": ["status", "checks"],
    "properties": {
        "status": {"enum": ["ready", "not ready"]},
        "checks": {
            "type": "object",
            "required": ["database", "broker", "workers", "tick"],
            "properties": {
                "database": _check(),
                "broker": _check(),
                "workers": _WORKERS,
                "tick": _TICK,
                "kinds": _KINDS,
                "schedules": _SCHEDULES,
            },
        },
    },
    "example": {
        "status": "ready",
        "checks": {
            "database": {"ok": True},
            "broker": {"ok": True},
            "workers": {"ok": True, "queues": {"default": 2, "io": 1, "control": 1}},
            "tick": {"ok": True, "age_seconds": 0.4},
            "kinds": {"ok": True},
            "schedules": {"ok": True},
        },
    },
}


class _HealthView(APIView):
    """For monitoring: no token needed, never throttled."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()


class HealthView(_HealthView):
    @extend_schema(
        operation_id="health",
        tags=["health"],
        summary="Whether the process is alive",
        responses={200: HEALTH, **openapi.public_problems()},
    )
    def get(self, request: Request) -> Response:
        return Response({"status": "healthy"})


class ReadyView(_HealthView):
    @extend_schema(
        operation_id="ready",
        tags=["health"],
        summary="Whether work can be accepted and run",
        description="The database, the broker, a live worker for every queue, and a recent tick. It responds within "
        "about a second, whatever hangs.",
        responses={
            200: OpenApiResponse(READINESS, "All is well."),
            503: OpenApiResponse(READINESS, "Something is missing; the checks say what."),
            **openapi.public_problems(),
        },
    )
    def get(self, request: Request) -> Response:
        is_ready, checks = readiness.readiness()
        return Response(
            {"status": "ready" if is_ready else "not ready", "checks": checks}, status=200 if is_ready else 503
        )
