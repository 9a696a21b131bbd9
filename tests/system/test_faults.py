"""What becomes of jobs when workers die, hang or are told to stop, and when the broker is away."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis

from tests.system.stack import LEASE_SECONDS, Stack, until


def test_a_running_job_is_cancelled_within_two_seconds(stack: Stack) -> None:
    job_id = stack.submit("demo.slices", {"slices": 1_000})
    stack.running(job_id)
    asked_at = time.monotonic()

    answer = stack.delete(f"/jobs/{job_id}")

    assert answer.status_code == 202
    assert stack.end_of(job_id)["status"] == "CANCELLED"
    assert time.monotonic() - asked_at < 2


def test_a_job_whose_child_process_is_killed_runs_again_and_writes_once(stack: Stack) -> None:
    job_id = stack.submit("tests.wait_in_child", {"seconds": 2})
    stack.running(job_id)

    stack.worker_of(job_id).kill()

    ended = stack.end_of(job_id)
    assert (ended["status"], ended["result"]) == ("COMPLETED", {"attempt": 2})
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["LOST"]
    assert stack.effects_of(job_id) == [(2, 0)]


def test_a_job_that_kills_its_worker_each_time_ends_failed(stack: Stack) -> None:
    leased, batched = stack.submit("tests.kill_worker"), stack.submit("tests.kill_worker_in_batch")

    ends = [stack.end_of(leased, 60), stack.end_of(batched, 60)]

    for ended in ends:
        assert (ended["status"], ended["attempt"]) == ("FAILED", 2)
        assert [attempt["outcome"] for attempt in ended["attempts"]] == ["LOST", "LOST"]
    assert stack.end_of(stack.submit("tests.write"))["status"] == "COMPLETED"


def test_a_job_whose_process_is_killed_in_what_follows_its_failure_ends_once(stack: Stack, tmp_path: Path) -> None:
    tickets = {kind: tmp_path / kind for kind in ("tests.die_after_failure", "tests.die_after_failure_in_batch")}
    for ticket in tickets.values():
        ticket.touch()

    jobs = [stack.submit(kind, {"path": str(ticket)}) for kind, ticket in tickets.items()]

    ends = [stack.end_of(job_id, 60) for job_id in jobs]
    assert not any(ticket.exists() for ticket in tickets.values())
    for ended in ends:
        assert ended["status"] == "FAILED"
        assert stack.effects_of(ended["job_id"]) == [(ended["attempt"], 0)]


def test_an_error_that_would_end_celery_ends_the_attempt_alone(stack: Stack) -> None:
    jobs = [stack.submit("tests.exhaust_memory"), stack.submit("tests.exit")]
    before = stack.process("worker-default").pid

    errors = [stack.end_of(job_id)["error"] for job_id in jobs]

    assert errors == ["MemoryError: too much", "SystemExit: 3"]
    assert stack.process("worker-default").pid == before


def test_a_worker_frozen_beyond_its_lease_cannot_write_when_it_wakes(stack: Stack) -> None:
    job_id = stack.submit("tests.wait_in_child", {"seconds": 1})
    stack.running(job_id)

    with stack.stopped(stack.worker_of(job_id)):
        ended = stack.end_of(job_id, LEASE_SECONDS + 20)

    assert ended["result"] == {"attempt": 2}
    [[renewed]] = stack.query("SELECT count(*) FROM orchestrator_worker WHERE lost AND ended_at IS NOT NULL")
    assert renewed >= 1
    until(lambda: stack.query("SELECT FROM orchestrator_worker WHERE ended_at IS NULL AND name LIKE 'default@%%'"), 20)
    assert stack.effects_of(job_id) == [(2, 0)]


def test_a_worker_that_shuts_down_hands_its_jobs_back_and_charges_no_attempt(stack: Stack) -> None:
    in_thread = stack.submit("tests.wait_and_write", {"seconds": 6})
    in_child = stack.submit("tests.wait_in_child", {"seconds": 6})
    deaf = stack.submit("tests.wait_deaf", {"seconds": 6})
    for job_id in (in_thread, in_child, deaf):
        stack.running(job_id)

    for name in ("worker-io", "worker-default"):
        stack.process(name).send_signal(signal.SIGTERM)

    for job_id in (in_thread, in_child, deaf):
        ended = stack.end_of(job_id, 60)
        assert (ended["status"], ended["attempt"], ended["max_attempts"]) == ("COMPLETED", 2, 4)
        assert [attempt["outcome"] for attempt in ended["attempts"]] == ["INTERRUPTED"]
        assert stack.effects_of(job_id) == [(2, 0)]


def test_steps_that_are_finished_are_kept_when_the_worker_is_killed(stack: Stack) -> None:
    job_id = stack.submit("tests.steps", {"steps": 20, "seconds_per_step": 0.2})
    until(lambda: (stack.job(job_id)["progress"] or {}).get("done") or 0 >= 3, 20)

    stack.worker_of(job_id).kill()

    assert stack.end_of(job_id)["status"] == "COMPLETED"
    effects = stack.effects_of(job_id)
    assert [number for _, number in effects] == list(range(20))
    assert {attempt for attempt, _ in effects} == {1, 2}


def test_a_flushed_broker_loses_nothing(stack: Stack) -> None:
    waiting = [stack.submit("tests.wait_and_write", {"seconds": 0.2}) for _ in range(20)]

    for _ in range(5):
        redis.Redis.from_url(stack.broker_url).flushall()
        waiting += [stack.submit("tests.write") for _ in range(10)]

    for job_id in waiting:
        assert stack.end_of(job_id)["status"] == "COMPLETED"
        assert len(stack.effects_of(job_id)) == 1


def test_submitting_takes_less_than_a_second_while_the_broker_hangs_or_is_down(stack: Stack) -> None:
    valkey = stack.process("valkey-server")

    with stack.stopped(valkey):
        waits, jobs = zip(*(timed_submission(stack) for _ in range(20)), strict=True)
    valkey.kill()
    more_waits, more_jobs = zip(*(timed_submission(stack) for _ in range(20)), strict=True)

    assert max(waits + more_waits) < 1
    assert {stack.end_of(job_id)["status"] for job_id in jobs + more_jobs} == {"COMPLETED"}


def timed_submission(stack: Stack) -> tuple[float, str]:
    began_at = time.monotonic()
    job_id = stack.submit("tests.write")
    return time.monotonic() - began_at, job_id


def test_a_second_beat_and_a_second_control_do_no_harm(stack: Stack) -> None:
    with stack.doubled("beat", "control"):
        with ThreadPoolExecutor(8) as pool:
            jobs = list(pool.map(lambda _: stack.submit("tests.wait_and_write", {"seconds": 0.1}), range(40)))
        for job_id in jobs:
            stack.end_of(job_id)

    assert [len(stack.effects_of(job_id)) for job_id in jobs] == [1] * 40
