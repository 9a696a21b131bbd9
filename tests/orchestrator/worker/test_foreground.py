"""A job that is run in the process that submits it: by nobody else, and under the fences of any other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection

from orchestrator.async_running import AsyncRunningJob
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job, Worker
from orchestrator.queue import bell
from orchestrator.queue.pausing import pause_kind
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import RunningJob
from orchestrator.worker.foreground import ForegroundJob, NotStarted
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, MakeWorker, again, run, threads, write, written
from tests.system.stack import until

CtrlC = Callable[[ForegroundJob], Callable[[], None]]
either_way = pytest.mark.parametrize("execution", ["leased", "transactional"])


def foreground(
    kind: Kind, process: WorkerProcess, when_told: Callable[[str], object] = lambda line: None
) -> ForegroundJob:
    """when_told: called with each line; the first is told when the job is submitted, before its handler runs."""
    return ForegroundJob(kind, process, when_told)


@either_way
def test_the_job_is_run_and_kept_like_any_other(execution: str, kind: DeclareKind, live_worker: WorkerProcess) -> None:
    def handler(running: RunningJob, payload: dict[str, Any]) -> int:
        write("kept")
        return int(payload["n"]) * 2

    job = foreground(kind(handler, execution=execution), live_worker).run({"n": 4}, owner="ada")

    assert (job.status, job.result, job.owner, job.attempt) == ("COMPLETED", 8, "ada", 1)
    assert (job.worker_name, job.worker_id) == ("live@here", None)
    assert written() == {"kept"}


@either_way
def test_no_other_worker_gets_the_job(
    execution: str,
    kind: DeclareKind,
    live_worker: WorkerProcess,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other, ours = make_worker("other@here"), kind(execution=execution)
    ran_by_other: list[int] = []
    # A bell is rung as soon as the submission has committed.
    monkeypatch.setattr(bell, "ring", lambda name: ran_by_other.append(run(ours, other)))

    job = foreground(ours, live_worker).run()

    assert ran_by_other == [0]
    assert (job.status, job.worker_name) == ("COMPLETED", "live@here")


@either_way
def test_a_failure_is_final_and_keeps_its_traceback(
    execution: str, kind: DeclareKind, live_worker: WorkerProcess
) -> None:
    def failing(running: RunningJob) -> None:
        write("not kept")
        raise ValueError("no such luck")

    job = foreground(kind(failing, execution=execution, max_attempts=5), live_worker).run()

    assert (job.status, job.error) == ("FAILED", "ValueError: no such luck")
    assert "in failing" in Attempt.objects.get(job=job).traceback
    assert written() == set()


def test_a_kind_that_takes_batches_gets_a_batch_of_one(kind: DeclareKind, live_worker: WorkerProcess) -> None:
    counting = kind(lambda jobs: [len(jobs)], execution="transactional", takes_batch=True)

    assert foreground(counting, live_worker).run().result == 1


def test_a_job_that_is_watched_has_no_timeout(kind: DeclareKind, live_worker: WorkerProcess) -> None:
    def slow(running: RunningJob) -> None:
        time.sleep(0.3)  # Several beats, and many times its timeout.
        running.check()

    assert foreground(kind(slow, timeout_seconds=0.01), live_worker).run().status == "COMPLETED"


def test_a_transactional_job_may_be_idle_for_as_long_as_somebody_looks_at_it(
    kind: DeclareKind, live_worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            return str(cursor.fetchone()[0])

    assert foreground(kind(handler, execution="transactional"), live_worker).run().result == "0"


def test_a_transactional_job_is_noted_before_any_other_process_can_see_it(
    kind: DeclareKind, live_worker: WorkerProcess
) -> None:
    noted: list[dict[str, int]] = []

    def note(line: str) -> None:
        noted.append(Worker.objects.get(id=live_worker.row_id).in_flight_batch)

    job = foreground(kind(execution="transactional"), live_worker, note).run()

    assert noted == [{str(job.id): 0}]


def test_a_paused_kind_and_a_pipeline_are_refused_and_nothing_is_submitted(
    kind: DeclareKind, live_worker: WorkerProcess
) -> None:
    paused, pipeline = kind(), kind(plan=lambda payload: [])
    live_worker.lease.register()
    pause_kind(paused.name)

    with pytest.raises(NotStarted, match="is paused"):
        foreground(paused, live_worker).run()
    with pytest.raises(NotStarted, match="are pipelines, whose children run in workers"):
        foreground(pipeline, live_worker).run()

    assert not Job.objects.exists()


def test_the_first_interrupt_cancels_the_job_at_its_next_checkpoint(
    kind: DeclareKind, live_worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> None:
        write("not kept")
        ours.on_interrupt()
        running.sleep(60)

    ours = foreground(kind(handler), live_worker)

    assert ours.run().status == "CANCELLED"
    assert written() == set()


def test_the_second_interrupt_ends_a_handler_that_reaches_no_checkpoint(
    kind: DeclareKind, live_worker: WorkerProcess
) -> None:
    reached: list[str] = []

    def handler(running: RunningJob) -> None:
        ours.on_interrupt()
        until(lambda: running.stop_reason)
        ours.on_interrupt()
        reached.append("the end")

    ours = foreground(kind(handler), live_worker)

    assert ours.run().status == "CANCELLED"
    assert reached == []


def test_an_interrupt_ends_a_transactional_job_at_once(kind: DeclareKind, live_worker: WorkerProcess) -> None:
    ours: ForegroundJob = foreground(kind(lambda running: ours.on_interrupt(), execution="transactional"), live_worker)

    job = ours.run()

    assert (job.status, job.error.partition(":")[0]) == ("FAILED", "KeyboardInterrupt")


@pytest.fixture
def ctrl_c() -> Iterator[CtrlC]:
    """Has SIGINT reach the job, as it does in a terminal; gives what sends it."""
    before = signal.getsignal(signal.SIGINT)

    def reaching(job: ForegroundJob) -> Callable[[], None]:
        signal.signal(signal.SIGINT, job.on_interrupt)
        return lambda: os.kill(os.getpid(), signal.SIGINT)

    yield reaching
    signal.signal(signal.SIGINT, before)


def test_an_async_job_runs_and_is_cancelled_where_it_awaits(
    kind: DeclareKind, live_worker: WorkerProcess, ctrl_c: CtrlC
) -> None:
    async def handler(running: AsyncRunningJob, payload: dict[str, Any]) -> str:
        if payload:
            interrupt()
            await running.sleep(60)
        return running.kind.name

    both = kind(handler, queue="io")
    cancelled = foreground(both, live_worker)
    interrupt = ctrl_c(cancelled)

    assert foreground(both, live_worker).run({}).result == both.name
    assert cancelled.run({"wait": True}).status == "CANCELLED"


def test_the_second_interrupt_leaves_an_async_handler_that_blocks(
    kind: DeclareKind, live_worker: WorkerProcess, ctrl_c: CtrlC
) -> None:
    left = threading.Event()

    async def handler(running: AsyncRunningJob) -> None:
        interrupt()
        until(lambda: running.stop_reason)
        interrupt()
        left.wait(PATIENCE_SECONDS)

    ours = foreground(kind(handler, queue="io"), live_worker)
    interrupt = ctrl_c(ours)

    with pytest.raises(KeyboardInterrupt):
        ours.run()
    left.set()


def test_an_interrupt_before_the_job_exists_is_one_of_the_program(
    kind: DeclareKind, live_worker: WorkerProcess
) -> None:
    with pytest.raises(KeyboardInterrupt):
        foreground(kind(), live_worker).on_interrupt()


def test_a_job_whose_process_dies_has_failed(kind: DeclareKind, live_worker: WorkerProcess) -> None:

    def dies(running: RunningJob) -> None:
        with threads(1) as call:
            call(declare_dead, live_worker.row_id).result()
            call(take_back_from_ended).result()

    job = foreground(kind(dies), live_worker).run()

    assert (again(job).status, job.error) == ("FAILED", "Its worker died while it ran.")
