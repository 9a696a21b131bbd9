"""The OpenAPI document: what several endpoints share, and what drf-spectacular cannot see."""

from __future__ import annotations

from typing import Any

import msgspec
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.plumbing import build_bearer_security_scheme_object
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema_serializer,
)
from rest_framework import serializers

from orchestrator.kinds import all_kinds

JOB = "01980c5e-7a00-7000-8000-000000000000"
STARTED = {
    "message": "Orchestration started.",
    "job_id": JOB,
    "status_url": f"http://localhost:8000/status/ada/{JOB}",
}
STATUS = {
    "job_id": JOB,
    "status": "PENDING",
    "created_at": "2030-01-31T12:00:00.000000Z",
    "updated_at": "2030-01-31T12:00:05.000000Z",
}
RESULT = {"first_batch": {"aggregated_sum": 2745}, "second_batch": {"aggregated_sum": 5490}}
NEW_JOBS: dict[str, Any] = {
    "The demo job": {},
    "Urgent, in more slices": {"kind": "demo.slices", "payload": {"slices": 10}, "priority": 0},
    "Later, with three attempts": {"kind": "demo.slices", "run_at": "2030-01-31T12:00:00Z", "max_attempts": 3},
}
A_JOB = {
    "job_id": JOB,
    "kind": "demo.slices",
    "status": "RUNNING",
    "waiting_for": None,
    "priority": 5,
    "owner": "ada",
    "attempt": 2,
    "max_attempts": 3,
    "progress": {"done": 2, "total": 5, "message": "slice 3 of 5"},
    "result": None,
    "error": "",
    "attempts": [
        {
            "number": 1,
            "outcome": "LOST",
            "error": "Its worker died while it ran.",
            "worker": "io@host",
            "started_at": "2030-01-31T12:00:00.000000Z",
            "ended_at": "2030-01-31T12:00:15.000000Z",
        }
    ],
    "parent": None,
    "name": "",
    "children": None,
    "celery_task_id": "0b6b1a3c-7f0c-4c3d-8f6e-4a1d3c5e7f90",
    "worker": "io@host",
    "run_at": "2030-01-31T12:00:00.000000Z",
    "created_at": "2030-01-31T12:00:00.000000Z",
    "started_at": "2030-01-31T12:00:16.000000Z",
    "finished_at": None,
    "updated_at": "2030-01-31T12:00:18.000000Z",
    "links": {
        "self": f"http://localhost:8000/jobs/{JOB}",
        "cancel": f"http://localhost:8000/jobs/{JOB}",
        "retry": None,
        "parent": None,
        "children": None,
    },
}
BAD_PRIORITY = {
    "type": "urn:muster:problem:bad-input",
    "title": "The request does not fit",
    "status": 400,
    "detail": "/priority: Ensure this value is less than or equal to 9.",
    "errors": [
        {
            "pointer": "/priority",
            "code": "max_value",
            "detail": "Ensure this value is less than or equal to 9.",
        }
    ],
}

RECORDS: list[dict[str, Any]] = [
    {
        "student_id": "S-1001",
        "first_name": "Asha",
        "last_name": "Rao",
        "email": "asha.rao@example.org",
        "grade": "5",
        "date_of_birth": "2015-06-30",
    },
    {
        "student_id": "S-1002",
        "first_name": "Ravi",
        "last_name": "Iyer",
        "email": "ravi.iyer@example.org",
        "grade": "UKG",
        "section": "B",
    },
]
INGESTION = {
    "task_id": JOB,
    "status": "PENDING",
    "message": "Data ingestion started.",
    "total_records": 1000,
    "status_url": f"http://localhost:8000/api/data/status/{JOB}/",
}
INGESTION_STATUS = {
    "task_id": JOB,
    "status": "PROCESSING",
    "status_message": "PROCESSING (70% complete)",
    "total_records": 1000,
    "processed_records": 700,
    "stored_records": 696,
    "failed_records": 4,
    "progress_percentage": 70,
    "error_message": None,
    "created_at": "2030-01-31T12:00:00.000000Z",
    "started_at": "2030-01-31T12:00:00.100000Z",
    "completed_at": None,
    "duration": 3.5,
    "errors_url": f"http://localhost:8000/api/data/status/{JOB}/errors/",
}
ERRORS_OF_AN_INGESTION = [
    {
        "index": 17,
        "student_id": "S-1018",
        "errors": [
            {
                "field": "date_of_birth",
                "code": "invalid",
                "message": 'Expected a date there is, as 2010-01-31, not "2026-02-30".',
            }
        ],
    }
]

HEALTH = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"const": "alive"}},
    "example": {"status": "alive"},
}
_CHECK = {
    "type": "object",
    "required": ["ok"],
    "properties": {"ok": {"type": "boolean"}, "detail": {"type": "string"}},
}
READINESS = {
    "type": "object",
    "required": ["status", "checks"],
    "properties": {
        "status": {"enum": ["ready", "not ready"]},
        "checks": {
            "type": "object",
            "required": ["database", "broker", "workers", "tick"],
            "properties": {"database": _CHECK, "broker": _CHECK, "workers": _CHECK, "tick": _CHECK},
        },
    },
    "example": {
        "status": "ready",
        "checks": {
            "database": {"ok": True},
            "broker": {"ok": True},
            "workers": {"ok": True, "queues": {"default": 2, "io": 1, "control": 1}},
            "tick": {"ok": True, "age_seconds": 0.4},
        },
    },
}

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x20-\x7e]+$"},
    OpenApiParameter.HEADER,
    description="Make it up, and send it again with the same request when the answer was lost: the first answer comes "
    "back with `Idempotency-Replayed: true`, and nothing is done twice. The same key with another request is a 422.",
)
LOCATION = OpenApiParameter(
    "Location", OpenApiTypes.URI, OpenApiParameter.HEADER, response=[202], description="Where to follow it."
)
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="The `ETag` of an earlier answer: if nothing has changed since, the answer is a 304 without a body.",
)
ETAG = OpenApiParameter(
    "ETag", OpenApiTypes.STR, OpenApiParameter.HEADER, response=[200, 304], description="For `If-None-Match`."
)
LOCATION_OF_NEW = OpenApiParameter(
    "Location", OpenApiTypes.URI, OpenApiParameter.HEADER, response=[201], description="Where it is."
)


class ProblemError(serializers.Serializer[Any]):
    """One thing wrong with a request."""

    pointer = serializers.CharField(help_text="Where, as a JSON pointer (RFC 6901).")
    code = serializers.CharField(help_text="For programs.")
    detail = serializers.CharField(help_text="For people.")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`in` is a Python keyword, so it cannot be declared like the others."""
        where = serializers.ChoiceField(
            choices=["path", "query", "header"], required=False, help_text="What it points into, if not the body."
        )
        return {"in": where, **super().get_fields()}


@extend_schema_serializer(examples=[OpenApiExample("Bad input", BAD_PRIORITY, media_type="application/problem+json")])
class Problem(serializers.Serializer[Any]):
    """RFC 9457: why a request was refused."""

    type = serializers.CharField(
        help_text="For programs: `urn:muster:problem:…`, or `about:blank` where the status says it all."
    )
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField(help_text="For people: what was wrong, with which value, and what would be right.")
    errors = ProblemError(many=True, required=False)


WHY = {
    400: "The request does not fit; `errors` says where.",
    401: "A token is needed, or the one given is not valid.",
    403: "Not with this token, or not in another's name.",
    404: "There is none of that id, or it is not yours to see.",
    409: "Its state does not allow it.",
    411: "Neither a Content-Length nor gzip says where the body ends.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    422: "The Idempotency-Key was used for another request.",
    429: "Too many requests, or too many unfinished jobs; `Retry-After` says when to try again.",
    503: "The database cannot be reached; try again after `Retry-After` seconds.",
}
# What any endpoint may answer.
ALWAYS = (401, 429, 503)


def problems(*statuses: int) -> dict[tuple[int, str], OpenApiResponse]:
    """Responses for those statuses, and for what any endpoint may answer."""
    return {
        (status, "application/problem+json"): OpenApiResponse(Problem, WHY[status])
        for status in sorted({*statuses, *ALWAYS})
    }


def example(status: int | None, name: str, value: Any) -> OpenApiExample:
    """An example of an answer with that status, or of a request body if there is none."""
    if status is None:
        return OpenApiExample(name, value, request_only=True)
    return OpenApiExample(name, value, response_only=True, status_codes=[str(status)])


def path_parameter(name: str, description: str, **schema: Any) -> OpenApiParameter:
    return OpenApiParameter(name, {"type": "string", **schema}, OpenApiParameter.PATH, description=description)


def publish_payload_types(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Makes every kind's payload type a component, and the payload of a new job any of them."""
    kinds = all_kinds()
    schemas, components = msgspec.json.schema_components(
        [kind.payload_type for kind in kinds], ref_template="#/components/schemas/{name}"
    )
    known = result["components"]["schemas"]
    known |= components
    if new_job := known.get("NewJobRequest"):
        new_job["properties"]["kind"]["enum"] = [kind.name for kind in kinds]
        new_job["properties"]["payload"].pop("oneOf", None)
        new_job["properties"]["payload"]["anyOf"] = [*_distinct(schemas), {"type": "null"}]
    return result


def _distinct(schemas: Any) -> list[dict[str, Any]]:
    return list({msgspec.json.encode(schema, order="sorted"): schema for schema in schemas}.values())


class BearerToken(OpenApiAuthenticationExtension):
    target_class = "config.api.Authentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return build_bearer_security_scheme_object(header_name="Authorization", token_prefix="Bearer")  # noqa: S106 It is a word.
