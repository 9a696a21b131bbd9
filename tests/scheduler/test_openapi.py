"""What the OpenAPI document says of tasks and schedules."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler import examples
from tests.api.conftest import Api
from tests.scheduler.desk import make_schedule, make_task, run_all

pytestmark = pytest.mark.django_db

PATHS = {
    "/tasks/": {"get", "post"},
    "/tasks/batch-request/": {"post"},
    "/tasks/{task_id}/": {"get", "delete"},
    "/tasks/{task_id}/run/": {"post"},
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
    return api.get("/api/schema/", Accept="*/*").json()


def test_every_path_is_there_with_its_methods(document: dict[str, Any]) -> None:
    for path, methods in PATHS.items():
        assert document["paths"][path].keys() == methods


@pytest.mark.parametrize("path", SUBMITTING)
def test_what_submits_work_tells_of_the_idempotency_key(document: dict[str, Any], path: str) -> None:
    parameters = document["paths"][path]["post"]["parameters"]

    assert "Idempotency-Key" in {parameter["name"] for parameter in parameters}


def test_answers_are_documented_as_they_are(api: Api, document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    task, schedule = make_task(), make_schedule()
    run_all()

    answers = {
        "Task": api.get("/tasks/").json()["results"][0],
        "TaskWithResults": api.get(f"/tasks/{task.id}/").json(),
        "TaskSchedule": api.get(f"/task-schedules/{schedule.id}/").json(),
        "AcceptedBatch": api.post("/batch-request/", [{"operation": "1+2"}]).json(),
        "Preview": api.get(f"/task-schedules/{schedule.id}/preview/").json(),
    }
    shown = (examples.TASK, examples.TASK_WITH_RESULTS, examples.SCHEDULE, examples.ACCEPTED_BATCH, examples.PREVIEW)

    for (name, answer), example in zip(answers.items(), shown, strict=True):
        assert answer.keys() == schemas[name]["properties"].keys() == example.keys()


@pytest.mark.parametrize("name", examples.NEW_SCHEDULES)
def test_the_examples_of_schedules_are_accepted(api: Api, name: str) -> None:
    assert api.post("/task-schedules/", examples.NEW_SCHEDULES[name]).status_code == 201


@pytest.mark.parametrize("name", examples.NEW_TASKS)
def test_the_examples_of_tasks_are_accepted(api: Api, name: str) -> None:
    assert api.post("/tasks/", examples.NEW_TASKS[name]).status_code == 202
