"""The OpenAPI document: what several endpoints share, and what drf-spectacular cannot see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import build_bearer_security_scheme_object
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiExample,
    OpenApiParameter,
    OpenApiResponse,
    extend_schema_serializer,
)
from rest_framework import serializers

from orchestrator.http.examples import BAD_PRIORITY

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[\x20-\x7e]+$"},
    OpenApiParameter.HEADER,
    description="A unique value of your choice, such as a UUID. Repeat the request with it if the response was "
    "lost: the first response is returned with `Idempotency-Replayed: true`, and nothing is done twice. The same "
    "key with another request is a 422.",
)


def _response_header(name: str, type: OpenApiTypes, statuses: list[int], description: str) -> OpenApiParameter:
    """A header that every response with one of those statuses has."""
    return OpenApiParameter(
        name, type, OpenApiParameter.HEADER, required=True, response=statuses, description=description
    )


LOCATION = _response_header("Location", OpenApiTypes.URI, [202], "The URL of its status.")
LOCATION_OF_JOB = _response_header("Location", OpenApiTypes.URI, [200, 202], "The URL of its status.")
LOCATION_OF_NEW = _response_header("Location", OpenApiTypes.URI, [201], "The URL of the new resource.")
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    OpenApiTypes.STR,
    OpenApiParameter.HEADER,
    description="The `ETag` of an earlier response: if nothing has changed since, the response is a 304 without a "
    "body.",
)
ETAG = _response_header("ETag", OpenApiTypes.STR, [200, 304], "For `If-None-Match`.")


class ProblemError(serializers.Serializer[Any]):
    """One thing wrong with a request."""

    pointer = serializers.CharField(help_text="The place of the error, as a JSON pointer (RFC 6901).")
    code = serializers.CharField(help_text="Machine-readable.")
    detail = serializers.CharField(help_text="Human-readable.")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`in` is a Python keyword, so it cannot be declared like the others."""
        where = serializers.ChoiceField(
            choices=["path", "query", "header"],
            required=False,
            help_text="What the pointer refers to, if not the body.",
        )
        return {"in": where, **super().get_fields()}


@extend_schema_serializer(
    examples=[OpenApiExample("Invalid request", BAD_PRIORITY, media_type="application/problem+json")]
)
class Problem(serializers.Serializer[Any]):
    """RFC 9457: why a request was refused."""

    type = serializers.CharField(
        help_text="Machine-readable: `urn:muster:problem:…`, or `about:blank` where the status is enough."
    )
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField(
        help_text="Human-readable: what was wrong, with which value, and what would be right."
    )
    errors = ProblemError(many=True, required=False)  # type: ignore[assignment]


WHY = {
    400: "The request is invalid; `errors` says where.",
    401: "A token is required, or the one sent is invalid.",
    403: "The token's scope or the user's permissions do not suffice; `detail` says what is missing.",
    406: "The `Accept` header allows none of the available media types.",
    404: "It does not exist, or you may not see it.",
    409: "Its state does not allow it.",
    411: "Neither a Content-Length nor gzip says where the body ends.",
    413: "The body is too large.",
    415: "The content type, charset or encoding of the body is not supported.",
    422: "The Idempotency-Key was used for another request.",
    429: "Too many requests or unfinished jobs, or too much stored for these; `Retry-After` says when to try again.",
    503: "The database cannot be reached; try again after `Retry-After` seconds.",
}
# What any endpoint may respond with, so that none has to name it.
ALWAYS = (400, 401, 403, 406, 429, 503)
# The headers that a problem of that status always has.
_RETRY_AFTER = {
    "required": True,
    "schema": {"type": "integer", "minimum": 0},
    "description": "Seconds to wait before trying again.",
}
PROBLEM_HEADERS = {
    "401": {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}, "description": "`Bearer`."}},
    "429": {"Retry-After": _RETRY_AFTER},
    "503": {"Retry-After": _RETRY_AFTER},
}
RATE_LIMIT = {
    "RateLimit": {
        "schema": {"type": "string"},
        "description": 'What is left of the limit on requests, as in `"user";r=59999;t=42`: for so many seconds.',
    },
    "RateLimit-Policy": {"schema": {"type": "string"}, "description": 'The limit, as in `"user";q=60000;w=60`.'},
}
REPLAYED = {
    "schema": {"const": "true"},
    "description": "This is the response to an earlier request with the same `Idempotency-Key`.",
}


def problems(*statuses: int) -> dict[tuple[int, str], OpenApiResponse]:
    """Responses for those statuses, and for those in ALWAYS."""
    return _problems({*statuses, *ALWAYS})


def public_problems() -> dict[tuple[int, str], OpenApiResponse]:
    """Responses of an endpoint that needs no token, is not throttled, and responds without the database."""
    return _problems({400, 406})


def _problems(statuses: Iterable[int]) -> dict[tuple[int, str], OpenApiResponse]:
    return {(status, "application/problem+json"): OpenApiResponse(Problem, WHY[status]) for status in sorted(statuses)}


def example(status: int | None, name: str, value: Any) -> OpenApiExample:
    """An example of an answer with that status, or of a request body if there is none."""
    if status is None:
        return OpenApiExample(name, value, request_only=True)
    return OpenApiExample(name, value, response_only=True, status_codes=[str(status)])


def path_parameter(name: str, description: str, **schema: Any) -> OpenApiParameter:
    return OpenApiParameter(name, {"type": "string", **schema}, OpenApiParameter.PATH, description=description)


class Schema(AutoSchema):
    """What drf-spectacular does not see in a view by itself."""

    def get_auth(self) -> list[dict[str, Any]]:
        """Without a token only where REQUIRE_AUTH is off, or the view asks for none."""
        schemes = super().get_auth()
        return schemes if settings.ENV.REQUIRE_AUTH and schemes else [*schemes, {}]

    def _get_request_body(self, direction: str = "request") -> dict[str, Any] | None:
        """A body has to be there unless all may be left out: of a PATCH, and where the serializer says so."""
        body: dict[str, Any] | None = super()._get_request_body(direction)  # type: ignore[no-untyped-call]
        if body is not None:
            may_be_empty = self.method == "PATCH" or getattr(self.get_request_serializer(), "may_be_empty", False)
            body.pop("required", None)
            body |= {} if may_be_empty else {"required": True}
        return body

    def _map_basic_serializer(self, serializer: Any, direction: str) -> dict[str, Any]:
        schema: dict[str, Any] = super()._map_basic_serializer(serializer, direction)  # type: ignore[no-untyped-call]
        if direction == "request" and getattr(serializer, "refuses_unknown", False):
            schema["additionalProperties"] = False
        return schema


class BearerToken(OpenApiAuthenticationExtension):
    target_class = "orchestrator.http.authentication.Authentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return build_bearer_security_scheme_object(header_name="Authorization", token_prefix="Bearer")  # noqa: S106 It is a word.
