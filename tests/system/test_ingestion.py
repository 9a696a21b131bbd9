"""Ingestions with real workers: killed midway, many at once, and with an outside service that fails."""

from __future__ import annotations

import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import requests

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


def records_as_ndjson(prefix: str, count: int) -> Iterator[bytes]:
    for number in range(count):
        yield b'{"student_id":"%s-%d","first_name":"A","last_name":"B","email":"a@b.org","grade":"5"}\n' % (
            prefix.encode(),
            number,
        )


def test_an_upload_in_chunks_is_stored_whole(stack: Stack) -> None:
    answer = stack.stream(records_as_ndjson("chunked", 2_500))
    task_id = answer.json()["task_id"]

    ended = end_of(stack, task_id)

    assert (answer.status_code, answer.json()["total_records"]) == (202, 2_500)
    assert (ended["status"], ended["stored_records"]) == ("COMPLETED", 2_500)
    assert stored(stack, "chunked") == (2_500, 2_500)


def test_a_long_upload_takes_little_memory(stack: Stack) -> None:
    stack.stream(records_as_ndjson("warm", 10_000))
    web = stack.process("web").children(recursive=True) or [stack.process("web")]
    before = sum(process.memory_info().rss for process in web)

    answer = stack.stream(records_as_ndjson("long", 200_000))

    grown = sum(process.memory_info().rss for process in web) - before
    stack.delete(f"/api/data/status/{answer.json()['task_id']}/")
    assert answer.json()["total_records"] == 200_000
    assert grown < 50_000_000


PLAIN = b"".join(records_as_ndjson("broken", 3_000))
PACKED = zlib.compress(PLAIN, wbits=31)[:-20]


@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: 1000000\r\n\r\n" + PLAIN,
        b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (2 * len(PACKED)) + PACKED,
        b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(PACKED) + PACKED + b"\r\n",
    ],
)
def test_an_upload_whose_connection_breaks_leaves_nothing(stack: Stack, sent: bytes) -> None:
    before = stack.query("SELECT count(*) FROM ingestion_ingestion WHERE job_id IS NOT NULL")

    with socket.create_connection(("127.0.0.1", int(stack.ports["WEB_PORT"]))) as connection:
        connection.sendall(
            b"POST /api/data/ingest/stream/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n"
            + sent
        )
        until(lambda: stack.query("SELECT FROM ingestion_ingestion WHERE job_id IS NULL"), 10)

    until(lambda: not stack.query("SELECT FROM ingestion_ingestion WHERE job_id IS NULL"), 20)
    assert stack.query("SELECT count(*) FROM ingestion_ingestion WHERE job_id IS NOT NULL") == before


def test_a_chunked_upload_is_taken(stack: Stack) -> None:
    answer = requests.post(
        f"{stack.url}/api/data/ingest/stream/",
        data=records_as_ndjson("endless", 10),
        headers={"Content-Type": "application/x-ndjson"},
        timeout=10,
    )

    assert answer.status_code == 202
    assert end_of(stack, answer.json()["task_id"])["stored_records"] == 10


def test_the_script_for_a_first_try_sees_what_it_expects(stack: Stack) -> None:
    ran = subprocess.run(
        [sys.executable, "misc/test_api.py", stack.url], cwd=BASE_DIR, capture_output=True, text=True, timeout=60
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "996 stored, 4 not" in ran.stdout
