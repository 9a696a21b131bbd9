"""Kinds with atomic=False: their handlers commit as they like, and the completion is a transaction of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import close_old_connections, connection, transaction

from orchestrator import submission
from orchestrator.models import Job
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import LONG_SLEEP_SECONDS, RunningJob
from orchestrator.submission import submit, submit_many
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.attempt.test_sessions import session
from tests.orchestrator.workbench import DeclareKind, again, end_own_connection, run, threads, write, written


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    with threads(1) as call:
        return call(function, *args).result()


def test_each_statement_is_committed_at_once_and_kept_when_the_job_fails(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    seen: list[set[str]] = []

    def handler(running: RunningJob) -> None:
        write("kept")
        seen.append(in_thread(written))
        with transaction.atomic():
            write("not kept")
            raise ValueError("no")

    failing = kind(handler, atomic=False, max_attempts=1)
    job = submit(failing)

    run(failing, worker)

    assert (again(job).status, again(job).error) == ("FAILED", "ValueError: no")
    assert (seen, written()) == ([{"kept"}], {"kept"})


def test_it_completes_with_its_result_and_hooks_run_at_its_own_commits(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    ran: list[str] = []

    def handler(running: RunningJob) -> list[str]:
        with transaction.atomic():
            write("row")
            transaction.on_commit(lambda: ran.append("hook"))
        return list(ran)

    committing = kind(handler, atomic=False)
    job = submit(committing)

    run(committing, worker)

    assert (again(job).status, again(job).result) == ("COMPLETED", ["hook"])


def test_steps_are_transactions_that_keep_their_progress(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        for number in range(running.done, 2):
            with running.step(number + 1, 2):
                write(f"step {number}, attempt {running.attempt}")
                if number == 1 and running.attempt == 1:
                    raise ValueError("crash")

    stepping = kind(handler, atomic=False, backoff_seconds=0)
    job = submit(stepping)

    run(stepping, worker), run(stepping, worker)

    assert (again(job).status, again(job).progress_done) == ("COMPLETED", 2)
    assert written() == {"step 0, attempt 1", "step 1, attempt 2"}


def test_a_step_is_refused_once_the_lease_is_lost(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        with running.step(1):
            write("too late")
            in_thread(declare_dead, worker.row_id)
            in_thread(take_back_from_ended)

    stepping = kind(handler, atomic=False)
    job = submit(stepping)

    run(stepping, worker)

    assert (written(), again(job).status) == (set(), "CREATED")


def test_a_step_inside_a_transaction_of_the_handlers_own_is_refused(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        with transaction.atomic(), running.step(1):
            write("not kept")

    stepping = kind(handler, atomic=False, max_attempts=1)
    job = submit(stepping)

    run(stepping, worker)

    assert again(job).error.startswith("RuntimeError: A step must not be inside a transaction")
    assert written() == set()


def leave_atomic_open() -> None:
    transaction.atomic().__enter__()
    write("not kept")


def leave_raw_transaction() -> None:
    connection.set_autocommit(False)
    write("not kept")


@pytest.mark.parametrize("leave_open", [leave_atomic_open, leave_raw_transaction])
def test_a_transaction_that_is_left_open_fails_the_job_and_is_rolled_back(
    leave_open: Callable[[], None], kind: DeclareKind, worker: WorkerProcess
) -> None:
    leaving = kind(lambda running: leave_open(), atomic=False, max_attempts=1)
    job = submit(leaving)

    run(leaving, worker)

    assert again(job).status == "FAILED"
    assert again(job).error.startswith("TransactionLeftOpen: The handler left a transaction open.")
    assert written() == set()
    assert not connection.in_atomic_block


@pytest.mark.parametrize(
    "close", [lambda: connection.close(), close_old_connections, lambda: connection.connection.close()]
)
def test_it_may_close_its_connection(close: Callable[[], None], kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        write("kept")
        close()

    closing = kind(handler, atomic=False)
    job = submit(closing)

    run(closing, worker)

    assert (again(job).status, written()) == ("COMPLETED", {"kept"})


def test_what_it_sets_on_its_session_ends_with_it(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '5s'")

    clean = session()
    setting = kind(handler, atomic=False)
    job = submit(setting)

    run(setting, worker)

    assert again(job).status == "COMPLETED"
    assert session() == clean


def test_jobs_that_send_nothing_are_completed_together(kind: DeclareKind, worker: WorkerProcess) -> None:
    silent = kind(lambda running: running.id, atomic=False)
    submit_many(silent, [{}] * 10)

    while run(silent, worker):
        pass

    assert {(job.status, job.result == str(job.id)) for job in Job.objects.all()} == {("COMPLETED", True)}


def test_a_long_sleep_gives_the_connection_back(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.running.LONG_SLEEP_SECONDS", 0.01)

    def handler(running: RunningJob) -> bool:
        before = connection.connection
        running.sleep(0.01)
        write("kept")
        return connection.connection is before

    sleeping = kind(handler, atomic=False)
    job = submit(sleeping)

    run(sleeping, worker)

    assert LONG_SLEEP_SECONDS > 0.01
    assert (again(job).result, written()) == (False, {"kept"})


def test_a_lost_connection_is_not_charged(kind: DeclareKind, worker: WorkerProcess) -> None:
    unlucky = kind(lambda running: end_own_connection(), atomic=False, max_attempts=1, backoff_seconds=0)
    job = submit(unlucky)

    run(unlucky, worker)

    assert (again(job).status, again(job).attempts.get().outcome) == ("CREATED", "UNAVAILABLE")


def test_a_cancelled_job_keeps_what_it_has_committed(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        write("kept")
        in_thread(submission.cancel, running.row.id)
        in_thread(worker.heartbeat.beat)
        running.check()

    cancelled = kind(handler, atomic=False)
    job = submit(cancelled)

    run(cancelled, worker)

    assert (again(job).status, written()) == ("CANCELLED", {"kept"})


def test_the_completion_is_fenced_though_what_was_committed_stays(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        write("kept")
        in_thread(declare_dead, worker.row_id)
        in_thread(take_back_from_ended)

    losing = kind(handler, atomic=False, backoff_seconds=0)
    job = submit(losing)

    run(losing, worker)

    assert (again(job).status, written()) == ("CREATED", {"kept"})


def test_a_transactional_kind_is_atomic(kind: DeclareKind) -> None:
    with pytest.raises(ValueError, match="is transactional, so it must be atomic"):
        kind(execution="transactional", atomic=False)
