"""A worker and what another release sends it: recorded messages and rows, and messages that it cannot know.

What is recorded in tests/recorded was sent and written by 0.1.0. It stays as it is: later releases must live with it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
import redis

from config.local.postgres import postgres_url
from orchestrator.ids import uuid7
from tests.system.stack import CELERY_WORKERS, Stack, until

RECORDED = Path(__file__).parent.parent / "recorded"
BELL = json.loads((RECORDED / "bell.json").read_text())
JOB = (RECORDED / "job.sql").read_text()


@pytest.fixture
def unattended(stack: Stack) -> Iterator[Stack]:
    """No tick wakes a worker, so that it is the message under test that does."""
    with stack.stopped(stack.process("beat")):
        until(lambda: age_of_tick(stack) > 2, 20)
        yield stack


@pytest.fixture
def unrung(unattended: Stack) -> Iterator[Stack]:
    """Nor does the process that ticks by itself when Beat is silent, and rings again for what has waited."""
    with unattended.stopped(unattended.process("control")):
        yield unattended


def age_of_tick(stack: Stack) -> float:
    [[age]] = stack.query(
        "SELECT extract(epoch FROM clock_timestamp() - ran_at) FROM orchestrator_upkeep WHERE part = 'tick'"
    )
    return float(age)


def insert_recorded_job(stack: Stack, kind: str = "demo.slices") -> str:
    """As 0.1.0 would, whatever columns there are by now."""
    job_id = str(uuid7())
    url = postgres_url(stack.data_dir / "postgres", stack.ports["POSTGRES_PORT"])
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(JOB, [job_id])
        cursor.execute("UPDATE orchestrator_job SET kind = %s WHERE id = %s", [kind, job_id])
    connection.close()
    return job_id


def bells_answered(stack: Stack, kind: str = "demo.slices") -> int:
    with stack.remote_control() as app:
        replies = app.control.inspect(timeout=5, limit=CELERY_WORKERS).stats()
    return sum(int(stats["total"].get(kind, 0)) for stats in (replies or {}).values())


def send(stack: Stack, message: dict[str, Any]) -> None:
    client = redis.Redis.from_url(stack.broker_url)
    client.lpush(f"muster:{message['properties']['delivery_info']['routing_key']}", json.dumps(message))
    client.close()


def bell(args: list[Any] | None = None, kwargs: dict[str, Any] | None = None, **headers: Any) -> dict[str, Any]:
    """The recorded message under an id of its own, with what another release might add."""
    id = str(uuid4())
    body = json.dumps([args or [], kwargs or {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    return {
        **BELL,
        "body": base64.b64encode(body.encode()).decode(),
        "headers": {**BELL["headers"], "id": id, "root_id": id, **headers},
        "properties": {**BELL["properties"], "correlation_id": id, "delivery_tag": id},
    }


def test_a_recorded_bell_starts_a_recorded_job(unrung: Stack) -> None:
    answered = bells_answered(unrung)
    job_id = insert_recorded_job(unrung)

    send(unrung, BELL)

    ended = unrung.end_of(job_id)
    assert (ended["status"], ended["result"]) == ("COMPLETED", {"slices": 1})
    assert bells_answered(unrung) == answered + 1


def test_a_bell_with_unknown_arguments_starts_a_job(unrung: Stack) -> None:
    answered = bells_answered(unrung)
    job_id = insert_recorded_job(unrung)
    message = bell(args=["new"], kwargs={"hint": {"jobs": 5}}, tenant="blue", stamped_headers=["tenant"])

    send(unrung, message)

    assert unrung.end_of(job_id)["status"] == "COMPLETED"
    assert bells_answered(unrung) == answered + 1


def test_a_message_of_an_unknown_kind_does_no_harm(stack: Stack) -> None:
    before = stack.process("worker-io").pid
    unknown = insert_recorded_job(stack, kind="next.release")

    for _ in range(3):
        send(stack, bell(task="next.release"))
    known = stack.submit("demo.slices", {"slices": 1, "seconds_per_slice": 0})

    assert stack.end_of(known)["status"] == "COMPLETED"
    assert stack.process("worker-io").pid == before
    waiting = stack.job(unknown)
    assert (waiting["status"], waiting["attempts"]) == ("CREATED", [])
    assert stack.delete(f"/jobs/{unknown}").json()["status"] == "CANCELLED"


def test_a_tick_with_unknown_arguments_runs(unattended: Stack) -> None:
    message = bell(kwargs={"lanes": 4}, task="orchestrator.tick")
    message["properties"]["delivery_info"]["routing_key"] = "control"

    send(unattended, message)

    until(lambda: age_of_tick(unattended) < 2, 20)
