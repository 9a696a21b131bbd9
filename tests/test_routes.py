"""Every route of the URL conf, those of other packages too, asked in every way: whatever comes, it is no 5xx."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import cycle, islice, product
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

import config.urls
from tests.documented import document
from tests.factories import make_attempt, make_job
from tests.ingestion.conftest import student
from tests.scheduler.factories import make_schedule, make_task

assert config.urls  # It registers the admin's pages, by which the tests below are named.

pytestmark = [pytest.mark.django_db, pytest.mark.slow, pytest.mark.timeout(600)]

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
UNUSUAL = ["TRACE", "PROPFIND", "QUERY", "get", "X"]
UUID_ID = "01980c5e-7a00-7000-8000-000000000000"
# What stands in a path where a part of it is variable.
PARTS = {"app_label": "orchestrator", "content_type_id": "1", "object_id": "1", "url": "nothing", "username": "ada"}


def paths(resolver: URLResolver | None = None, before: str = "") -> Iterator[str]:
    """A path for each route."""
    for each in (resolver or get_resolver()).url_patterns:
        path = before + filled(str(each.pattern))
        if isinstance(each, URLPattern):
            yield "/" + path
        else:
            yield from paths(each, path)


def filled(pattern: str) -> str:
    """The pattern of one step with something in each of its gaps."""
    pattern = re.sub(r"<(?:\w+:)?(\w+)>", lambda gap: PARTS.get(gap[1], UUID_ID), pattern)
    pattern = re.sub(r"\(\?P(orchestrator|nothing|\w+)[^)]*\)", lambda gap: PARTS.get(gap[1], gap[1]), pattern)
    return pattern.lstrip("^").rstrip("$").removesuffix("\\Z")


def make_user(name: str, **columns: Any) -> User:
    """Without the time that a password takes to be hashed."""
    return User.objects.create(username=name, **columns)


@pytest.fixture
def rows(db: None) -> None:
    """Something of everything that pages show."""
    make_attempt(make_job())
    make_task()
    make_schedule()
    Group.objects.create(name="g")
    Client().post("/api/data/ingest/", {"records": [student()]}, content_type="application/json")


USERS: dict[str, dict[str, Any] | None] = {
    "anonymous": None,
    "user": {},
    "staff": {"is_staff": True, "is_superuser": True},
}


@pytest.mark.parametrize("who", ["anonymous", "user", pytest.param("staff", marks=pytest.mark.long)])
def test_no_route_fails_by_any_method_with_or_without_its_slash(rows: None, who: str) -> None:
    columns = USERS[who]
    user = None if columns is None else make_user("asks", **columns)

    failed = [
        (method, path)
        for route in paths()
        for client in [client_of(user)]
        for path in {route, route.rstrip("/") or "/", f"{route.rstrip('/')}/"}
        for method in methods(route, path, anonymous=user is None)
        if (status := client.generic(method, path).status_code) >= 500
        # No worker runs here.
        if not (status == 503 and route == "/api/health/ready/")
    ]

    assert not failed


def methods(route: str, path: str, *, anonymous: bool) -> list[str]:
    """All of them, but the unusual ones once; of the admin, which looks for POST alone, one of each sort, and what
    another slash leads to.
    """
    if path != route:
        return ["GET", "POST"]
    if route.startswith("/admin"):
        return ["GET", "HEAD", "POST", "PUT", "OPTIONS"]
    return METHODS + UNUSUAL if anonymous else METHODS


def client_of(user: User | None) -> Client:
    client = Client(raise_request_exception=False)
    if user:
        client.force_login(user)
    return client


# What no text, number, id or time can be; each as it stands in an address.
HOSTILE = ["%00", "%ED%A0%80", "%FF", "9" * 40, "-1", "x", "", "2030-99-99", "%27%22%3B--,{"]
# What every list of the admin reads from an address, besides its filters.
READ_BY_LISTS = ["q", "o", "p", "all", "e", "_popup", "_to_field", "_facets", "id", "pk", "no__such__lookup", "id__in"]


@pytest.mark.long
@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.label)
def test_no_list_of_the_admin_fails_by_what_it_is_asked_for(rows: None, model: type[Model]) -> None:
    client, path = client_of(make_user("asks", is_staff=True, is_superuser=True)), list_of(model)

    failed = [
        query
        for name in names_read_by(client, model)
        for value in HOSTILE
        for query in [f"{path}?{name}={value}"]
        if client.get(query).status_code >= 500
    ]

    assert not failed


@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.label)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)], ids=["some pairs", "all pairs"])
def test_no_page_of_the_admin_fails_by_an_id(rows: None, model: type[Model], every: bool) -> None:
    pairs = product if every else in_turn
    client, path = client_of(make_user("asks", is_staff=True, is_superuser=True)), list_of(model)
    actions = [*admin.site._registry[model].get_actions(request_of(client)), "delete_selected", "%00", "x"]

    failed = [
        (id, page)
        for id, page in pairs([*HOSTILE, "_5F", "_00", "_ED_A0_80", "..", "%2F"], ["change/", "delete/", "history/"])
        if client.get(f"{path}{id}/{page}").status_code >= 500
    ]
    failed += [
        (action, value)
        for value, action in pairs(HOSTILE, actions)
        if client.post(path, f"action={action}&index=0&_selected_action={value}", FORM).status_code >= 500
    ]

    assert not failed


def in_turn(some: Sequence[str], others: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each of both once at least, in the fewest pairs."""
    return islice(zip(cycle(some), cycle(others), strict=False), max(len(some), len(others)))


FORM = "application/x-www-form-urlencoded"


def list_of(model: type[Model]) -> str:
    return f"/admin/{model._meta.app_label}/{model._meta.model_name}/"


def request_of(client: Client) -> Any:
    return client.get("/admin/").wsgi_request


def names_read_by(client: Client, model: type[Model]) -> list[str]:
    """The parameters of its filters and of its hierarchy of dates, as the admin itself sees them."""
    page = admin.site._registry[model]
    changes = page.get_changelist_instance(request_of(client))
    expected = [name for each in changes.filter_specs for name in each.expected_parameters() if name]
    date = (
        [f"{page.date_hierarchy}__{part}" for part in ("year", "month", "day", "gte")] if page.date_hierarchy else []
    )
    return [*READ_BY_LISTS, *expected, *date]


@pytest.mark.parametrize("value", HOSTILE)
def test_no_endpoint_fails_by_a_part_of_its_path_or_a_parameter(rows: None, value: str) -> None:
    client = Client(raise_request_exception=False)

    failed = [
        path
        for template, operations in document()["paths"].items()
        if "get" in operations and "ready" not in template
        for path in asked_with(value, template, operations["get"].get("parameters", []))
        if client.get(path).status_code >= 500
    ]

    assert not failed


def asked_with(value: str, template: str, parameters: list[dict[str, Any]]) -> list[str]:
    """Each part of the path and each parameter with that value, and one of an unknown name."""
    names = [each["name"] for each in parameters if each["in"] == "query"]
    path = re.sub(r"{\w+}", UUID_ID, template)
    return [
        re.sub(r"{\w+}", value, template),
        f"{path}?{value}={value}",
        *(f"{path}?{name}={value}" for name in names),
    ]
