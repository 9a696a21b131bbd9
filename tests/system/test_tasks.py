"""Tasks and schedules on real servers, workers and Beat."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.system.stack import Stack, until

SAMPLE = Path(__file__).parents[2] / "create_tasks_in_batch_example.json"


def create_schedule(stack: Stack, **fields: Any) -> str:
    answer = stack.post("/task-schedules/", {"operation": "1.5+2", **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def tasks_of(stack: Stack, schedule_id: str) -> list[dict[str, Any]]:
    return list(stack.get(f"/tasks/?schedule={schedule_id}").json()["results"])


def done(stack: Stack, schedule_id: str, count: int) -> list[dict[str, Any]]:
    """The schedule's tasks, newest first, once so many have succeeded."""
    tasks = tasks_of(stack, schedule_id)
    return tasks if [task["status"] for task in tasks].count("SUCCESS") >= count else []


def test_two_numbers_are_added(stack: Stack) -> None:
    task = stack.post("/tasks/", {"a": 0.1, "b": "0.2"}).json()

    ended = until(lambda: (now := stack.get(f"/tasks/{task['id']}/").json())["status"] == "SUCCESS" and now, 20)

    assert ended["result"] == ended["results"][0]["result"] == 0.3
    assert ended["celery_task_id"] == ended["job"].rpartition("/")[2]


def test_of_the_sample_the_urgent_ones_finish_first_although_they_were_submitted_last(stack: Stack) -> None:
    with stack.stopped(stack.process("worker-default")):
        answer = stack.post(
            "/tasks/batch-request/", data=SAMPLE.read_bytes(), headers={"Content-Type": "application/json"}
        )
        ids = [task["id"] for task in answer.json()["tasks"]]

    until(
        lambda: not stack.query("SELECT FROM orchestrator_job WHERE kind = 'scheduler.add' AND finished_at IS NULL"),
        20,
    )

    rows = stack.query(
        "SELECT task.priority FROM scheduler_task task JOIN orchestrator_job job ON job.id = task.job_id"
        " WHERE task.id = ANY(%s::uuid[]) ORDER BY job.finished_at",
        ids,
    )
    assert [priority for [priority] in rows] == [1] * 14 + [9] * 38


def test_a_schedule_fires_through_beat_as_often_as_it_should(stack: Stack) -> None:
    schedule_id = create_schedule(stack, interval=1, schedule_x_times=3)

    tasks = until(lambda: done(stack, schedule_id, 3), 30)

    assert [task["result"] for task in tasks] == [3.5] * 3
    assert stack.get(f"/task-schedules/{schedule_id}/").json()["next_run_at"] is None


@pytest.mark.parametrize("name", ["beat", "control"])
def test_occurrences_missed_without_ticks_are_made_up_for_once(stack: Stack, name: str) -> None:
    schedule_id = create_schedule(stack, interval=1, schedule_x_times=5, misfire_policy="all")
    until(lambda: done(stack, schedule_id, 1), 20)

    stack.process(name).kill()

    tasks = until(lambda: done(stack, schedule_id, 5), 60)
    times = sorted(datetime.fromisoformat(task["scheduled_for"]) for task in tasks)
    assert len(tasks) == 5
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(seconds=1)}


def test_two_beats_and_two_controls_fire_nothing_twice(stack: Stack) -> None:
    with stack.doubled("beat", "control"):
        schedules = [create_schedule(stack, interval=1, schedule_x_times=5, misfire_policy="all") for _ in range(10)]
        fired = [until(partial(done, stack, id, 5), 40) for id in schedules]

    for tasks in fired:
        assert len({task["scheduled_for"] for task in tasks}) == len(tasks) == 5
