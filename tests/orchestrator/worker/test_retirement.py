"""When a process is replaced, and what becomes of the jobs that wait."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from orchestrator.models import Job
from orchestrator.submission import submit_many
from orchestrator.worker import retirement, runner
from orchestrator.worker.process import WorkerProcess
from orchestrator.worker.retirement import Retirement
from tests.orchestrator.workbench import DeclareKind


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much memory the process has taken, in kB: the last of the list."""
    kilobytes = [100]
    monkeypatch.setattr(retirement, "mem_rss", lambda: kilobytes[-1])
    return kilobytes


def test_without_limits_a_process_is_never_replaced() -> None:
    unlimited = Retirement()

    unlimited.count(1_000_000)

    assert not unlimited.is_due
    assert unlimited.bounded(64) == 64


def test_a_process_is_replaced_after_so_many_jobs() -> None:
    limited = Retirement(max_jobs=3)

    limited.count(2)
    assert (limited.is_due, limited.bounded(64)) == (False, 1)

    limited.count(2)
    assert limited.is_due


def test_a_group_of_jobs_ends_where_the_process_does() -> None:
    limited = Retirement(max_jobs=10, can_be_replaced=lambda: False)
    assert (limited.bounded(64), limited.bounded(4)) == (10, 4)

    limited.count(7)
    assert limited.bounded(64) == 3

    limited.count(10)  # It cannot be replaced just now, and goes on.
    assert limited.bounded(64) == 1


def test_a_process_is_replaced_once_it_has_taken_more_memory_than_it_may(used: list[int]) -> None:
    limited = Retirement(max_memory=200)

    limited.count(1)
    assert not limited.is_due

    used.append(201)
    limited.count(1)
    assert limited.is_due


@pytest.fixture
def few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("left", [5, 0])
def test_a_process_is_replaced_whose_jobs_leave_files_open(few_files: None, left: int) -> None:
    process, opened = Retirement(watches_files=True, can_be_replaced=lambda: False), []
    process.count(1)
    before = process.is_due

    with suppress(OSError):
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    for _ in range(left):
        os.close(opened.pop())
    process.count(1)
    for each in opened:
        os.close(each)

    assert (before, process.is_due) == (False, True)


def test_a_process_that_cannot_be_replaced_goes_on_and_asks_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def can_be_replaced() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 1

    limited = Retirement(max_jobs=1, can_be_replaced=can_be_replaced)

    limited.count(1)
    limited.count(1)
    assert (limited.is_due, len(asked)) == (False, 1)

    later = time.monotonic() + retirement.ASK_AGAIN_SECONDS
    monkeypatch.setattr("orchestrator.worker.retirement.time.monotonic", lambda: later)
    limited.count(1)
    assert (limited.is_due, len(asked)) == (True, 2)


# A group of leased jobs ends in time; a batch runs to its end.
@pytest.mark.parametrize(("execution", "max_jobs", "completed"), [("leased", 2, 2), ("transactional", 3, 4)])
def test_a_process_that_is_to_be_replaced_claims_nothing_more_and_rings_for_the_rest(
    kind: DeclareKind, worker: WorkerProcess, rung: list[str], execution: str, max_jobs: int, completed: int
) -> None:
    waiting = kind(execution=execution, batch_size=2 if execution == "transactional" else None)
    submit_many(waiting, [{}] * 5)
    worker.retirement = Retirement(max_jobs=max_jobs)
    rung.clear()

    runner.run_ready(waiting, worker)

    assert Job.objects.filter(status="COMPLETED").count() == completed
    assert rung[-1] == waiting.name
    assert not worker.claims(waiting)


def test_a_bell_that_comes_too_late_for_a_process_is_rung_again(
    kind: DeclareKind, worker: WorkerProcess, rung: list[str]
) -> None:
    waiting = kind()
    submit_many(waiting, [{}])
    worker.retirement = Retirement(max_jobs=1)
    worker.retirement.count(1)
    rung.clear()

    runner.run_ready(waiting, worker)

    assert not Job.objects.filter(status="COMPLETED").exists()
    assert rung == [waiting.name]
