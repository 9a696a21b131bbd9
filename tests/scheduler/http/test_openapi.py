"""What the OpenAPI document says of tasks and schedules."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from scheduler.http import examples
from tests.api import Api
from tests.scheduler.factories import make_schedule, make_task, run_all

pytestmark = pytest.mark.django_db

PATHS = {
    "/tasks/": {"get", "post"},
    "/tasks/batch-request/": {"post"},
    "/tasks/{task_id}/": {"get", "delete"},
    "/tasks/{task_id}/run/": {"post"},
    "/calendars/": {"get", "post"},
    "/calendars/{name}/": {"get", "patch", "delete"},
    "/task-schedules/": {"get", "post"},
    "/task-schedules/preview/": {"post"},
    "/task-schedules/{schedule_id}/": {"get", "put", "patch", "delete"},
    "/task-schedules/{schedule_id}/preview/": {"get"},
    "/task-schedules/{schedule_id}/pause/": {"post"},
    "/task-schedules/{schedule_id}/resume/": {"post"},
    "/task-schedules/{schedule_id}/run-now/": {"post"},
    "/task-schedules/{schedule_id}/backfill/": {"post"},
}
SUBMITTING = [
    "/tasks/", "/tasks/batch-request/", "/tasks/{task_id}/run/", "/task-schedules/",
    "/task-schedules/{schedule_id}/run-now/", "/task-schedules/{schedule_id}/backfill/",
]  # fmt: skip


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    return dict(api.get("/api/schema/", Accept="*/*").json())


def test_every_path_is_there_with_its_methods(document: dict[str, Any]) -> None:
    for path, methods in PATHS.items():
        assert document["paths"][path].keys() == methods


@pytest.mark.parametrize("path", SUBMITTING)
def test_what_submits_work_documents_the_idempotency_key(document: dict[str, Any], path: str) -> None:
    parameters = document["paths"][path]["post"]["parameters"]

    assert "Idempotency-Key" in {parameter["name"] for parameter in parameters}


def test_responses_are_documented_as_they_are(api: Api, document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    task, schedule = make_task(), make_schedule()
    run_all()

    answers: dict[str, dict[str, Any]] = {
        "Task": api.get("/tasks/").json()["results"][0],
        "TaskWithResults": api.get(f"/tasks/{task.id}/").json(),
        "TaskSchedule": api.get(f"/task-schedules/{schedule.id}/").json(),
        "AcceptedBatch": api.post("/batch-request/", [{"operation": "1+2"}]).json(),
        "Preview": api.get(f"/task-schedules/{schedule.id}/preview/").json(),
    }
    shown: tuple[Any, ...] = (
        examples.TASK,
        examples.TASK_WITH_RESULTS,
        examples.SCHEDULE,
        examples.ACCEPTED_BATCH,
        examples.PREVIEW,
    )

    for (name, answer), example in zip(answers.items(), shown, strict=True):
        assert answer.keys() == schemas[name]["properties"].keys() == example.keys()


GOOD = {"a": 1, "b": "2.50", "interval": 60}
SCHEDULES: list[dict[str, Any]] = [
    GOOD,
    GOOD | {"a": " 1.5e3 ", "b": "00000000000000000000000000000000000.5000000000000000"},
    {"operation": "1+0000000000000000000000000000000002", "cron": "@daily", "rrule": None},
    {"operation": "1 + 2", "every_x_days": 1, "every_x_hours": 0},
    {"operation": "1 + 2", "every_x_days": 0, "every_x_hours": 5.0},
    {"operation": "1 + 2", "every_x_hours": 5, "timezone": "Asia/Kathmandu"},
    {"operation": None, "a": 1, "b": 2, "rrule": "FREQ=DAILY"},
]
NO_SCHEDULES: list[dict[str, Any]] = [
    {"a": 1, "b": 2},
    GOOD | {"operation": "1+2"},
    GOOD | {"cron": "@daily"},
    GOOD | {"timezone": "Mars/Olympus"},
    GOOD | {"schedule_x_times": 2**31},
    GOOD | {"a": "1e"},
    GOOD | {"a": 1e30},
    {"a": 1, "interval": 60},
    {"operation": "1+-2", "interval": 60},
    {"operation": "1+2", "every_x_days": 0, "every_x_hours": 0},
    {"operation": "1+2", "every_x_days": 0},
]


def documented(document: dict[str, Any], name: str) -> Any:
    """Validates what the document says of the schema of that name."""
    whole = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema_rs.Draft202012Validator(whole)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_is_taken_for_a_schedule_is_one_by_the_document(
    api: Api, document: dict[str, Any], schedule: dict[str, Any]
) -> None:
    assert documented(document, "TaskScheduleBodyRequest").is_valid(schedule)
    assert api.post("/task-schedules/", schedule).status_code == 201


@pytest.mark.parametrize("schedule", NO_SCHEDULES)
def test_what_is_refused_as_a_schedule_is_none_by_the_document(
    api: Api, document: dict[str, Any], schedule: dict[str, Any]
) -> None:
    assert not documented(document, "TaskScheduleBodyRequest").is_valid(schedule)
    assert api.post("/task-schedules/", schedule).status_code == 400


def test_a_preview_needs_nothing_to_add_by_the_document_either(api: Api) -> None:
    for operands in ({}, {"operation": None}, {"a": 1, "b": 2}, {"operation": "1+2"}):
        # What was taken is held against the document.
        assert api.post("/task-schedules/preview/", operands | {"interval": 60}).status_code == 200


@pytest.mark.parametrize("name", examples.NEW_SCHEDULES)
def test_the_examples_of_schedules_are_accepted(api: Api, name: str) -> None:
    assert api.post("/task-schedules/", examples.NEW_SCHEDULES[name]).status_code == 201


@pytest.mark.parametrize("name", examples.NEW_TASKS)
def test_the_examples_of_tasks_are_accepted(api: Api, name: str) -> None:
    assert api.post("/tasks/", examples.NEW_TASKS[name]).status_code == 202


CHANGES: list[dict[str, Any]] = [
    {},
    {"a": 5},
    {"operation": None, "b": 2},
    {"operation": "1+2", "priority": 0},
    {"interval": 10, "cron": None},
    {"every_x_hours": 5},
    {"every_x_days": 2, "every_x_hours": None},
    {"cron": "@Daily", "interval": None},
]
NO_CHANGES: list[dict[str, Any]] = [
    {"operation": "1+2", "a": 5},
    {"interval": None},
    {"every_x_hours": 0},
    {"every_x_days": None, "every_x_hours": 0},
    {"interval": 10, "cron": "@daily"},
    {"cron": "61 * * * *"},
    {"rrule": "DAILY"},
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_schedule_does_so_by_the_document(
    api: Api, document: dict[str, Any], change: dict[str, Any]
) -> None:
    assert documented(document, "PatchedTaskScheduleBodyRequest").is_valid(change)
    assert api.send("PATCH", f"/task-schedules/{make_schedule().id}/", json.dumps(change).encode()).status_code == 200


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_is_refused_as_a_change_is_none_by_the_document(
    api: Api, document: dict[str, Any], change: dict[str, Any]
) -> None:
    assert not documented(document, "PatchedTaskScheduleBodyRequest").is_valid(change)
    assert api.send("PATCH", f"/task-schedules/{make_schedule().id}/", json.dumps(change).encode()).status_code == 400
