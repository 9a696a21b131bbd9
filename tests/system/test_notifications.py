"""What is told of a job's end outlives the worker that ended it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.orchestrator.notifications.receiver import Receiver
from tests.system.stack import Stack, until


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver().start()
    yield started
    started.stop()


def test_kill_9_between_a_jobs_end_and_its_message_loses_no_message(stack: Stack, receiver: Receiver) -> None:
    made = stack.post(
        "/notifications", {"name": "hook", "via": "webhook", "target": receiver.url, "automatic": False}
    ).json()

    job_id = stack.submit("tests.die_after_end", notify=[made["id"]])

    until(lambda: receiver.accepted, 60)
    [event] = receiver.verified(made["secret"])
    assert (event["type"], event["data"]["job_id"]) == ("job.completed", job_id)
    ended = stack.job(job_id)
    assert (ended["status"], ended["attempt"], stack.effects_of(job_id)) == ("COMPLETED", 1, [(1, 0)])
    [[ended_by]] = stack.query("SELECT worker_name FROM orchestrator_job WHERE id = %s", job_id)
    until(lambda: stack.query("SELECT FROM orchestrator_worker WHERE name = %s AND lost", ended_by))
