"""Attempts that ask to run again later: none is charged, and no slot is held meanwhile."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.db.models.functions import Now

from orchestrator import queries, submission
from orchestrator.models import Attempt, Job
from orchestrator.queue import endings
from orchestrator.running import RunningJob, Snooze
from orchestrator.submission import submit, submit_many
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, make_due, run, write, written


def snooze_once(running: RunningJob) -> int:
    if running.attempt == 1:
        write("not kept")
        raise Snooze(3_600)
    return running.attempt


async def snooze_once_async(running: RunningJob) -> int:
    if running.attempt == 1:
        raise Snooze(3_600)
    return running.attempt


@pytest.mark.parametrize("execution", ["leased", "transactional", "not atomic", "async"])
def test_a_job_that_snoozes_runs_again_then_and_is_charged_no_attempt(
    execution: str, kind: DeclareKind, worker: WorkerProcess
) -> None:
    if execution == "async":
        snoozing = kind(snooze_once_async, queue="io", max_attempts=1)
    elif execution == "not atomic":
        snoozing = kind(snooze_once, atomic=False, max_attempts=1)
    else:
        snoozing = kind(snooze_once, execution=execution, max_attempts=1)
    job = submit(snoozing)

    run(snoozing, worker)

    job = again(job)
    assert (job.status, job.ready, job.error, job.worker_id) == ("CREATED", False, "", None)
    assert Job.objects.filter(id=job.id, run_at__gt=Now() + timedelta(minutes=59)).exists()
    assert (written() == set()) is (execution != "not atomic")
    assert not Attempt.objects.exists()
    make_due(job)
    tick.make_due_ready()
    run(snoozing, worker)
    assert (again(job).status, again(job).result) == ("COMPLETED", 2)


def test_of_a_batch_only_the_job_that_snoozes_runs_again(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob, payload: int) -> int:
        if payload == 2:
            raise Snooze(60)
        return payload

    snoozing = kind(handler, execution="transactional", payload=int)
    submit_many(snoozing, [1, 2, 3])

    run(snoozing, worker)

    assert list(Job.objects.order_by("id").values_list("status", "result")) == [
        ("COMPLETED", 1), ("CREATED", None), ("COMPLETED", 3)
    ]  # fmt: skip


def test_a_batch_that_snoozes_as_a_whole_runs_again_as_a_whole(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: list[RunningJob]) -> list[int]:
        raise Snooze(60)

    snoozing = kind(handler, execution="transactional", takes_batch=True, max_attempts=1)
    submit_many(snoozing, [{}, {}])

    run(snoozing, worker)

    assert list(Job.objects.values_list("status", "ready", "attempt")) == [("CREATED", False, 1)] * 2


def test_a_cancellation_prevails_over_a_snooze(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        Job.objects.filter(id=running.id).update(cancel_requested_at=Now())
        raise Snooze(60)

    snoozing = kind(handler, atomic=False)
    job = submit(snoozing)

    run(snoozing, worker)

    assert again(job).status == "CANCELLED"


def test_what_retries_call_is_not_called_for_a_snooze(kind: DeclareKind, worker: WorkerProcess) -> None:
    snoozing = kind(snooze_once, on_retry=lambda job, error: write("retried"))
    submit(snoozing)

    run(snoozing, worker)

    assert written() == set()


def test_one_that_snoozes_is_said_to_wait_for_that(kind: DeclareKind, worker: WorkerProcess) -> None:
    snoozing = kind(snooze_once)
    job = submit(snoozing)
    run(snoozing, worker)

    assert queries.waiting_for(queries.job_detail(AnonymousUser(), job.id)) == "snooze"


def test_a_snoozing_job_can_be_cancelled_at_once(kind: DeclareKind, worker: WorkerProcess) -> None:
    snoozing = kind(snooze_once)
    job = submit(snoozing)
    run(snoozing, worker)

    submission.cancel(job.id)

    assert again(job).status == "CANCELLED"


def test_a_job_that_snoozes_for_ever_fails_at_last(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "MAX_SNOOZED_ATTEMPTS", 1)
    snoozing = kind(snooze_once)
    job = submit(snoozing)

    run(snoozing, worker)

    assert (again(job).status, again(job).error) == ("FAILED", endings.SNOOZED_TOO_OFTEN)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 367 * 86_400])
def test_a_snooze_is_bounded(seconds: float) -> None:
    with pytest.raises(ValueError, match="Snooze takes more than 0"):
        Snooze(seconds)
