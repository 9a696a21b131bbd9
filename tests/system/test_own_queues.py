"""A queue of one's own: declared in QUEUES, served by a worker of its own, whose children are replaced."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests import servers
from tests.system.stack import Stack, until

MAX_TASKS = 3
# A child takes about 100,000 kB, most of which it shares.
MAX_KILOBYTES = 220_000
TOO_MANY_MEGABYTES = 200

GPU = f"gpu:prefork:1:max_tasks_per_child={MAX_TASKS}:max_memory_per_child={MAX_KILOBYTES}"
WORKERS = "SELECT pid, ended_at IS NOT NULL, lost FROM orchestrator_worker WHERE name LIKE 'gpu@%%' ORDER BY id"

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def running_stack() -> Iterator[Stack]:
    folder = servers.new_folder("stack") / "data"
    apps = "tests.kinds,tests.own_queue"
    with Stack(folder, QUEUES=f"default:prefork:1,io:threads:4,{GPU}", EXTRA_APPS=apps) as stack:
        yield stack


def ended(stack: Stack, ids: list[str]) -> list[dict[str, Any]]:
    return [stack.end_of(id) for id in ids]


def require_done_once(stack: Stack, jobs: list[dict[str, Any]]) -> None:
    assert {job["status"] for job in jobs} == {"COMPLETED"}, jobs
    assert {len(stack.effects_of(job["job_id"])) for job in jobs} == {1}


def test_up_starts_a_worker_for_it_that_readiness_knows(stack: Stack) -> None:
    queues = stack.get("/api/health/ready/").json()["checks"]["workers"]["queues"]

    job = stack.end_of(stack.submit("own_queue.work"))

    assert queues == {"default": 1, "io": 1, "gpu": 1, "control": 1}
    assert job["status"] == "COMPLETED"
    assert job["worker"].startswith("gpu@")


def test_a_child_is_replaced_after_so_many_jobs_loses_nothing_and_closes_its_row(stack: Stack) -> None:
    jobs = ended(stack, [stack.submit("own_queue.work") for _ in range(4 * MAX_TASKS)])

    require_done_once(stack, jobs)
    assert {job["attempt"] for job in jobs} == {1}
    assert max(Counter(job["result"]["pid"] for job in jobs).values()) <= MAX_TASKS
    # The last one may be about to end.
    until(lambda: all(has_ended for _, has_ended, _ in stack.query(WORKERS)[:-1]), 20)
    assert not any(lost for _, _, lost in stack.query(WORKERS))


def test_a_batch_counts_as_many_jobs_as_it_has(stack: Stack) -> None:
    jobs = ended(stack, [stack.submit("own_queue.work_in_batch") for _ in range(4 * MAX_TASKS)])

    require_done_once(stack, jobs)
    assert max(Counter(job["result"]["pid"] for job in jobs).values()) <= MAX_TASKS + 1


def test_a_child_that_has_taken_too_much_memory_is_replaced(stack: Stack) -> None:
    large = stack.end_of(stack.submit("own_queue.work", {"megabytes": TOO_MANY_MEGABYTES}))
    small = stack.end_of(stack.submit("own_queue.work"))

    require_done_once(stack, [large, small])
    assert small["result"]["pid"] != large["result"]["pid"]


def test_a_child_that_alone_is_told_to_end_is_replaced(stack: Stack) -> None:
    told = stack.end_of(stack.submit("own_queue.work"))["result"]["pid"]

    os.kill(told, signal.SIGTERM)
    after = stack.end_of(stack.submit("own_queue.work"))

    require_done_once(stack, [after])
    assert after["result"]["pid"] != told
    until(lambda: not psutil.pid_exists(told), 20)


def test_a_worker_that_is_stopped_while_its_children_are_replaced_loses_nothing(stack: Stack) -> None:
    ids = [stack.submit("own_queue.work", {"seconds": 0.1}) for _ in range(3 * MAX_TASKS)]
    stack.end_of(ids[0])

    stack.process("worker-gpu").terminate()

    require_done_once(stack, ended(stack, ids))


def test_while_the_broker_hangs_a_child_goes_on(stack: Stack) -> None:
    with stack.stopped(stack.process("valkey-server")):
        jobs = ended(stack, [stack.submit("own_queue.work") for _ in range(2 * MAX_TASKS)])

        require_done_once(stack, jobs)
        pids = [job["result"]["pid"] for job in jobs]

    # Without a message of Celery's, too.
    stack.wait_until_ready()
    job = stack.end_of(stack.submit("own_queue.work"))
    require_done_once(stack, [job])
    assert max(Counter(pids).values()) > MAX_TASKS
