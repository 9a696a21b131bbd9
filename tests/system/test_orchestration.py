"""The two-batch orchestration on real servers and workers, left alone and while parts of it are killed."""

from typing import Any

import pytest

from tests.system.stack import Stack


def start(stack: Stack, username: str = "ada") -> str:
    answer = stack.post(f"/orchestrate/{username}")
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def children(stack: Stack, job_id: str) -> dict[str, dict[str, Any]]:
    rows = stack.query(
        "SELECT name, status, result, attempt, started_at, finished_at FROM orchestrator_job WHERE parent_id = %s",
        job_id,
    )
    names = ("name", "status", "result", "attempt", "started_at", "finished_at")
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


def assert_sums_are_right(stack: Stack, job_id: str) -> None:
    steps = children(stack, job_id)
    first = [steps[f"first_draw_{n}"]["result"]["number"] for n in range(1, 6)]
    second = [steps[f"second_draw_{n}"]["result"]["number"] for n in range(1, 6)]
    offset = sum(first) // 5
    assert all(100 <= number <= 999 for number in first)
    assert all(100 <= number - offset <= 999 for number in second)
    assert stack.job(job_id)["result"] == {
        "first_batch": {"aggregated_sum": sum(first)},
        "second_batch": {"aggregated_sum": sum(second)},
    }


def test_an_orchestration_runs_to_its_end(stack: Stack) -> None:
    job_id = start(stack)

    ended = stack.end_of(job_id)

    assert ended["status"] == "COMPLETED"
    assert stack.get(f"/status/ada/{job_id}").json()["result"] == ended["result"]
    assert_sums_are_right(stack, job_id)


def test_five_draws_run_at_the_same_time(stack: Stack) -> None:
    job_id = start(stack)

    stack.end_of(job_id)

    steps = children(stack, job_id)
    for batch in ("first", "second"):
        draws = [steps[f"{batch}_draw_{n}"] for n in range(1, 6)]
        assert max(draw["started_at"] for draw in draws) < min(draw["finished_at"] for draw in draws)


@pytest.mark.parametrize(
    "name", ["worker-io", "control", "beat", "web", "worker-default", "valkey-server", "postgres"]
)
def test_an_orchestration_outlives_kill_9_of_any_process(stack: Stack, name: str) -> None:
    job_id = start(stack)
    stack.running(job_id)

    stack.process(name).kill()

    assert stack.end_of(job_id, timeout_seconds=30)["status"] == "COMPLETED"
    assert_sums_are_right(stack, job_id)
