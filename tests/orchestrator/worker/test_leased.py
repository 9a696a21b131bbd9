"""Leased execution: a handler's attempt, and what is kept of it."""

from __future__ import annotations

import os
import socket
import threading
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test.utils import override_settings

from orchestrator import submission
from orchestrator.attempt import own_transaction
from orchestrator.claimed import Claimed
from orchestrator.kinds import kind_named
from orchestrator.models import Attempt, Dependency, Job
from orchestrator.queue import endings
from orchestrator.queue.endings import Ended, longest_delay, retry_delay
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import Cancelled, Interrupted, RunningJob, TimedOut
from orchestrator.stops import LeaseLost
from orchestrator.submission import submit
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import (
    LONG_OVERDUE,
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    complete,
    end_own_connection,
    fail,
    is_in_order,
    lease,
    make_due,
    pipeline,
    raise_sqlstate,
    run,
    threads,
    write,
    written,
)


def test_what_the_handler_returns_is_the_result(kind: DeclareKind, worker: WorkerProcess) -> None:
    doubling = kind(lambda running, payload: {"double": payload["n"] * 2})
    job = submit(doubling, {"n": 4})

    ran = run(doubling, worker)

    job = again(job)
    assert ran
    assert (job.status, job.result, job.attempt, job.error) == ("COMPLETED", {"double": 8}, 1, "")
    assert (job.worker_id, job.deadline_at, job.celery_task_id) == (None, None, str(job.id))
    assert is_in_order(job.created_at, job.started_at, job.finished_at)


@pytest.mark.parametrize("result", [None, 0, "", [], {"a": [1.5, None, "ü"]}, 2**70])
def test_any_json_is_a_result(result: Any, kind: DeclareKind, worker: WorkerProcess) -> None:
    returning = kind(lambda running: result)
    job = submit(returning)

    run(returning, worker)

    assert (again(job).status, again(job).result) == ("COMPLETED", result)


def test_writes_are_seen_by_others_only_with_the_completion(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> list[str]:
        write("kept")
        with threads(1) as call:
            return sorted(call(written).result())

    writing = kind(handler)
    job = submit(writing)

    run(writing, worker)

    assert (again(job).result, written()) == ([], {"kept"})


def test_what_a_failed_attempt_wrote_is_rolled_back(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        write("not kept")
        raise ValueError("no")

    failing = kind(handler, max_attempts=1)
    job = submit(failing)

    run(failing, worker)

    assert (again(job).status, again(job).error) == ("FAILED", "ValueError: no")
    assert written() == set()


def test_a_failed_attempt_is_kept_with_its_traceback(kind: DeclareKind, worker: WorkerProcess) -> None:
    def explode(running: RunningJob) -> None:
        raise ValueError("no \x00 \ud800 good")

    failing = kind(explode)
    job = submit(failing)

    run(failing, worker)

    [attempt] = again(job).attempts.all()
    assert (attempt.number, attempt.outcome, attempt.worker_name) == (1, "RAISED", worker.name)
    assert attempt.error == "ValueError: no \N{REPLACEMENT CHARACTER} ? good"
    assert "in explode" in attempt.traceback
    assert is_in_order(attempt.started_at, attempt.ended_at)


def test_a_failed_attempt_is_followed_by_another_after_a_while(kind: DeclareKind, worker: WorkerProcess) -> None:
    def fails_once(running: RunningJob) -> int:
        if running.attempt == 1:
            raise ValueError("not yet")
        return running.attempt

    failing = kind(fails_once, backoff_seconds=100)
    job = submit(failing)

    run(failing, worker)
    waits = again(job)
    make_due(job)
    tick.make_due_ready()
    run(failing, worker)

    assert (waits.status, waits.ready, waits.error) == ("CREATED", False, "ValueError: not yet")
    assert waits.rank - waits.run_at == pytest.approx(timedelta(minutes=5), abs=timedelta(milliseconds=1))
    assert (again(job).status, again(job).result, again(job).error) == ("COMPLETED", 2, "")


def test_the_last_attempt_that_fails_fails_the_job(kind: DeclareKind, worker: WorkerProcess) -> None:
    def explode(running: RunningJob) -> None:
        raise ValueError(f"attempt {running.attempt}")

    failing = kind(explode, max_attempts=3, backoff_seconds=0)
    job = submit(failing)

    while run(failing, worker):
        pass

    assert (again(job).status, again(job).attempt, again(job).error) == ("FAILED", 3, "ValueError: attempt 3")
    assert [attempt.number for attempt in again(job).attempts.all()] == [1, 2, 3]


def test_a_permanent_error_fails_the_job_at_once(kind: DeclareKind, worker: WorkerProcess) -> None:
    def explode(running: RunningJob) -> None:
        raise FileNotFoundError("gone")

    failing = kind(explode, max_attempts=9, no_retry=(OSError,))
    job = submit(failing)

    run(failing, worker)

    assert (again(job).status, again(job).attempt) == ("FAILED", 1)


def test_the_delay_is_random_up_to_a_span_that_doubles_up_to_the_ceiling(kind: DeclareKind) -> None:
    retried = kind(backoff_seconds=2, backoff_ceiling_seconds=30)

    for attempt, span in [(1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (6, 30), (1_000, 30)]:
        delays = [retry_delay(longest_delay(retried, attempt)).total_seconds() for _ in range(400)]
        assert 0 <= min(delays) < span * 0.1
        assert span * 0.9 < max(delays) <= span


def test_a_long_backoff_does_not_overflow(kind: DeclareKind) -> None:
    patient = kind(backoff_seconds=86_400, backoff_ceiling_seconds=2 * 86_400)

    assert longest_delay(patient, 1_000) <= timedelta(days=2)


@pytest.mark.parametrize(
    ("result", "error"),
    [
        (object(), "TypeError: Encoding objects of type object is unsupported"),
        ("a\x00b", "ValueError: It contains a NUL character"),
        ("\ud800", "UnicodeEncodeError"),
        ("x" * 2_000, "ValueError: It takes 2,002 bytes as JSON; at most 1,000 are allowed"),
    ],
)
def test_a_result_that_cannot_be_kept_fails_the_attempt(
    result: Any, error: str, kind: DeclareKind, worker: WorkerProcess, settings: Any
) -> None:
    def handler(running: RunningJob) -> Any:
        write("not kept")
        return result

    returning = kind(handler, max_attempts=1)
    job = submit(returning)

    with override_settings(ENV=with_env(settings.ENV, MAX_RESULT_BYTES=1_000)):
        run(returning, worker)

    assert again(job).status == "FAILED"
    assert again(job).error.startswith(error)
    assert written() == set()


def with_env(env: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(env, **changes)


@pytest.mark.parametrize("error", [MemoryError("too much"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_errors_that_end_processes_end_the_attempt_alone(
    error: BaseException, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def explode(running: RunningJob) -> None:
        raise error

    failing = kind(explode, max_attempts=1)
    job = submit(failing)

    run(failing, worker)

    assert again(job).status == "FAILED"
    assert again(job).error == f"{type(error).__name__}: {error}"


def test_a_commit_that_fails_fails_the_attempt(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        # Its foreign keys are checked when the transaction commits.
        Dependency.objects.create(job_id=running.id, depends_on_id="00000000-0000-7000-8000-000000000000")

    failing = kind(handler, max_attempts=1)
    job = submit(failing)

    run(failing, worker)

    assert again(job).status == "FAILED"
    assert again(job).error.startswith("IntegrityError")


def test_a_handler_that_leaves_its_transaction_broken_fails(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        try:
            Group.objects.create(id=1, name="one")
            Group.objects.create(id=1, name="two")
        except Exception:
            return

    failing = kind(handler, max_attempts=1)
    job = submit(failing)

    run(failing, worker)

    assert again(job).status == "FAILED"
    assert written() == set()


def test_a_payload_that_is_no_longer_valid_fails_the_attempt(kind: DeclareKind, worker: WorkerProcess) -> None:
    strict = kind(lambda running, payload: payload, payload=dict[str, int], max_attempts=1)
    job = submit(strict, {"a": 1})
    Job.objects.update(payload={"a": "written by an older release"})

    run(strict, worker)

    assert again(job).status == "FAILED"
    assert again(job).error.startswith("BadPayload: /payload")


def test_an_attempt_past_its_deadline_is_ended_by_the_tick(kind: DeclareKind, worker: WorkerProcess) -> None:
    hanging = kind(max_attempts=2, backoff_seconds=0)
    job = submit(hanging)
    held = lease(hanging, worker)
    Job.objects.update(deadline_at=Now() - LONG_OVERDUE)

    tick.end_overdue_attempts()

    assert (again(job).status, again(job).ready, again(job).worker_id) == ("CREATED", True, None)
    assert again(job).attempts.get().outcome == "TIMED_OUT"
    with pytest.raises(LeaseLost):
        complete(held)


def test_a_handler_past_its_deadline_ends_at_its_next_checkpoint(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        overdue(running)
        worker.heartbeat.beat()
        running.check()

    hanging = kind(handler, max_attempts=1)
    job = submit(hanging)

    run(hanging, worker)

    assert (again(job).status, again(job).attempts.get().outcome) == ("FAILED", "TIMED_OUT")


def overdue(running: RunningJob) -> None:
    with threads(1) as call:
        call(Job.objects.filter(id=running.id).update, deadline_at=Now()).result()


def in_thread(function: Any, *args: Any) -> Any:
    """Does it in another connection, as someone else does while a handler is at work."""
    with threads(1) as call:
        return call(function, *args).result()


@pytest.mark.parametrize(("on_cancel", "kept"), [("rollback", set()), ("keep", {"partial"})])
def test_a_cancelled_handler_ends_at_a_checkpoint_and_its_work_as_it_says(
    on_cancel: str, kept: set[str], kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> None:
        write("partial")
        in_thread(submission.cancel, running.row.id)
        worker.heartbeat.beat()
        running.check()
        write("never reached")

    cancelled = kind(handler, on_cancel=on_cancel)
    job = submit(cancelled)

    run(cancelled, worker)

    assert (again(job).status, again(job).error) == ("CANCELLED", "")
    assert written() == kept
    assert not again(job).attempts.exists()


def test_a_handler_that_cancels_itself_unasked_has_failed(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        write("partial")
        raise Cancelled("I would rather not")

    moody = kind(handler, on_cancel="keep", max_attempts=1)
    job = submit(moody)

    run(moody, worker)

    assert (again(job).status, again(job).error) == ("FAILED", "Cancelled: I would rather not")
    assert again(job).attempts.get().outcome == "RAISED"
    assert written() == set()


def test_partial_work_is_not_kept_by_a_worker_that_lost_the_job(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        write("partial")
        in_thread(submission.cancel, running.row.id)
        in_thread(declare_dead, worker.row_id)
        in_thread(take_back_from_ended)
        raise Cancelled

    cancelled = kind(handler, on_cancel="keep")
    job = submit(cancelled)

    run(cancelled, worker)

    assert again(job).status == "CANCELLED"
    assert written() == set()


@pytest.mark.parametrize("checkpoint", ["progress", "sleep", "check", "step"])
def test_every_checkpoint_notices_a_cancellation(checkpoint: str, kind: DeclareKind, worker: WorkerProcess) -> None:
    def reach(running: RunningJob) -> None:
        if checkpoint == "progress":
            running.progress(1, 2)
        elif checkpoint == "sleep":
            running.sleep(600)
        elif checkpoint == "check":
            running.check()
        else:
            with running.step():
                write("in the step")

    def handler(running: RunningJob) -> None:
        in_thread(submission.cancel, running.row.id)
        worker.heartbeat.beat()
        reach(running)

    cancelled = kind(handler)
    job = submit(cancelled)

    run(cancelled, worker)

    assert again(job).status == "CANCELLED"
    assert written() == set()


def test_a_sleeping_handler_is_woken_by_a_cancellation(kind: DeclareKind, live_worker: WorkerProcess) -> None:
    asleep = threading.Event()

    def handler(running: RunningJob) -> None:
        asleep.set()
        running.sleep(600)

    sleeping = kind(handler)
    job = submit(sleeping)

    with threads(1) as call:
        ran = call(run, sleeping, live_worker)
        assert asleep.wait(PATIENCE_SECONDS)
        submission.cancel(job.id)
        ran.result(PATIENCE_SECONDS)

    assert again(job).status == "CANCELLED"


def test_a_handler_that_finishes_before_it_notices_has_completed(kind: DeclareKind, worker: WorkerProcess) -> None:
    finishing = kind(lambda running: in_thread(submission.cancel, running.row.id).status)
    job = submit(finishing)

    run(finishing, worker)

    assert (again(job).status, again(job).result) == ("COMPLETED", "RUNNING")


def test_a_cancellation_outlives_the_worker(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind(max_attempts=5)
    job = submit(waiting)
    lease(waiting, worker)
    submission.cancel(job.id)

    declare_dead(worker.row_id)
    take_back_from_ended()

    assert (again(job).status, again(job).error) == ("CANCELLED", "")


def test_progress_is_seen_by_others_while_the_handler_goes_on(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> list[Any]:
        running.progress(3, 7, "three of seven" + "!" * 600)
        worker.heartbeat.beat()
        seen = in_thread(Job.objects.get)
        return [seen.progress_done, seen.progress_total, seen.progress_message[:14], len(seen.progress_message)]

    going = kind(handler)
    job = submit(going)

    run(going, worker)

    assert again(job).result == [3, 7, "three of seven", 500]


@pytest.mark.parametrize("execution", ["leased", "transactional"])
@pytest.mark.parametrize(
    ("progress", "error"),
    [
        (("5 of 50", 50), "TypeError: progress() takes a whole number as done, not '5 of 50'."),
        ((None,), "TypeError: progress() takes a whole number as done, not None."),
        ((True,), "TypeError: progress() takes a whole number as done, not True."),
        ((2.5, 5), "TypeError: progress() takes a whole number as done, not 2.5."),
        ((1, float("nan")), "TypeError: progress() takes a whole number as total, not nan."),
        ((-1,), "ValueError: progress() takes 0 to 2^63 - 1 as done, not -1."),
        ((1, 2**63), "ValueError: progress() takes 0 to 2^63 - 1 as total, not 9223372036854775808."),
        ((1, 2, None), "TypeError: progress() takes a string as its message, not None."),
        ((1, 2, b"bytes"), "TypeError: progress() takes a string as its message, not b'bytes'."),
    ],
)
def test_progress_that_cannot_be_stored_raises_where_it_is_reported(
    progress: tuple[Any, ...], error: str, execution: Any, kind: DeclareKind, worker: WorkerProcess
) -> None:
    reached: list[str] = []

    def handler(running: RunningJob) -> None:
        running.progress(*progress)
        reached.append("what comes next")

    going = kind(handler, execution=execution, max_attempts=1)
    job = submit(going)

    run(going, worker)

    assert (again(job).status, again(job).error, reached) == ("FAILED", error, [])


def test_a_progress_message_is_made_storable(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> str:
        running.progress(1, 2, "reading \udcff\0.txt")
        worker.heartbeat.beat()
        seen = in_thread(Job.objects.get).progress_message
        with running.step(2, 2, "a\0b"):
            pass
        return str(seen)

    going = kind(handler)
    job = submit(going)

    run(going, worker)

    assert again(job).result == "reading ?\N{REPLACEMENT CHARACTER}.txt"
    assert again(job).progress_message == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 10**30, "1", None])
def test_a_sleep_that_never_ends_is_an_error(seconds: Any, kind: DeclareKind, worker: WorkerProcess) -> None:
    sleeping = kind(lambda running: running.sleep(seconds), max_attempts=1)
    job = submit(sleeping)

    run(sleeping, worker)

    assert again(job).attempts.get().outcome == "RAISED"


def test_the_last_progress_is_kept_with_the_completion(kind: DeclareKind, worker: WorkerProcess) -> None:
    going = kind(lambda running: running.progress(7, 7, "done"))
    job = submit(going)

    run(going, worker)

    assert (again(job).progress_done, again(job).progress_total, again(job).progress_message) == (7, 7, "done")


def test_progress_made_while_the_last_one_is_taken_is_not_forgotten(kind: DeclareKind) -> None:
    class Row(SimpleNamespace):
        """A job's row with which the handler goes on just while the heartbeat takes its progress."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "progress_message" and value == "first":
                running.progress(2, 2, "second")

    running = RunningJob(cast("Claimed", Row(id=1, attempt=1, progress_done=None)), kind())
    running.progress(1, 2, "first")

    first = running.take_progress()

    assert first == (1, 2, "first")
    assert running.take_progress() == (2, 2, "second")


def test_steps_are_kept_when_a_later_one_crashes(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> list[int]:
        for number in range(running.done, 3):
            with running.step(number + 1, 3, f"step {number + 1}"):
                write(f"step {number}, attempt {running.attempt}")
                if number == 1 and running.attempt == 1:
                    raise ValueError("crash")
        return [running.attempt]

    stepping = kind(handler, backoff_seconds=0)
    job = submit(stepping)

    run(stepping, worker)
    halfway = again(job)
    run(stepping, worker)

    assert (halfway.status, halfway.progress_done) == ("CREATED", 1)
    assert written() == {"step 0, attempt 1", "step 1, attempt 2", "step 2, attempt 2"}
    assert (again(job).status, again(job).progress_done, again(job).progress_message) == ("COMPLETED", 3, "step 3")


def test_a_step_is_refused_once_the_lease_is_lost(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        with running.step(1):
            write("kept")
        with running.step(2):
            write("too late")
            in_thread(declare_dead, worker.row_id)
            in_thread(take_back_from_ended)

    stepping = kind(handler)
    job = submit(stepping)

    run(stepping, worker)

    assert written() == {"kept"}
    assert (again(job).status, again(job).progress_done) == ("CREATED", 1)
    assert again(job).attempts.get().outcome == "LOST"


def test_a_step_within_the_handlers_own_transaction_is_refused(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        with transaction.atomic(), running.step(1):
            write("not kept")

    stepping = kind(handler, max_attempts=1)
    job = submit(stepping)

    run(stepping, worker)

    assert again(job).error.startswith("RuntimeError: A step must not end inside a transaction")
    assert written() == set()


def test_a_transactional_job_has_no_steps(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        with running.step(1):
            pass

    stepping = kind(handler, execution="transactional", max_attempts=1)
    job = submit(stepping)

    run(stepping, worker)

    assert "has one transaction and no steps" in again(job).error


def test_a_child_sees_the_results_of_what_it_came_after_and_a_parent_its_childrens(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    step = kind(lambda running: {"name": running.row.name, "inputs": sorted(running.inputs)})
    parent, children = pipeline(step, step, {"a": [], "b": [], "c": ["b"]})

    while run(step, worker):
        pass

    assert again(children["a"]).result == {"name": "a", "inputs": []}
    assert again(children["c"]).result == {"name": "c", "inputs": ["b"]}
    assert again(parent).result == {"name": "", "inputs": ["a", "b", "c"]}


def test_a_long_sleep_gives_the_connection_back(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.running.LONG_SLEEP_SECONDS", 0.01)
    connected: list[bool] = []
    wait, sleeper = threading.Event.wait, threading.current_thread()

    def note_and_wait(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is sleeper:
            connected.append(connection.connection is not None)
        return wait(event, timeout)

    def handler(running: RunningJob) -> list[bool]:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Event, "wait", note_and_wait)
            running.sleep(0.01)
            write("after the sleep")
            running.sleep(0.01)
        return connected

    sleeping = kind(handler)
    job = submit(sleeping)

    run(sleeping, worker)

    assert again(job).result == [False, True], "the second sleep keeps what was written"
    assert written() == {"after the sleep"}


def test_what_was_written_after_a_long_sleep_still_needs_the_lease(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.running.LONG_SLEEP_SECONDS", 0.01)

    def handler(running: RunningJob) -> None:
        running.sleep(0.01)
        write("too late")
        in_thread(declare_dead, worker.row_id)
        in_thread(take_back_from_ended)

    sleeping = kind(handler)
    submit(sleeping)

    run(sleeping, worker)

    assert written() == set()


def test_an_interrupted_attempt_does_not_count(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        write("not kept")
        running.stop(Interrupted)
        running.check()

    interrupted = kind(handler, max_attempts=1)
    job = submit(interrupted)

    for _ in range(3):
        run(interrupted, worker)

    assert (again(job).status, again(job).attempt, again(job).max_attempts) == ("CREATED", 3, 4)
    assert again(job).ready
    assert [(attempt.number, attempt.outcome) for attempt in again(job).attempts.all()] == [
        (number, "INTERRUPTED") for number in (1, 2, 3)
    ]
    assert written() == set()


def test_an_attempt_that_was_overtaken_cannot_end_the_next_one(kind: DeclareKind, make_worker: MakeWorker) -> None:
    waiting = kind(backoff_seconds=0)
    job = submit(waiting)
    one, two = make_worker("one@here"), make_worker("two@here")
    old = lease(waiting, one)
    declare_dead(one.row_id)
    take_back_from_ended()
    new = lease(waiting, two)

    with pytest.raises(LeaseLost):
        complete(old)
    assert fail(old) is None
    complete(new, "the second's")

    assert (again(job).status, again(job).result) == ("COMPLETED", "the second's")


def test_an_old_attempt_of_the_same_worker_cannot_complete_the_next_one(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waiting = kind(backoff_seconds=0)
    job = submit(waiting)
    old = lease(waiting, worker)
    Job.objects.update(deadline_at=Now() - LONG_OVERDUE)
    tick.end_overdue_attempts()
    lease(waiting, worker)

    with pytest.raises(LeaseLost):
        complete(old)

    assert fail(old) is None
    assert again(job).attempt == 2


def test_an_interrupted_attempt_cannot_complete_the_next_one(kind: DeclareKind, make_worker: MakeWorker) -> None:
    waiting = kind()
    job = submit(waiting)
    old = lease(waiting, make_worker("one@here"))
    endings.end_attempt(old, Ended(Attempt.Outcome.INTERRUPTED))
    new = lease(waiting, make_worker("two@here"))

    with pytest.raises(LeaseLost):
        complete(old)

    assert fail(old) is None
    assert (new.attempt, again(job).worker_id) == (old.attempt + 1, new.worker_id)


def test_an_attempt_that_the_database_failed_is_not_charged(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        write("not kept")
        raise_sqlstate("53100")

    unlucky = kind(handler, max_attempts=1, backoff_seconds=0)
    job = submit(unlucky)

    run(unlucky, worker)

    assert (again(job).status, again(job).attempt, again(job).max_attempts) == ("CREATED", 1, 2)
    assert again(job).attempts.get().outcome == "UNAVAILABLE"
    assert written() == set()


def test_a_job_that_loses_its_connection_runs_again(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        if running.attempt == 1:
            end_own_connection()

    unlucky = kind(handler, max_attempts=1, backoff_seconds=0)
    job = submit(unlucky)

    run(unlucky, worker)
    run(unlucky, worker)

    assert again(job).status == "COMPLETED"
    assert [attempt.outcome for attempt in again(job).attempts.all()] == ["UNAVAILABLE"]


@pytest.mark.django_db(transaction=True)
def test_a_connection_lost_while_a_step_commits_is_not_charged(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step's next transaction has another connection by then, which works."""

    def cut_connection() -> None:
        with socket.socket(fileno=os.dup(connection.connection.fileno())) as cut:
            cut.shutdown(socket.SHUT_RDWR)

    def handle(running: RunningJob) -> None:
        with running.step(1):
            write("kept")

    stepping = kind(handle)
    job = submit(stepping)
    monkeypatch.setattr(own_transaction, "step_committing", cut_connection)

    run(stepping, worker)

    attempt = again(job).attempts.get()
    assert (attempt.outcome, again(job).status, written()) == ("UNAVAILABLE", "CREATED", set())
    assert "server closed the connection unexpectedly" in attempt.error


def test_a_job_that_brings_the_database_down_each_time_fails(kind: DeclareKind, worker: WorkerProcess) -> None:
    unlucky = kind(lambda running: end_own_connection(), max_attempts=1, backoff_seconds=0)
    job = submit(unlucky)

    for _ in range(endings.MAX_UNAVAILABLE + 1):
        assert run(unlucky, worker)

    assert again(job).status == "FAILED"
    assert again(job).attempts.count() == endings.MAX_UNAVAILABLE + 1


@pytest.mark.parametrize(
    ("sqlstate", "charged"), [("22012", True), ("57014", True), ("40P01", False), ("57P01", False)]
)
def test_errors_of_the_handler_are_charged(
    sqlstate: str, charged: bool, kind: DeclareKind, worker: WorkerProcess
) -> None:
    failing = kind(lambda running: raise_sqlstate(sqlstate), max_attempts=1)
    job = submit(failing)

    run(failing, worker)

    assert again(job).status == ("FAILED" if charged else "CREATED")


def test_a_lost_lease_takes_precedence_over_other_reasons_to_stop(kind: DeclareKind, worker: WorkerProcess) -> None:
    stopped = kind()
    submit(stopped)
    running = RunningJob(lease(stopped, worker), stopped)

    running.stop(Cancelled)
    running.stop(TimedOut)
    with pytest.raises(Cancelled):
        running.check()
    running.stop(LeaseLost)

    with pytest.raises(LeaseLost):
        running.check()


def test_a_handlers_except_exception_lets_a_stop_through(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> str:
        in_thread(submission.cancel, running.row.id)
        worker.heartbeat.beat()
        try:
            running.check()
        except Exception:
            return "swallowed"
        return "not noticed"

    stubborn = kind(handler)
    job = submit(stubborn)

    run(stubborn, worker)

    assert again(job).status == "CANCELLED"


def test_every_attempt_has_the_same_idempotency_key(kind: DeclareKind, worker: WorkerProcess) -> None:
    keys = []

    def handler(running: RunningJob) -> None:
        keys.append(running.idempotency_key)
        raise ValueError

    failing = kind(handler, backoff_seconds=0, max_attempts=3)
    job = submit(failing)

    while run(failing, worker):
        pass

    assert keys == [str(job.id)] * 3


@pytest.mark.parametrize("execution", ["leased", "transactional"])
def test_a_parent_reads_its_childrens_results_as_they_were_returned(
    execution: Any, kind: DeclareKind, worker: WorkerProcess
) -> None:
    results = {"0": None, "1": 2**70, "2": {"a": [1.5, "ü"]}}
    step = kind(lambda running: results[running.row.name])
    last = kind(lambda running: running.inputs == results, execution=execution)
    parent, _ = pipeline(last, step, {"0": [], "1": [], "2": []})

    while run(step, worker) or run(last, worker):
        pass

    assert again(parent).result is True


def test_reading_inputs_keeps_no_transaction_open(kind: DeclareKind, worker: WorkerProcess) -> None:
    begun: list[int] = []

    def handler(running: RunningJob) -> None:
        assert running.inputs == {"a": None}
        begun.append(connection.connection.info.transaction_status)
        write("row")
        raise ValueError("rolled back")

    last = kind(handler, max_attempts=1)
    parent, _ = pipeline(last, kind(), {"a": []})

    for each in (kind_named(Job.objects.get(parent=parent).kind), last):
        run(each, worker)

    assert (begun, written(), again(parent).status) == ([0], set(), "FAILED")
