"""The OpenAPI document, and the pages that show it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from config import openapi
from tests.api.conftest import Api

pytestmark = pytest.mark.django_db

PROBLEMS = {"401", "429", "503"}
CODES = {
    ("post", "/orchestrate/{username}"): {"202", "400", "403", "413", "415", "422"} | PROBLEMS,
    ("get", "/status/{username}/{job_id}"): {"200", "400", "404"} | PROBLEMS,
    ("post", "/jobs"): {"202", "400", "403", "413", "415", "422"} | PROBLEMS,
    ("get", "/jobs"): {"200", "400"} | PROBLEMS,
    ("get", "/jobs/{job_id}"): {"200", "304", "400", "404"} | PROBLEMS,
    ("delete", "/jobs/{job_id}"): {"200", "202", "400", "404", "409", "403"} | PROBLEMS,
    ("post", "/jobs/{job_id}/retry"): {"202", "400", "403", "404", "409", "413", "415", "422"} | PROBLEMS,
    ("get", "/kinds"): {"200"} | PROBLEMS,
    ("post", "/api/data/ingest/"): {"202", "400", "403", "413", "415", "422"} | PROBLEMS,
    ("post", "/api/data/ingest/stream/"): {"202", "400", "403", "411", "413", "415", "422"} | PROBLEMS,
    ("get", "/api/data/status/{task_id}/"): {"200", "400", "404"} | PROBLEMS,
    ("delete", "/api/data/status/{task_id}/"): {"200", "202", "400", "403", "404", "409"} | PROBLEMS,
    ("get", "/api/data/status/{task_id}/errors/"): {"200", "400", "404"} | PROBLEMS,
    ("get", "/api/data/records/"): {"200", "400"} | PROBLEMS,
    ("get", "/api/data/records/{student_id}/"): {"200", "400", "404"} | PROBLEMS,
    ("get", "/api/health/"): {"200"},
    ("get", "/api/health/ready/"): {"200", "503"},
}


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    return api.get("/api/schema/", Accept="*/*").json()


def operation(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    return document["paths"][path][method]


def test_it_is_valid_and_raises_no_warning(tmp_path: Any) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(tmp_path / "schema.yml"))


def test_it_is_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")


@pytest.mark.parametrize(("method", "path"), CODES)
def test_every_path_is_there_with_every_code(document: dict[str, Any], method: str, path: str) -> None:
    assert set(operation(document, method, path)["responses"]) == CODES[method, path]


def test_every_problem_is_said_to_be_one(document: dict[str, Any]) -> None:
    for methods in document["paths"].values():
        for details in methods.values():
            for code, response in details["responses"].items():
                if code >= "400" and details["operationId"] != "ready":
                    assert list(response["content"]) == ["application/problem+json"]


@pytest.mark.parametrize(("method", "path"), [key for key in CODES if key[0] == "post"])
def test_every_post_tells_of_the_idempotency_key(document: dict[str, Any], method: str, path: str) -> None:
    parameters = operation(document, method, path)["parameters"]

    assert ("Idempotency-Key", "header") in {(parameter["name"], parameter["in"]) for parameter in parameters}


def test_the_list_tells_of_its_filters_and_its_pages(document: dict[str, Any]) -> None:
    names = {parameter["name"] for parameter in operation(document, "get", "/jobs")["parameters"]}

    assert names == {"status", "kind", "owner", "parent", "created_after", "created_before", "cursor", "limit"}


def test_a_new_jobs_payload_is_any_of_the_kinds(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    payload = schemas["NewJobRequest"]["properties"]["payload"]
    assert {"$ref": "#/components/schemas/Slices"} in payload["anyOf"]
    assert "slices" in schemas["Slices"]["properties"]
    assert "demo.slices" in schemas["NewJobRequest"]["properties"]["kind"]["enum"]


def test_every_reference_leads_somewhere(api: Api, document: dict[str, Any]) -> None:
    text = api.get("/api/schema/", Accept="*/*").content.decode()

    for name in re.findall(r'"\$ref": ?"#/components/schemas/([^"]+)"', text):
        assert name in document["components"]["schemas"]
    assert '"#/$defs' not in text


def test_a_job_is_documented_as_it_is_answered(api: Api, document: dict[str, Any]) -> None:
    answer = api.post("/jobs").json()

    assert answer.keys() == document["components"]["schemas"]["Job"]["properties"].keys() == openapi.A_JOB.keys()


def test_it_comes_as_yaml_for_who_asks(api: Api) -> None:
    assert api.get("/api/schema/", Accept="application/yaml").content.startswith(b"openapi: 3.1")


@pytest.mark.parametrize("path", ["/swagger/", "/api/docs/"])
def test_the_pages_load_nothing_from_elsewhere(path: str) -> None:
    page = Client().get(path).content.decode()

    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert assets
    assert all(asset.startswith("/") for asset in assets)
    assert '"validatorUrl": null' in page or "img-src 'self' data:" in page
    for asset in assets:
        assert Client().get(asset).status_code == 200
