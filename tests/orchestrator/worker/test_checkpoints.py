"""Checkpoints: parts of a job whose results are stored once, with what they wrote."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.async_running import AsyncRunningJob
from orchestrator.attempt import checkpoints
from orchestrator.models import Checkpoint
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import RunningJob
from orchestrator.stops import LeaseLost
from orchestrator.submission import submit
from orchestrator.testing import fake_job
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, run, write, written

# What was done, in order.
Done = list[str]


def until_done(kind: DeclareKind, handler: Any, worker: WorkerProcess, **options: Any) -> Any:
    """Submits a job and runs its attempts; returns the job."""
    declared = kind(handler, max_attempts=3, backoff_seconds=0, **options)
    job = submit(declared)
    while run(declared, worker):
        pass
    return again(job)


@pytest.mark.parametrize("atomic", [True, False])
def test_a_later_attempt_does_not_repeat_what_a_checkpoint_has_done(
    atomic: bool, kind: DeclareKind, worker: WorkerProcess
) -> None:
    done: Done = []

    def charge() -> dict[str, Any]:
        done.append("charged")
        write("charged")
        return {"receipt": (4, 7)}

    def handler(running: RunningJob) -> Any:
        receipt = running.checkpoint("charge", charge)
        if running.attempt < 3:
            raise ValueError("no")
        return receipt

    job = until_done(kind, handler, worker, atomic=atomic)

    assert (job.status, job.result) == ("COMPLETED", {"receipt": [4, 7]})
    assert (done, written()) == (["charged"], {"charged"})


def test_an_async_job_has_checkpoints_likewise(kind: DeclareKind, worker: WorkerProcess) -> None:
    done: Done = []

    async def fetch() -> int:
        done.append("fetched")
        return 7

    async def handler(running: AsyncRunningJob) -> Any:
        fetched = await running.checkpoint("fetch", fetch)
        plain = await running.checkpoint("plain", lambda: 5)
        if running.attempt == 1:
            raise ValueError("no")
        return [fetched, plain]

    job = until_done(kind, handler, worker, queue="io")

    assert (job.status, job.result, done) == ("COMPLETED", [7, 5], ["fetched"])


def test_the_first_attempt_sees_a_result_as_later_ones_do(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> Any:
        assert running.checkpoint("one", lambda: {1: (2, None)}) == {"1": [2, None]}
        return running.checkpoint("none", lambda: None)

    assert until_done(kind, handler, worker).status == "COMPLETED"


def test_what_fails_is_not_kept_and_is_done_again(kind: DeclareKind, worker: WorkerProcess) -> None:
    done: Done = []

    def fail_once() -> str:
        write("half")
        done.append("called")
        if len(done) == 1:
            raise ValueError("no")
        return "yes"

    job = until_done(kind, lambda running: running.checkpoint("flaky", fail_once), worker)

    assert (job.result, done, written()) == ("yes", ["called", "called"], {"half"})


def test_one_who_lost_the_job_keeps_nothing(kind: DeclareKind, worker: WorkerProcess) -> None:
    def lose(running: RunningJob) -> None:
        declare_dead(worker.row_id)
        take_back_from_ended()
        try:
            running.checkpoint("late", lambda: write("late"))
        except LeaseLost:
            return
        raise AssertionError("it was kept")

    losing = kind(lose, atomic=False)
    submit(losing)

    run(losing, worker)

    assert (written(), Checkpoint.objects.count()) == (set(), 0)


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda running: running.checkpoint("", lambda: 1), "needs a name"),
        (lambda running: running.checkpoint("x" * 101, lambda: 1), "needs a name"),
        (lambda running: running.checkpoint("big", lambda: "x" * 2_000_000), "at most"),
        (lambda running: running.checkpoint("odd", lambda: float("nan")), "finite"),
        (lambda running: [running.checkpoint("same", list) for _ in range(2)], "passed already"),
        (lambda running: running.checkpoint("a", lambda: running.checkpoint("b", lambda: 1)), "must not begin within"),
    ],
)
def test_what_cannot_be_kept_fails_plainly(use: Any, error: str, kind: DeclareKind, worker: WorkerProcess) -> None:
    job = until_done(kind, use, worker)

    assert job.status == "FAILED"
    assert error in job.error


def test_a_job_has_only_so_many(kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_CHECKPOINTS", 2)

    job = until_done(kind, lambda running: [running.checkpoint(str(n), list) for n in range(3)], worker)

    assert job.status == "FAILED"
    assert "one too many" in job.error


def test_a_transactional_job_has_none(kind: DeclareKind, worker: WorkerProcess) -> None:
    job = until_done(kind, lambda running: running.checkpoint("a", lambda: 1), worker, execution="transactional")

    assert "no checkpoints" in job.error


def test_a_unit_test_sees_what_was_kept_and_gives_what_was(kind: DeclareKind) -> None:
    def handler(running: RunningJob) -> int:
        return int(running.checkpoint("a", lambda: 1)) + int(running.checkpoint("b", lambda: 2))

    job = fake_job(kind(handler))
    job.kept["a"] = 10

    assert job.run() == 12
    assert job.kept == {"a": 10, "b": 2}
