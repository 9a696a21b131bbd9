"""Records to send, and a worker that ingests them when told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from pytest_django import Settings

from orchestrator.kinds import kind_named
from orchestrator.worker.process import WorkerProcess
from tests.api import Api, api, as_user, asks_for_tokens, unthrottled
from tests.orchestrator.workbench import live_worker, make_worker, run

__all__ = ["api", "as_user", "asks_for_tokens", "live_worker", "make_worker", "unthrottled"]

# What the outside service under test was told: (idempotency key, student_ids).
told: list[tuple[str, list[str]]] = []
# What it is met with, call by call: an exception, or something that happens meanwhile.
troubles: list[BaseException | Callable[[], None]] = []

Ingest = Callable[..., str]


def service(records: list[dict[str, Any]], *, idempotency_key: str) -> None:
    """An outside service that remembers what it was told, and fails when it is meant to."""
    told.append((idempotency_key, [record["student_id"] for record in records]))
    if troubles:
        trouble = troubles.pop(0)
        if isinstance(trouble, BaseException):
            raise trouble
        trouble()


@pytest.fixture(autouse=True)
def outside(settings: Settings) -> list[tuple[str, list[str]]]:
    """What the outside service is told."""
    told.clear()
    troubles.clear()
    settings.ENV = msgspec.structs.replace(settings.ENV, INGESTION_EXTERNAL_SERVICE="tests.ingestion.conftest.service")
    return told


@pytest.fixture
def ingest(api: Api, worker: WorkerProcess) -> Ingest:
    """Sends records and lets a worker ingest them, as far as one attempt comes; answers the task's id."""

    def send(records: list[Any], **options: Any) -> str:
        task_id = send_only(api, records, **options)
        work(worker)
        return task_id

    return send


def send_only(api: Api, records: list[Any], **options: Any) -> str:
    response = api.post("/api/data/ingest/", {"records": records, **options})
    assert response.status_code == 202, response.content
    return str(response.json()["task_id"])


def work(worker: WorkerProcess) -> bool:
    return run(kind_named("ingestion.ingest"), worker) > 0


def status(api: Api, task_id: str) -> dict[str, Any]:
    response = api.get(f"/api/data/status/{task_id}/")
    assert response.status_code == 200, response.content
    return dict(response.json())


def counts(api: Api, task_id: str) -> tuple[str, int, int, int]:
    """Status, and how many are processed, stored and failed."""
    now = status(api, task_id)
    return now["status"], now["processed_records"], now["stored_records"], now["failed_records"]


def errors(api: Api, task_id: str) -> dict[int, list[tuple[str, str]]]:
    """(field, code) of each error, by the record's index."""
    found = api.get(f"/api/data/status/{task_id}/errors/?limit=200").json()["results"]
    return {each["index"]: [(error["field"], error["code"]) for error in each["errors"]] for each in found}


def student(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "student_id": f"S-{number:04}",
        "first_name": "Asha",
        "last_name": "Rao",
        "email": f"asha{number}@example.org",
        "grade": "5",
        **fields,
    }


def students(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [student(number, **fields) for number in range(count)]
