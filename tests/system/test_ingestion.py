"""Ingestions with real workers: killed midway, many at once, and with an outside service that fails."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from typing import Any

from tests.ingestion.conftest import students
from tests.system.stack import BASE_DIR, Stack, until


def ingest(stack: Stack, prefix: str, count: int = 1_000, **fields: Any) -> str:
    records = [record | {"student_id": f"{prefix}-{record['student_id']}"} for record in students(count, **fields)]
    answer = stack.post("/api/data/ingest/", {"records": records})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


def status(stack: Stack, task_id: str) -> dict[str, Any]:
    return dict(stack.get(f"/api/data/status/{task_id}/").json())


def end_of(stack: Stack, task_id: str, timeout_seconds: float = 60) -> dict[str, Any]:
    return until(lambda: (now := status(stack, task_id))["completed_at"] and now, timeout_seconds)


def stored(stack: Stack, prefix: str) -> tuple[int, int]:
    """How many records there are, and how many different student_ids."""
    [counts] = stack.query(
        "SELECT count(*), count(DISTINCT student_id) FROM ingestion_record WHERE student_id LIKE %s", f"{prefix}-%"
    )
    return counts


def test_a_worker_killed_midway_loses_no_record_and_stores_none_twice(stack: Stack) -> None:
    task_id = ingest(stack, "killed")
    until(lambda: status(stack, task_id)["processed_records"] >= 300, 30)

    stack.worker_of(task_id).kill()

    ended = end_of(stack, task_id)
    assert ended["status"] == "COMPLETED"
    assert (ended["processed_records"], ended["stored_records"], ended["failed_records"]) == (1_000, 1_000, 0)
    assert stored(stack, "killed") == (1_000, 1_000)
    assert [attempt["outcome"] for attempt in stack.job(task_id)["attempts"]] == ["LOST"]


def test_ten_at_once_run_side_by_side(stack: Stack) -> None:
    tasks = [ingest(stack, f"ten{number}") for number in range(10)]

    ended = [end_of(stack, task_id) for task_id in tasks]

    assert [(each["status"], each["stored_records"]) for each in ended] == [("COMPLETED", 1_000)] * 10
    last_start = max(datetime.fromisoformat(each["started_at"]) for each in ended)
    first_end = min(datetime.fromisoformat(each["completed_at"]) for each in ended)
    assert last_start < first_end


def test_a_step_whose_outside_call_fails_is_tried_again(stack: Stack) -> None:
    task_id = ingest(stack, "trouble", 250, city="Troubleton")

    ended = end_of(stack, task_id)

    assert (ended["status"], ended["stored_records"]) == ("COMPLETED", 250)
    assert stored(stack, "trouble") == (250, 250)
    calls = stack.query("SELECT calls FROM outside_call WHERE key LIKE %s ORDER BY key", f"{task_id}:%")
    assert calls == [(2,), (2,), (2,)]
    errors = {attempt["error"] for attempt in stack.job(task_id)["attempts"]}
    assert errors == {"ConnectionError: The outside service is down."}


def test_the_script_for_a_first_try_sees_what_it_expects(stack: Stack) -> None:
    ran = subprocess.run(
        [sys.executable, "misc/test_api.py", stack.url], cwd=BASE_DIR, capture_output=True, text=True, timeout=60
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "996 stored, 4 not" in ran.stdout
