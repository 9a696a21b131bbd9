"""What the API takes and refuses alike at every endpoint: filters, numbers, times, usernames and Accept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from django.urls import get_resolver
from rest_framework import serializers

from orchestrator.http.fields import StrictSerializer
from orchestrator.models import Job
from tests.api import Api, pointers
from tests.factories import make_job

pytestmark = pytest.mark.django_db

LISTS = {
    "/jobs": [
        "status",
        "kind",
        "owner",
        "queue",
        "priority",
        "parent",
        "schedule",
        "created_after",
        "created_before",
        "finished_after",
        "finished_before",
    ],
    "/tasks/": ["status", "schedule", "priority", "owner", "created_after", "created_before"],
    "/task-schedules/": ["enabled", "owner"],
    "/api/data/records/": ["task_id", "owner", "grade", "section", "email", "roll_number", "city", "updated_after"],
}
FILTERS = [(path, name) for path, names in LISTS.items() for name in [*names, "cursor", "limit"]]
# Those that may be repeated: any of the values will do.
OF_SEVERAL_VALUES = {
    ("/tasks/", "status"),
    *(("/jobs", name) for name in ("status", "kind", "owner", "queue", "priority")),
}
NOBODY = "01980c5e-7a00-7000-8000-000000000000"
ERRORS = "/api/data/status/{id}/errors/"


@pytest.mark.parametrize(("path", "name"), FILTERS)
def test_an_empty_filter_is_refused(api: Api, path: str, name: str) -> None:
    response = api.get(f"{path}?{name}=")

    assert (response.status_code, pointers(response)) == (400, [f"/{name}"])


@pytest.mark.parametrize(("path", "name"), [each for each in FILTERS if each not in OF_SEVERAL_VALUES])
def test_a_repeated_filter_is_refused(api: Api, path: str, name: str) -> None:
    response = api.get(f"{path}?{name}=1&{name}=2")

    assert (response.status_code, pointers(response)) == (400, [f"/{name}"])


@pytest.mark.parametrize(
    "query",
    [
        "/jobs?parent=nobody",
        "/task-schedules/?enabled=1",
        "/task-schedules/?enabled=yes",
        "/tasks/?priority=5.0",
        "/tasks/?priority=%D9%A5",
        "/tasks/?priority=1_0",
        "/jobs/01980c5e-7a00-7000-8000-000000000000?wait=nan",
        "/jobs/01980c5e-7a00-7000-8000-000000000000?wait=inf",
        "/jobs/01980c5e-7a00-7000-8000-000000000000?wait=1_0",
        "/jobs/01980c5e-7a00-7000-8000-000000000000?wait=1e999",
    ],
)
def test_what_is_not_as_documented_is_refused(api: Api, query: str) -> None:
    assert api.get(query).status_code == 400


def test_jobs_without_a_parent_are_listed_by_parent_none(api: Api) -> None:
    parent = make_job()
    make_job(parent_id=parent.id)

    assert [each["job_id"] for each in api.get("/jobs?parent=none").json()["results"]] == [str(parent.id)]


@pytest.mark.parametrize(
    ("path", "name"), [each for each in FILTERS if each[1] in ("created_after", "created_before", "updated_after")]
)
def test_an_unescaped_plus_in_a_query_gets_a_hint(api: Api, path: str, name: str) -> None:
    refused = api.get(f"{path}?{name}=2030-01-31T12:00:00+01:00")
    taken = api.get(f"{path}?{name}=2030-01-31T12:00:00%2B01:00")

    assert refused.status_code == 400
    assert "%2B" in refused.json()["detail"]
    assert taken.status_code == 200


def test_a_time_may_be_written_in_small_letters(api: Api) -> None:
    assert api.post("/jobs", {"run_at": "2030-01-31t12:00:00z"}).json()["run_at"] == "2030-01-31T12:00:00Z"


@pytest.mark.parametrize("number", [b"6.0", b"6e0", b"60e-1", b"0.6E+1"])
def test_an_integer_may_be_written_with_a_point(api: Api, number: bytes) -> None:
    answers = [
        api.send("POST", "/jobs", b'{"priority": %b, "max_attempts": %b}' % (number, number)),
        api.send("POST", "/tasks/", b'{"a": 1, "b": 2, "priority": %b}' % number),
        api.send(
            "POST", "/task-schedules/", b'{"operation": "1+2", "interval": %b, "priority": %b}' % (number, number)
        ),
    ]

    assert [answer.status_code for answer in answers] == [202, 202, 201]
    assert [answer.json()["priority"] for answer in answers] == [6, 6, 6]


@pytest.mark.parametrize("number", [b"6.5", b"1e300", b"1e99999", b'"6"', b"true"])
@pytest.mark.parametrize("path", ["/jobs", "/tasks/", "/task-schedules/"])
def test_a_value_that_is_not_an_integer_is_refused(api: Api, path: str, number: bytes) -> None:
    fields = b"" if path == "/jobs" else b', "operation": "1+2"'

    assert api.send("POST", path, b'{"priority": %b%b}' % (number, fields)).status_code == 400


@pytest.mark.parametrize("name", [".", "..", "%2E", "%2E%2E"])
def test_a_username_of_dots_is_refused_with_what_would_be_right(api: Api, name: str) -> None:
    response = api.post(f"/orchestrate/{name}")

    assert response.status_code == 400
    assert "letters, digits" in response.json()["detail"]
    assert not Job.objects.exists()


@pytest.mark.parametrize("name", ["...", "a..b", "-", "@", "+", "_", "Zo\u00eb", "a" * 150])
def test_any_other_username_of_django_is_taken_and_its_link_leads_back(api: Api, name: str) -> None:
    started = api.post(f"/orchestrate/{name}").json()

    assert api.get(started["status_url"]).status_code == 200


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/json",
        "application/*",
        "application/json; charset=utf-8",
        "application/problem+json",
        "text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8",
        "text/html;q=1, application/json;q=0.1",
        "application/json;q=nonsense",
        "garbage, application/json",
    ],
)
def test_clients_that_accept_json_get_it(api: Api, accept: str) -> None:
    response = api.get("/jobs", Accept=accept)

    assert (response.status_code, response["Content-Type"]) == (200, "application/json")


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "application/json;q=0", "json", "text/csv"])
def test_clients_that_do_not_accept_json_are_told_what_is_available(api: Api, accept: str) -> None:
    response = api.get("/jobs", Accept=accept)

    assert (response.status_code, response["Content-Type"]) == (406, "application/problem+json")
    assert "application/json" in response.json()["detail"]


CSV, JSON = "text/csv; charset=utf-8", "application/json"


@pytest.fixture
def errors(api: Api) -> str:
    return ERRORS.format(id=api.post("/api/data/ingest/", {"records": [{}]}).json()["task_id"])


@pytest.mark.parametrize(
    ("query", "accept", "expected"),
    [
        ("", "*/*", JSON),
        ("", "text/csv", CSV),
        ("", "text/*", CSV),
        ("", "text/csv, application/json;q=0.5", CSV),
        ("", "text/csv;q=0.5, application/json", JSON),
        ("", "text/html, */*;q=0.8", JSON),
        ("?format=csv", "text/csv", CSV),
        ("?format=csv", "*/*", CSV),
        ("?format=csv", "application/json", CSV),
        ("?format=json", "text/csv", JSON),
    ],
)
def test_errors_come_as_csv_by_parameter_or_accept_header(
    api: Api, errors: str, query: str, accept: str, expected: str
) -> None:
    response: Any = api.get(errors + query, Accept=accept)

    assert (response.status_code, response["Content-Type"]) == (200, expected)


@pytest.mark.parametrize("number", [b"2.0", b"2e0", b"20e-1"])
def test_an_integer_of_a_payload_may_be_written_with_a_point(api: Api, number: bytes) -> None:
    job = api.send("POST", "/jobs", b'{"payload": {"slices": %b}}' % number).json()

    assert msgspec.json.encode(Job.objects.get(id=job["job_id"]).payload["slices"]) == b"2"


@pytest.mark.parametrize(
    ("path", "name", "known"),
    [
        ("/jobs?status=DONE", "DONE", "COMPLETED"),
        ("/tasks/?status=completed", "completed", "PENDING"),
        ("/api/data/records/?grade=XII", "XII", "12"),
        (f"/api/data/status/{NOBODY}/errors/?format=xml", "xml", "csv"),
    ],
)
def test_an_invalid_choice_is_refused_with_the_valid_ones(api: Api, path: str, name: str, known: str) -> None:
    detail = api.get(path).json()["detail"]

    assert (name in detail, known in detail) == (True, True)


@pytest.mark.parametrize(
    ("path", "body", "known"),
    [
        ("/task-schedules/", {"operation": "1+2", "interval": 60, "misfire_policy": "sometimes"}, "latest"),
        ("/api/data/ingest/", {"records": [{}], "on_conflict": "replace"}, "update"),
        ("/tasks/batch-request/?on_error=ignore", [{"operation": "1+2"}], "skip"),
    ],
)
def test_an_invalid_choice_in_a_body_is_refused_with_the_valid_ones(
    api: Api, path: str, body: Any, known: str
) -> None:
    response = api.post(path, body)

    assert (response.status_code, known in response.json()["detail"]) == (400, True)


def test_a_day_that_does_not_exist_is_refused_as_such(api: Api) -> None:
    response = api.post("/jobs", {"run_at": "2030-02-30T12:00:00Z"})

    assert (response.status_code, response.json()["detail"][:32]) == (400, "/run_at: Invalid time; write it ")


@pytest.mark.parametrize(
    "time",
    [
        "2030-01-31T12:00:00+05:75",
        "2030-01-31T12:00:00-0560",
        "2030-01-31T12:00:00+05:30:60",
        "２０３０-01-31T12:00:00Z",
        "2030-01-31T12:00:00+٠١:00",
    ],
)
def test_a_time_that_python_would_read_as_another_one_is_refused(api: Api, time: str) -> None:
    response = api.post("/jobs", {"run_at": time})

    assert (response.status_code, response.json()["detail"][:32]) == (400, "/run_at: Invalid time; write it ")


@pytest.mark.parametrize(
    "time", ["2030-01-31T12:00:00+05:45", "2030-01-31T12:00:00-03:30", "2030-01-31T12:00:00+12:45"]
)
def test_an_offset_may_have_minutes(api: Api, time: str) -> None:
    assert api.post("/jobs", {"run_at": time}).status_code == 202


@pytest.mark.parametrize("offset", ["+01:00", "+0100", "+01"])
@pytest.mark.parametrize("time", ["2030-01-31T12:00", "2030-01-31 12:00:00.5", "20300131T120000"])
def test_the_hint_for_a_plus_comes_however_the_time_is_written(api: Api, time: str, offset: str) -> None:
    assert "%2B" in api.get(f"/jobs?created_after={time}{offset}").json()["detail"]


def test_a_blank_before_the_time_of_day_is_not_taken_for_a_plus(api: Api) -> None:
    assert "Give the offset" in api.get("/jobs?created_after=2030-01-31 12:00").json()["detail"]


@pytest.mark.parametrize("cursor", ["1_0", "%D9%A3", "%2B1", "{01980c5e-7a00-7000-8000-000000000000}", "1" * 5_000])
@pytest.mark.parametrize("path", [*LISTS, "/audit"])
def test_a_cursor_in_any_other_form_than_that_of_next_is_refused(api: Api, path: str, cursor: str) -> None:
    response = api.get(f"{path}?cursor={cursor}")

    assert (response.status_code, pointers(response)) == (400, ["/cursor"])


@pytest.mark.parametrize(
    "query",
    [
        "owner=" + "x" * 60_000,
        "x" * 60_000,
        "owner=" + "%C3%A9" * 10_000,
        "&".join(f"cursor={number}" for number in range(900)),
        "&".join(["status=COMPLETED"] * 900),
        "&".join(f"a{number}" for number in range(2_000)),
    ],
    ids=lambda query: query[:12],
)
@pytest.mark.parametrize("path", [*LISTS, "/audit", f"/jobs/{NOBODY}", "/tasks/batch-request/"])
def test_a_query_of_any_length_is_answered_in_few_words(api: Api, path: str, query: str) -> None:
    response = api.send("POST" if "batch" in path else "GET", f"{path}?{query}", b"[]" if "batch" in path else b"")

    assert response.status_code in (200, 400)
    assert len(response.content) < 10_000


@pytest.mark.parametrize(
    "path", ["/jobs", "/orchestrate/ada", "/tasks/", "/task-schedules/", "/api/data/ingest/stream/"]
)
def test_a_key_of_any_length_is_answered_in_few_words(api: Api, path: str) -> None:
    response = api.send("POST", path, b"{}", content_type="application/json", Idempotency_Key="k" * 60_000)

    assert (response.status_code, pointers(response)) == (400, ["/Idempotency-Key"])
    assert len(response.content) < 1_000


@pytest.mark.parametrize("path", ["/jobs/", "/orchestrate/", "/status/ada/", "/api/data/records/", "/nothing/"])
def test_a_path_of_any_length_is_answered_in_few_words(api: Api, path: str) -> None:
    response = api.send("POST" if "orchestrate" in path else "GET", path + "y" * 60_000)

    assert response.status_code in (400, 404)
    assert len(response.content) < 5_000


def inputs(serializer: type[Any] = StrictSerializer) -> Iterator[type[StrictSerializer]]:
    """All serializers of what clients send."""
    assert get_resolver().url_patterns, "They are declared beside the views."
    for one in serializer.__subclasses__():
        yield one
        yield from inputs(one)


def texts_of(field: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The fields for texts and ids in it, each with its path."""
    if isinstance(field, serializers.CharField | serializers.UUIDField) and not field.read_only:
        yield path, field
    if isinstance(field, serializers.Serializer):
        for name, one in field.fields.items():
            yield from texts_of(one, f"{path}/{name}")
    elif child := getattr(field, "child", None):
        yield from texts_of(child, f"{path}/0")


def test_no_input_takes_a_number_for_a_text_or_an_id() -> None:
    fields = [each for serializer in inputs() for each in texts_of(serializer(), serializer.__name__)]

    lenient = [path for path, field in fields if takes(field, 5) or takes(field, True)]

    assert len(fields) > 100
    assert lenient == []


def takes(field: Any, value: Any) -> bool:
    try:
        field.run_validation(value)
    except serializers.ValidationError:
        return False
    return True
