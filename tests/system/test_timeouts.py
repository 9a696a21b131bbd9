"""What becomes of handlers that do not end in time, of their slots, and of the jobs beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import servers
from tests.kinds.hanging import HANGS
from tests.system.stack import Stack, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

GRACE_SECONDS = 1
LEASED = ["tests.hang_in_child", "tests.hang_in_thread"]


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with Stack(
        servers.new_folder("stack") / "data",
        HARD_TIMEOUT_GRACE_SECONDS=str(GRACE_SECONDS),
        QUEUES="default:prefork:2,io:threads:8",
    ) as stack:
        yield stack


@pytest.fixture
def stack(running: Stack) -> Stack:
    running.wait_until_ready(120)
    return running


def outcomes(ended: dict[str, Any]) -> list[str]:
    return [attempt["outcome"] for attempt in ended["attempts"]]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["tests.hang_in_child", "tests.hang_in_thread", "tests.hang_in_batch"])
@pytest.mark.parametrize("how", HANGS)
def test_however_a_handler_hangs_its_attempt_times_out_and_the_next_one_runs(
    how: str, kind: str, stack: Stack
) -> None:
    if (how, kind) == ("own_row", "tests.hang_in_batch"):
        pytest.skip("A batch holds its rows locked anyway.")

    ended = stack.end_of(stack.submit(kind, {"how": how, "times": 1}), 60)

    assert (ended["status"], ended["result"], outcomes(ended)) == ("COMPLETED", {"attempt": 2}, ["TIMED_OUT"])


SLEEPING = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(100000)' AND state = 'active'"


@pytest.mark.long
@pytest.mark.parametrize("kind", LEASED)
def test_a_statement_whose_process_was_ended_ends_too(kind: str, stack: Stack) -> None:
    job_id = stack.submit(kind, {"how": "query"}, max_attempts=1)
    until(lambda: stack.query(SLEEPING), 30)

    assert outcomes(stack.end_of(job_id, 30)) == ["TIMED_OUT"]

    until(lambda: not stack.query(SLEEPING), 10)


def test_an_attempt_that_was_killed_shows_where_its_handler_was(stack: Stack) -> None:
    jobs = [
        stack.submit(kind, {"how": "lock"}, max_attempts=1) for kind in ("tests.hang_in_child", "tests.hang_in_thread")
    ]
    for job_id in jobs:
        assert outcomes(stack.end_of(job_id, 60)) == ["TIMED_OUT"]

        [(error, traceback)] = stack.query(
            "SELECT error, traceback FROM orchestrator_attempt WHERE job_id = %s", job_id
        )
        assert "took longer than 0:00:02" in error
        assert traceback.splitlines()[-1].strip() == "lock.acquire()"


def test_neighbours_of_a_hanging_thread_lose_no_attempt(stack: Stack) -> None:
    neighbours = [
        stack.submit("tests.wait_and_write", {"seconds": seconds}, max_attempts=1) for seconds in (5, 6, 7, 8)
    ]
    for job_id in neighbours:
        stack.running(job_id)

    hanging = stack.submit("tests.hang_in_thread", {}, max_attempts=1)

    assert outcomes(stack.end_of(hanging, 60)) == ["TIMED_OUT"]
    for job_id in neighbours:
        ended = stack.end_of(job_id, 60)
        assert ended["status"] == "COMPLETED"
        assert set(outcomes(ended)) <= {"INTERRUPTED"}
        assert len(stack.effects_of(job_id)) == 1


@pytest.mark.parametrize("how", ["gil_in_c", pytest.param("gil_in_regex", marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", LEASED)
def test_a_process_whose_gil_is_held_is_replaced_and_neighbours_lose_no_attempt(
    how: str, kind: str, stack: Stack
) -> None:
    before = stack.query("SELECT count(*) FROM orchestrator_worker WHERE ended_at IS NULL")
    neighbour = stack.submit("tests.wait_and_write", {"seconds": 3}, max_attempts=1)
    stack.running(neighbour)

    job_id = stack.submit(kind, {"how": how, "times": 1})

    ended = stack.end_of(job_id, 60)
    assert (ended["status"], outcomes(ended)) == ("COMPLETED", ["TIMED_OUT"])
    beside = stack.end_of(neighbour, 60)
    assert (beside["status"], set(outcomes(beside)) <= {"INTERRUPTED"}) == ("COMPLETED", True)
    until(lambda: "hanging.py" in attempts_of(stack, job_id)[0][1], 30)
    until(lambda: stack.query("SELECT count(*) FROM orchestrator_worker WHERE ended_at IS NULL") >= before, 30)


def attempts_of(stack: Stack, job_id: str) -> list[tuple[str, str]]:
    """(error, traceback) of each of its attempts that were ended."""
    return stack.query("SELECT error, traceback FROM orchestrator_attempt WHERE job_id = %s ORDER BY id", job_id)


@pytest.mark.long
def test_a_hundred_jobs_that_hang_leave_the_others_of_their_queue_running(stack: Stack) -> None:
    long = stack.submit("tests.wait_and_write", {"seconds": 20}, max_attempts=1)
    stack.running(long)
    hanging = [stack.submit("tests.hang_in_thread", {}) for _ in range(100)]

    for _ in range(10):
        ended = stack.end_of(stack.submit("tests.wait_and_write", {"seconds": 0.1}, max_attempts=1), 60)
        assert (ended["status"], set(outcomes(ended)) <= {"INTERRUPTED"}) == ("COMPLETED", True)

    for job_id in hanging:
        ended = stack.end_of(job_id, 300)
        assert (ended["status"], set(outcomes(ended)) <= {"TIMED_OUT", "INTERRUPTED"}) == ("FAILED", True)
    beside = stack.end_of(long, 120)
    assert (beside["status"], set(outcomes(beside)) <= {"INTERRUPTED"}) == ("COMPLETED", True)


def test_two_jobs_that_hang_hold_up_another_kind_of_their_queue_for_no_longer_than_their_time(stack: Stack) -> None:
    hanging = [stack.submit("tests.hang_in_child", {"how": how}, max_attempts=1) for how in ("sleep", "swallow")]
    for job_id in hanging:
        stack.running(job_id)

    job_id = stack.submit("tests.write")

    assert stack.end_of(job_id, 30)["status"] == "COMPLETED"
    assert [outcomes(stack.end_of(job_id, 30)) for job_id in hanging] == [["TIMED_OUT"], ["TIMED_OUT"]]


@pytest.mark.long
def test_children_that_are_ended_while_there_is_no_broker_are_replaced_with_their_worker(stack: Stack) -> None:
    with stack.stopped(stack.process("valkey-server")):
        hanging = [stack.submit("tests.hang_in_child", {}, max_attempts=1) for _ in range(2)]
        for job_id in hanging:
            assert outcomes(stack.end_of(job_id, 60)) == ["TIMED_OUT"]

        assert stack.end_of(stack.submit("tests.wait_in_child", {"seconds": 0}), 120)["status"] == "COMPLETED"


def test_an_async_handler_that_goes_on_is_ended_with_its_process_and_no_other_is_charged(stack: Stack) -> None:
    waiting = stack.submit("tests.wait_async", {"seconds": 7})
    stack.running(waiting)

    stubborn = stack.end_of(stack.submit("tests.swallow_async"), 60)

    assert [attempt["outcome"] for attempt in stubborn["attempts"]] == ["TIMED_OUT"]
    ended = stack.end_of(waiting, 60)
    assert (ended["status"], [attempt["outcome"] for attempt in ended["attempts"]]) == ("COMPLETED", ["INTERRUPTED"])


def test_who_blocks_the_event_loop_is_to_blame_for_what_cannot_end(stack: Stack) -> None:
    other = stack.submit("tests.swallow_async")
    stack.running(other)

    blocking = stack.submit("tests.block_loop", {"seconds": 600}, max_attempts=1)

    ended = stack.end_of(blocking, 90)
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["TIMED_OUT"]
    [[traceback]] = stack.query("SELECT traceback FROM orchestrator_attempt WHERE job_id = %s", blocking)
    assert "blocked the event loop" in ended["error"]
    assert "time.sleep(payload.seconds)" in traceback
    assert stack.end_of(other, 60)["status"] == "FAILED"
