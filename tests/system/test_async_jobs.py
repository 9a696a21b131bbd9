"""Async jobs in a real worker: hundreds that wait at once, while it is killed, told to stop, or kept from running."""

from __future__ import annotations

import signal
import time

import pytest

from tests.system.stack import Stack, until

pytestmark = [pytest.mark.slow, pytest.mark.long]

COUNT = 300
RUNNING = "SELECT count(*) FROM orchestrator_job WHERE kind = %s AND status = 'RUNNING'"
# For each job, how often it has written.
WRITTEN = """
SELECT job.status, count(effect.id)
FROM orchestrator_job job LEFT JOIN kinds_effect effect ON effect.job_id = job.id
WHERE job.id = ANY(%s::uuid[]) GROUP BY job.id, job.status
"""
OUTCOMES = """
SELECT DISTINCT attempt.outcome, job.max_attempts - job.attempt FROM orchestrator_job job
JOIN orchestrator_attempt attempt ON attempt.job_id = job.id WHERE job.id = ANY(%s::uuid[])
"""


SUBMIT = """
from orchestrator.submission import submit_many
print(*submit_many({kind!r}, [{{"seconds": {seconds}}}] * {count}))
"""


def submit_many(stack: Stack, kind: str, seconds: float, count: int = COUNT) -> list[str]:
    """In one transaction, so that they are claimed together."""
    done = stack.manage("shell", "-v", "0", "-c", SUBMIT.format(kind=kind, seconds=seconds, count=count))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def wait_until_running(stack: Stack, kind: str, count: int) -> None:
    until(lambda: stack.query(RUNNING, kind)[0][0] >= count, 60)


def states(stack: Stack, ids: list[str]) -> set[tuple[str, int]]:
    return {(status, effects) for status, effects in stack.query(WRITTEN, ids)}


def test_hundreds_whose_worker_is_killed_run_again_and_write_once(stack: Stack) -> None:
    ids = submit_many(stack, "tests.wait_async", 2)
    wait_until_running(stack, "tests.wait_async", COUNT)

    stack.process("worker-io").kill()

    until(lambda: states(stack, ids) == {("COMPLETED", 1)}, 90)
    assert ("LOST", 2) in stack.query(OUTCOMES, ids)


def test_hundreds_whose_worker_is_told_to_stop_are_handed_back_and_not_charged(stack: Stack) -> None:
    ids = submit_many(stack, "tests.wait_async", 4)
    wait_until_running(stack, "tests.wait_async", COUNT)
    told = time.monotonic()
    worker = stack.process("worker-io")

    worker.send_signal(signal.SIGTERM)

    worker.wait(20)
    assert time.monotonic() - told < 10
    until(lambda: states(stack, ids) == {("COMPLETED", 1)}, 90)
    assert stack.query(OUTCOMES, ids) == [("INTERRUPTED", 2)]


def test_one_that_waits_is_cancelled_within_two_seconds(stack: Stack) -> None:
    job_id = stack.submit("tests.wait_async", {"seconds": 60})
    stack.running(job_id)
    asked_at = time.monotonic()

    assert stack.delete(f"/jobs/{job_id}").status_code == 202

    assert stack.end_of(job_id)["status"] == "CANCELLED"
    assert time.monotonic() - asked_at < 2
