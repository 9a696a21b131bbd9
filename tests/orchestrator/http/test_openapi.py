"""The OpenAPI document, and the pages that show it."""

from __future__ import annotations

import json
import re
from typing import Any
from unittest.mock import patch

import jsonschema_rs
import pytest
from django.core.management import call_command
from django.test import Client
from drf_spectacular.generators import SchemaGenerator

from orchestrator.http import examples
from tests.api import Api

pytestmark = pytest.mark.django_db

PROBLEMS = {"400", "401", "403", "406", "429", "503"}
CODES = {
    ("post", "/orchestrate/{username}"): {"202", "400", "403", "404", "413", "415", "422"} | PROBLEMS,
    ("get", "/status/{username}/{job_id}"): {"200", "400", "404"} | PROBLEMS,
    ("post", "/jobs"): {"200", "202", "400", "403", "409", "413", "415", "422"} | PROBLEMS,
    ("get", "/jobs"): {"200", "400"} | PROBLEMS,
    ("get", "/jobs/{job_id}"): {"200", "304", "400", "404"} | PROBLEMS,
    **{
        ("post", f"/jobs/{verb}"): {"200", "202", "400", "403", "413", "415", "422"} | PROBLEMS
        for verb in ("cancel", "retry", "change")
    },
    ("post", "/jobs/bulk"): {"202", "400", "403", "409", "413", "415", "422"} | PROBLEMS,
    ("patch", "/jobs/{job_id}"): {"200", "400", "403", "404", "409", "413", "415"} | PROBLEMS,
    ("delete", "/jobs/{job_id}"): {"200", "202", "400", "404", "409", "403"} | PROBLEMS,
    ("post", "/jobs/{job_id}/retry"): {"202", "400", "403", "404", "409", "413", "415", "422"} | PROBLEMS,
    ("get", "/queues"): {"200"} | PROBLEMS,
    ("patch", "/queues/{queue}"): {"200", "400", "403", "404", "413", "415"} | PROBLEMS,
    ("get", "/owners/{username}"): {"200", "400", "403"} | PROBLEMS,
    ("patch", "/owners/{username}"): {"200", "400", "403", "413", "415"} | PROBLEMS,
    ("get", "/kinds"): {"200"} | PROBLEMS,
    ("get", "/kinds/{kind}"): {"200", "404"} | PROBLEMS,
    ("patch", "/kinds/{kind}"): {"200", "404", "413", "415"} | PROBLEMS,
    ("post", "/api/data/ingest/"): {"202", "400", "403", "413", "415", "422"} | PROBLEMS,
    ("post", "/api/data/ingest/stream/"): {"202", "400", "403", "411", "413", "415", "422"} | PROBLEMS,
    ("get", "/api/data/status/{task_id}/"): {"200", "400", "404"} | PROBLEMS,
    ("delete", "/api/data/status/{task_id}/"): {"200", "202", "400", "403", "404", "409"} | PROBLEMS,
    ("get", "/api/data/status/{task_id}/errors/"): {"200", "400", "404"} | PROBLEMS,
    ("get", "/api/data/records/"): {"200", "400"} | PROBLEMS,
    ("get", "/api/data/records/{student_id}/"): {"200", "400", "404"} | PROBLEMS,
    ("get", "/api/health/"): {"200", "400", "406"},
    ("get", "/api/health/ready/"): {"200", "400", "406", "503"},
}


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    return dict(api.get("/api/schema/", Accept="*/*").json())


def operation(document: dict[str, Any], method: str, path: str) -> dict[str, Any]:
    return dict(document["paths"][path][method])


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
                if code >= "400" and (details["operationId"], code) != ("ready", "503"):
                    assert list(response["content"]) == ["application/problem+json"]


@pytest.mark.parametrize(("method", "path"), [key for key in CODES if key[0] == "post"])
def test_every_post_documents_the_idempotency_key(document: dict[str, Any], method: str, path: str) -> None:
    parameters = operation(document, method, path)["parameters"]

    assert ("Idempotency-Key", "header") in {(parameter["name"], parameter["in"]) for parameter in parameters}


def test_the_list_has_the_filters_of_what_is_done_to_many_jobs_and_its_pages(document: dict[str, Any]) -> None:
    parameters = {each["name"]: each["schema"] for each in operation(document, "get", "/jobs")["parameters"]}

    filters = document["components"]["schemas"]["BulkFilterRequest"]["properties"]
    assert parameters.keys() == filters.keys() | {"cursor", "limit"}
    assert parameters["kind"]["type"] == "array"


def test_a_new_job_is_one_of_the_kinds_with_its_payload(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]

    forms = {each["$ref"].rpartition("/")[2] for each in schemas["NewJobRequest"]["anyOf"]}
    kinds = {schemas[form]["properties"]["kind"]["const"]: form for form in forms}
    slices = schemas[kinds["demo.slices"]]
    assert {"$ref": "#/components/schemas/Slices"} in slices["properties"]["payload"]["anyOf"]
    assert "required" not in slices, "It is what an empty body means."
    assert schemas[kinds["orchestration.two_batches"]]["required"] == ["kind"]
    assert "slices" in schemas["Slices"]["properties"]
    assert "scheduler.add" not in kinds
    assert "Addition" not in schemas


@pytest.mark.parametrize(
    "record", [{"x\0": 1}, {"x": "\0"}, {"x": [{"y": [1, "\0"]}]}, {"x": {"y": {"\0": 1}}}, {"first_name": "Ada\0"}]
)
def test_no_documented_string_allows_a_nul_at_any_depth(
    api: Api, document: dict[str, Any], record: dict[str, Any]
) -> None:
    body = {"$ref": "#/components/schemas/IngestionRequest", "components": document["components"]}
    document_allows = jsonschema_rs.Draft202012Validator(body).is_valid

    assert document_allows(json.loads(json.dumps({"records": [record]}).replace("\\u0000", "")))
    assert not document_allows({"records": [record]})
    assert api.post("/api/data/ingest/", {"records": [record]}).status_code == 400


def test_no_documented_filter_allows_a_nul(document: dict[str, Any]) -> None:
    parameters = operation(document, "get", "/api/data/records/")["parameters"]

    patterns = {each["name"]: each["schema"].get("pattern") for each in parameters}
    assert re.search(patterns["last_name"], "O'Hara\n")
    assert not re.search(patterns["last_name"], "\0")


def test_every_reference_leads_somewhere(api: Api, document: dict[str, Any]) -> None:
    text = api.get("/api/schema/", Accept="*/*").content.decode()

    for name in re.findall(r'"\$ref": ?"#/components/schemas/([^"]+)"', text):
        assert name in document["components"]["schemas"]
    assert '"#/$defs' not in text


def test_a_job_is_documented_as_it_is_answered(api: Api, document: dict[str, Any]) -> None:
    answer = api.post("/jobs").json()

    assert answer.keys() == document["components"]["schemas"]["Job"]["properties"].keys() == examples.A_JOB.keys()


def test_it_comes_as_yaml_on_request(api: Api) -> None:
    assert api.get("/api/schema/", Accept="application/yaml").content.startswith(b"openapi: 3.1")


@pytest.mark.parametrize("path", ["/swagger/", "/api/docs/"])
def test_the_pages_load_nothing_from_elsewhere(path: str) -> None:
    page = Client().get(path).content.decode()

    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert assets
    assert all(asset.startswith("/") for asset in assets)
    script = Client().get("/swagger/?script=").content.decode()
    assert '"validatorUrl": null' in script if path == "/swagger/" else "img-src 'self' data:" in page
    for asset in assets:
        assert Client().get(asset).status_code == 200


def test_it_is_made_once_since_that_takes_long_and_needs_no_token(api: Api) -> None:
    first = api.get("/api/schema/", Accept="*/*").content

    with patch.object(SchemaGenerator, "get_schema", side_effect=AssertionError):
        assert api.get("/api/schema/?version=2&lang=de", Accept="*/*").content == first
