"""Event streams of a whole Muster: who watches takes no thread, and is told whoever does something."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import requests

from tests.event_streams import Reader
from tests.system.stack import Stack

pytestmark = pytest.mark.slow

# More than WEB_THREADS.
WATCHERS = 48
PATIENCE_SECONDS = 60


def watch(stack: Stack, path: str, **headers: str) -> requests.Response:
    response = requests.get(f"{stack.url}{path}", headers=headers, stream=True, timeout=PATIENCE_SECONDS)
    response.raise_for_status()
    return response


def submit(stack: Stack, seconds: float) -> str:
    body: Any = {"kind": "demo.slices", "payload": {"slices": 2, "seconds_per_slice": seconds}}
    response = requests.post(f"{stack.url}/jobs", json=body, timeout=PATIENCE_SECONDS)
    assert response.status_code == 202, response.text
    return str(response.json()["job_id"])


def test_a_job_is_watched_until_it_has_completed(stack: Stack) -> None:
    job_id = submit(stack, 0.1)

    with watch(stack, f"/jobs/{job_id}/events") as response:
        events = list(Reader(response.iter_content(None)).events())

    assert response.headers["Content-Type"] == "text/event-stream"
    assert [event.data["status"] for event in events if event.name == "status"][-2:] == ["RUNNING", "COMPLETED"]


def test_more_watchers_than_threads_leave_room_for_requests(stack: Stack) -> None:
    job_id = submit(stack, 20)
    with ExitStack() as opened:
        readers = [
            Reader(opened.enter_context(watch(stack, f"/jobs/{job_id}/events")).iter_content(None))
            for _ in range(WATCHERS)
        ]
        for reader in readers:
            reader.next("status")

        cancelled = requests.delete(f"{stack.url}/jobs/{job_id}", timeout=PATIENCE_SECONDS)
        ends = [list(reader.events())[-1].data["status"] for reader in readers]

    assert cancelled.status_code in (200, 202)
    assert ends == ["CANCELLED"] * WATCHERS
