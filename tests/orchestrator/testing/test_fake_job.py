"""The running job that unit tests give to handlers. Nothing here may touch the database: no test asks for it."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from orchestrator.async_running import AsyncRunningJob
from orchestrator.ended import EndedJob
from orchestrator.kind_problems import BadPayload
from orchestrator.kinds import Kind
from orchestrator.running import Cancelled, Interrupted, RunningJob, TimedOut
from orchestrator.stops import LeaseLost
from orchestrator.testing import ended_job, fake_job
from tests.orchestrator.workbench import DeclareKind


class Mail(msgspec.Struct):
    to: str
    copies: int = 1


def works(job: RunningJob) -> str:
    """Passes four checkpoints: a progress, a sleep, a step and a check."""
    job.progress(1, 3, "begun")
    job.sleep(180)
    with job.step(2, 3):
        pass
    job.check()
    return job.idempotency_key


def test_the_handler_is_called_with_the_payload_as_its_type(kind: DeclareKind) -> None:
    def mails(job: RunningJob, payload: Mail) -> Any:
        return payload, job.attempt, job.owner, job.inputs

    job = fake_job(kind(mails, payload=Mail), {"to": "ada"}, attempt=2, owner="grace", inputs={"draw": 7})

    assert job.run() == (Mail("ada"), 2, "grace", {"draw": 7})


def test_the_handler_of_a_batch_is_called_with_this_one_job(kind: DeclareKind) -> None:
    def doubles(jobs: list[RunningJob]) -> list[tuple[int, int]]:
        return [(2 * job.payload, job.attempt) for job in jobs]

    doubling = kind(doubles, payload=int, execution="transactional", takes_batch=True)

    assert fake_job(doubling, 21).run() == (42, 1)


def test_a_payload_that_could_not_be_submitted_is_refused(kind: DeclareKind) -> None:
    with pytest.raises(BadPayload, match="/payload/to"):
        fake_job(kind(payload=Mail), {"to": 1})


async def works_async(job: AsyncRunningJob, payload: Mail) -> list[Any]:
    """Passes as many checkpoints as `works`."""
    job.progress(1, 3, "begun")
    await job.sleep(180)
    async with job.step(2, 3):
        pass
    job.check()
    return [payload.to, await job.inputs()]


def test_an_async_handler_runs_to_its_end_without_waiting(kind: DeclareKind) -> None:
    job = fake_job(kind(works_async, payload=Mail, queue="io"), {"to": "ada"}, inputs={"draw": 7})

    assert job.run() == ["ada", {"draw": 7}]
    assert (job.slept, job.seconds, job.checkpoints, job.steps) == ([180], 180, 4, 1)
    assert job.reported == [(1, 3, "begun"), (2, 3, "")]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_async_handler_is_stopped_at_each_checkpoint(kind: DeclareKind, number: int) -> None:
    job = fake_job(kind(works_async, payload=Mail, queue="io"), {"to": "ada"})
    job.stop_at_checkpoint(number, Interrupted)

    with pytest.raises(Interrupted):
        job.run()

    assert job.checkpoints == number


def test_a_long_sleep_takes_no_time_and_moves_the_clock(kind: DeclareKind) -> None:
    job = fake_job(kind(works))

    assert job.run() == job.id
    assert (job.slept, job.seconds, job.checkpoints) == ([180], 180, 4)


def test_progress_and_steps_are_kept_in_order(kind: DeclareKind) -> None:
    job = fake_job(kind(works))

    job.run()

    assert job.reported == [(1, 3, "begun"), (2, 3, "")]
    assert (job.steps, job.done) == (1, 2)


def test_progress_that_could_not_be_kept_is_refused(kind: DeclareKind) -> None:
    job = fake_job(kind())

    with pytest.raises(ValueError, match="0 to 2"):
        job.progress(-1)
    with pytest.raises(ValueError, match="sleep\\(\\) takes at most"):
        job.sleep(float("nan"))


def test_a_job_that_is_tried_again_goes_on_after_the_step_before(kind: DeclareKind) -> None:
    assert fake_job(kind(lambda job: job.done), attempt=2, done=20).run() == 20


@pytest.mark.parametrize(("number", "reported"), [(1, 1), (2, 1), (3, 1), (4, 2)])
def test_any_checkpoint_can_be_where_the_job_is_cancelled(kind: DeclareKind, number: int, reported: int) -> None:
    job = fake_job(kind(works))
    job.stop_at_checkpoint(number)

    with pytest.raises(Cancelled):
        job.run()

    assert (job.checkpoints, len(job.reported)) == (number, reported)


def test_the_next_checkpoint_raises_what_the_test_wants(kind: DeclareKind) -> None:
    jobs = [fake_job(kind(works)) for _ in range(4)]
    jobs[0].cancel()
    jobs[1].time_out()
    jobs[2].interrupt()
    jobs[3].stop_at_checkpoint(1, LeaseLost)

    for job, reason in zip(jobs, (Cancelled, TimedOut, Interrupted, LeaseLost), strict=True):
        with pytest.raises(reason):
            job.run()


def test_a_sleep_past_the_kinds_timeout_times_out(kind: DeclareKind) -> None:
    with pytest.raises(TimedOut):
        fake_job(kind(works, timeout_seconds=179)).run()
    assert fake_job(kind(works, timeout_seconds=180)).run()
    assert fake_job(kind(works, timeout_seconds=None)).run()


def test_the_clock_can_be_set_forward_past_the_timeout(kind: DeclareKind) -> None:
    job = fake_job(kind(timeout_seconds=60))

    job.advance(61)

    with pytest.raises(TimedOut):
        job.check()


def test_a_transactional_job_has_no_steps_here_either(kind: DeclareKind) -> None:
    job = fake_job(kind(execution="transactional"))

    with pytest.raises(RuntimeError, match="no steps"), job.step(1):
        pass


def test_what_the_handler_logs_is_kept_and_reaches_other_handlers(
    kind: DeclareKind, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    job = fake_job(kind(lambda job: job.log.info("Sent %d mails", 3)), attempt=2)

    job.run()

    assert job.messages == ["Sent 3 mails"]
    assert [(record.job_id, record.attempt) for record in job.records] == [(job.id, 2)]
    assert "Sent 3 mails" in caplog.messages


def test_the_fake_is_a_running_job(kind: DeclareKind) -> None:
    """So a function that is annotated with the latter takes it."""
    declared: Kind[Any, Any, Any] = kind(works)

    assert isinstance(fake_job(declared.name), RunningJob)


def test_what_is_declared_for_failures_is_called_with_an_ended_job(kind: DeclareKind) -> None:
    def apologize(job: EndedJob[Mail], error: str) -> str:
        return f"{job.payload.to}: {job.status} {job.outcome} {job.attempt} of {job.max_attempts}, {error}"

    failing = kind(payload=Mail, on_failure=apologize)

    assert apologize(ended_job(failing, Mail("ada"), attempt=3), "no") == "ada: FAILED RAISED 3 of 3, no"
    with pytest.raises(BadPayload, match="/payload/to"):
        ended_job(failing, {"to": 1})
