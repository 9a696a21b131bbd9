"""What browsers are told, and what they are refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from config.security_headers import NO_PAGE
from orchestrator.models import Job
from tests.api import Api
from tests.factories import make_job, make_user

pytestmark = pytest.mark.django_db

POLICY = "Content-Security-Policy"


@pytest.mark.parametrize("path", ["/jobs", "/nowhere", "/api/health/", "/api/data/records/", "/api/schema/", "/kinds"])
def test_an_api_response_runs_nothing_and_is_not_cached(api: Api, path: str) -> None:
    response = api.get(path, Accept="*/*")

    assert response[POLICY] == NO_PAGE
    assert response["Cache-Control"] == "private, no-store"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Cross-Origin-Resource-Policy"] == "same-origin"


def test_what_has_an_etag_may_be_kept_by_its_client_alone(api: Api) -> None:
    assert api.get(f"/jobs/{make_job().id}")["Cache-Control"] == "private, no-cache"


@pytest.mark.parametrize("path", ["/admin/", "/admin/nowhere/", "/admin/login/", "/swagger/", "/api/docs/"])
def test_a_page_loads_only_what_is_its_own(path: str) -> None:
    browser = Client()
    browser.force_login(make_user("root", is_staff=True, is_superuser=True))

    response = browser.get(path, follow=True)

    policy = dict(part.strip().split(" ", 1) for part in response[POLICY].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"].split()[0] == "'self'"
    assert "'unsafe-inline'" not in policy["script-src"]
    assert ("'unsafe-eval'" in policy["script-src"]) == response.wsgi_request.path.startswith("/admin")
    assert "<script>" not in response.content.decode()


def test_no_form_of_the_admin_has_a_script_that_the_policy_forbids() -> None:
    browser = Client()
    browser.force_login(make_user("root", is_staff=True, is_superuser=True))
    browser.get("/admin/")

    for model in admin.site._registry:
        response = browser.get(reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_add"))
        scripts = re.findall(r"<script\b([^>]*)>", response.content.decode())
        assert all("src=" in each or 'type="application/json"' in each for each in scripts), model


def test_a_static_file_has_a_policy_and_may_be_kept(api: Api) -> None:
    response = api.get("/static/unfold/js/app.js")

    assert response.status_code == 200
    assert response[POLICY] == NO_PAGE
    assert "no-store" not in response["Cache-Control"]


def test_swagger_keeps_no_token(api: Api) -> None:
    script = api.get("/swagger/?script=", Accept="*/*")

    assert script["Content-Type"].startswith("application/javascript")
    assert '"persistAuthorization": false' in script.content.decode()


CROSS_SITE = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", CROSS_SITE)
@pytest.mark.parametrize("path", ["/jobs", "/orchestrate/ada", "/task-schedules/", "/tasks/"])
def test_a_page_of_another_site_submits_nothing(api: Api, path: str, headers: dict[str, str]) -> None:
    response = api.send("POST", path, b"", content_type="text/plain", **headers)

    assert response.status_code == 403
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "http://testserver"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}]
)
def test_our_own_pages_and_programs_submit(api: Api, headers: dict[str, str]) -> None:
    assert api.post("/jobs", **headers).status_code == 202


def test_a_token_submits_from_any_page(as_user: Callable[..., Api]) -> None:
    assert as_user("ada").post("/jobs", Origin="https://portal.example").status_code == 202
