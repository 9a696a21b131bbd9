"""Jobs that add children, on real servers and workers, while the worker is killed."""

from __future__ import annotations

import pytest

from tests.system.stack import Stack

HOW = ["in_thread", "in_child", "on_loop"]


@pytest.mark.parametrize("how", HOW)
def test_kill_9_between_spawn_and_the_end_of_the_attempt_leaves_each_child_once(how: str, stack: Stack) -> None:
    job_id = stack.submit(f"tests.spread_{how}", {"numbers": [1, 2, 3], "seconds": 1.5})
    stack.running(job_id)

    stack.worker_of(job_id).kill()

    ended = stack.end_of(job_id, timeout_seconds=60)
    assert (ended["status"], ended["result"]) == ("COMPLETED", {"sum": 6})
    assert [number for _, number in stack.effects_of(job_id)] == [6]
    children = stack.query("SELECT name, status FROM orchestrator_job WHERE parent_id = %s ORDER BY id", job_id)
    assert children == [(f"child[{place}]", "COMPLETED") for place in range(3)]


def test_no_slot_is_held_while_children_run(stack: Stack) -> None:
    job_id = stack.submit("tests.spread_in_child", {"numbers": [1]})

    assert stack.end_of(job_id)["status"] == "COMPLETED"
    assert stack.query("SELECT attempt, max_attempts FROM orchestrator_job WHERE id = %s", job_id) == [(2, 31)]
