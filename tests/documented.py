"""Every answer that a test gets from the API is held against the OpenAPI document, and so is every body it took."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any
from unittest.mock import patch

import jsonschema_rs
import pytest
from django.test import Client
from django.test.client import FakePayload
from drf_spectacular.generators import SchemaGenerator

from tests.api import Response

# A path that does what a documented one does.
ALIASES = {"/batch-request/": "/tasks/batch-request/"}
# What a surprise is answered with. It is no promise, so no operation names it; its form is one.
SURPRISE = 500
# Headers that a program reads, so that each has to be documented where it is sent.
TOLD_HEADERS = {"Location", "Retry-After", "ETag", "Idempotency-Replayed", "WWW-Authenticate", "Content-Disposition"}


@cache
def document() -> dict[str, Any]:
    return dict(json.loads(json.dumps(SchemaGenerator().get_schema(request=None, public=True))))


@pytest.fixture(autouse=True, scope="session")
def answers_are_documented() -> Iterator[None]:
    send = Client.request

    def checked(client: Client, **request: Any) -> Response:
        sent, body = request.get("wsgi.input"), b""
        if isinstance(sent, FakePayload):  # Another one watches how it is read.
            body = sent.read()
            request["wsgi.input"] = FakePayload(body)
        response = send(client, **request)
        if operation := operation_of(response.wsgi_request):
            check(operation, response, body)
        return response

    with patch.object(Client, "request", checked):
        yield


def operation_of(request: Any) -> dict[str, Any] | None:
    """What the document says of the request's path and method; None where it does not speak of them."""
    if request.resolver_match is None:
        return None
    path = "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", request.resolver_match.route)
    method = "get" if request.method == "HEAD" else request.method.lower()
    operation: dict[str, Any] | None = document()["paths"].get(ALIASES.get(path, path), {}).get(method)
    return operation


def check(operation: dict[str, Any], response: Response, body: bytes) -> None:
    """Fails where the answer is not as documented: its status, its headers, its content, to the last property."""
    status = response.status_code
    if status == SURPRISE:
        return check_schema({"$ref": "#/components/schemas/Problem"}, response.json(), "the problem")
    name = f"{operation['operationId']}: {status}"
    assert str(status) in operation["responses"], f"{name} is not documented: {response.content!r}"
    documented = operation["responses"][str(status)]
    check_headers(name, documented.get("headers", {}), response)
    if response.wsgi_request.method != "HEAD":
        check_content(name, documented.get("content", {}), response)
    if status < 300 and not takes_bad_ones(response.wsgi_request):
        check_request(operation, response.wsgi_request.content_type, body)
    return None


def takes_bad_ones(request: Any) -> bool:
    """Whether what is wrong within a batch is asked to be told rather than refused."""
    return bool(request.GET.get("on_error") == "skip")


def check_headers(name: str, documented: dict[str, Any], response: Response) -> None:
    given = {header for header in TOLD_HEADERS if response.has_header(header)}
    required = {header for header, details in documented.items() if details.get("required")}
    assert given <= documented.keys(), f"{name} has undocumented headers: {given - documented.keys()}"
    assert required <= given, f"{name} lacks {required - given}"


def check_content(name: str, documented: dict[str, Any], response: Response) -> None:
    if not documented:
        assert not response.content, f"{name} has a body: {response.content!r}"
        return
    media_type = response.get("Content-Type", "").partition(";")[0]
    assert media_type in documented, f"{name} is {media_type!r}, documented are {list(documented)}"
    if media_type.endswith("json"):
        check_schema(documented[media_type]["schema"], json.loads(response.content), name)


def check_request(operation: dict[str, Any], media_type: str | None, body: bytes) -> None:
    """Fails where the server took a body that the document does not allow."""
    content = operation.get("requestBody", {}).get("content", {})
    if media_type == "application/json" and media_type in content and body.strip():
        check_schema(content[media_type]["schema"], json.loads(body), f"what {operation['operationId']} took")


def check_schema(schema: dict[str, Any], value: Any, name: str) -> None:
    errors = [f"{error.instance_path}: {error.message}" for error in validator(json.dumps(schema)).iter_errors(value)]
    assert not errors, f"{name} is not as documented: {errors[:5]}"


@cache
def validator(schema: str) -> Any:
    whole = json.loads(schema) | {"components": closed(document()["components"])}
    return jsonschema_rs.Draft202012Validator(closed(whole), validate_formats=True)


def closed(schema: Any) -> Any:
    """The schema with no property allowed that it does not name."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(each) for name, each in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        inner.setdefault("additionalProperties", False)
    return inner
