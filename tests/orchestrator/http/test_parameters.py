"""Query parameters: what is not documented is refused, by every operation alike."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.views import APIView as AnyAPIView

from config.schema import SchemaView
from orchestrator.http.api_view import APIView, parameters_of
from scheduler.http.task_views import TasksView
from tests.api import Api, pointers
from tests.documented import ALIASES, document

pytestmark = pytest.mark.django_db

# Text parameters of all operations, also those that may be repeated, with the schemas that are documented.
TEXTS = [
    pytest.param(method.upper(), path, parameter["name"], schema, id=f"{method} {path}?{parameter['name']}")
    for path, methods in document()["paths"].items()
    for method, operation in methods.items()
    for parameter in operation.get("parameters", [])
    if parameter["in"] == "query"
    for schema in [parameter["schema"].get("items", parameter["schema"])]
    if schema.get("minLength") and "enum" not in schema
]
SOME_ID = "01980c5e-7a00-7000-8000-000000000000"
OPERATIONS = [(method.upper(), path) for path, methods in document()["paths"].items() for method in methods]
OPERATIONS += [("POST", path) for path in ALIASES] + [("HEAD", "/jobs")]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_unknown_parameter_is_refused_by_every_operation(api: Api, method: str, path: str) -> None:
    address = re.sub(r"{\w*id}", SOME_ID, path.replace("{username}", "ada"))

    response = api.send(method, f"{address}?no_such=1")

    assert response.status_code == 400
    assert method == "HEAD" or pointers(response) == ["/no_such"]


@pytest.mark.parametrize(("method", "path", "name", "schema"), TEXTS)
def test_a_text_of_nothing_but_blanks_is_refused_as_the_document_says(
    api: Api, method: str, path: str, name: str, schema: dict[str, Any]
) -> None:
    address = re.sub(r"{\w*id}", SOME_ID, path.replace("{username}", "ada"))
    for blank in (" ", "\r", "\t\n", "\x1c", "\x85", "\u3000"):
        response = api.send(method, f"{address}?{name}={quote(blank)}")

        assert (response.status_code, pointers(response)) == (400, [f"/{name}"])
        assert not re.search(schema["pattern"], blank)
    assert re.search(schema["pattern"], " Ada ")


def test_the_refusal_names_the_parameters_there_are(api: Api) -> None:
    [error] = api.send("POST", "/batch-request/?onerror=skip", b"[]").json()["errors"]

    assert error == {
        "in": "query",
        "pointer": "/onerror",
        "code": "unknown",
        "detail": "Unknown parameter 'onerror'; allowed: on_error.",
    }


def test_of_many_unknown_parameters_the_first_are_named_and_the_others_counted(api: Api) -> None:
    response = api.get("/jobs?" + "&".join(f"x{number:03}=1" for number in range(234)))

    assert pointers(response) == [*(f"/x{number:03}" for number in range(20)), ""]
    assert response.json()["errors"][-1] == {
        "in": "query",
        "pointer": "",
        "code": "and_more",
        "detail": "214 more unknown parameters.",
    }


def test_a_missing_permission_is_reported_before_invalid_parameters(api: Api, asks_for_tokens: None) -> None:
    assert api.get("/jobs?no_such=1").status_code == 401


def test_the_pages_have_their_parameters(api: Api) -> None:
    assert {"cursor", "limit", "status"} < (parameters_of(TasksView, "GET") or set())
    assert parameters_of(TasksView, "POST") == frozenset()


def test_the_document_is_asked_for_in_the_forms_it_has(api: Api) -> None:
    assert api.get("/api/schema/?format=json").status_code == 200


def test_every_endpoint_of_ours_follows_the_rule() -> None:
    views = [getattr(pattern.callback, "cls", None) for pattern in _patterns(get_resolver())]
    endpoints = {
        view for view in views if view and issubclass(view, AnyAPIView) and "drf_spectacular" not in view.__module__
    }

    assert {view for view in endpoints if not issubclass(view, APIView)} == {SchemaView}


def _patterns(resolver: URLResolver) -> list[URLPattern]:
    return [
        pattern
        for each in resolver.url_patterns
        for pattern in (_patterns(each) if isinstance(each, URLResolver) else [each])
    ]
