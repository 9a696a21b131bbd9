"""What a worker process does about handlers that go on after their deadline; its end is only recorded here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from django.db import OperationalError, connection, transaction
from django.db.models.functions import Now

from config.local.valkey import Valkey
from orchestrator import tasks
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job, Worker
from orchestrator.queue import endings, recovery
from orchestrator.queue.endings import Ended
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import RunningJob, TimedOut
from orchestrator.submission import submit
from orchestrator.worker import deadlines, runner
from orchestrator.worker.consumer_stall import ConsumerStall
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import (
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    lease,
    run,
    threads,
    written,
)

GRACE_SECONDS = 5


@pytest.fixture(autouse=True)
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes with which the process would have ended."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def at_work(kind: Kind, worker: WorkerProcess, *, overtime_seconds: float) -> RunningJob:
    """A job whose handler has been at work for so much longer than it may."""
    running = RunningJob(lease(kind, worker), kind)
    worker.running.register(running)
    assert kind.timeout
    began_before = kind.timeout + timedelta(seconds=overtime_seconds)
    running.began_at -= began_before.total_seconds()
    running.row.claimed_at -= began_before
    Job.objects.filter(id=running.id).update(deadline_at=running.row.claimed_at + kind.timeout)
    return running


def outcomes(job: Job) -> list[str]:
    return list(again(job).attempts.values_list("outcome", flat=True))


def test_a_handler_is_asked_at_its_deadline_and_has_a_grace_period(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int]
) -> None:
    job = submit(hanging := kind())
    running = at_work(hanging, worker, overtime_seconds=GRACE_SECONDS - 2)

    worker.heartbeat.beat()

    with pytest.raises(TimedOut):
        running.check()
    assert (exits, again(job).status) == ([], "RUNNING")


def test_a_handler_that_outlasts_the_grace_period_ends_with_its_process(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int]
) -> None:
    job = submit(hanging := kind(max_attempts=2, backoff_seconds=0))
    at_work(hanging, worker, overtime_seconds=GRACE_SECONDS + 1)

    worker.heartbeat.beat()

    assert exits == [1]
    assert (again(job).status, again(job).ready, outcomes(job)) == ("CREATED", True, ["TIMED_OUT"])
    assert Worker.objects.get(id=worker.row_id).ended_at is not None


def test_the_attempt_shows_where_the_handler_was(kind: DeclareKind, live_worker: WorkerProcess, settings: Any) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, HARD_TIMEOUT_GRACE_SECONDS=0.1)
    released = threading.Event()

    def handler(running: RunningJob) -> None:
        hangs_here(released)

    job = submit(hanging := kind(handler, max_attempts=1, timeout_seconds=0.1))
    with threads(1) as call:
        ran = call(run, hanging, live_worker)
        wait_for(lambda: again(job).status == "FAILED")
        released.set()
        ran.result(PATIENCE_SECONDS)

    attempt = again(job).attempts.get()
    assert attempt.outcome == "TIMED_OUT"
    assert "took longer than 0:00:00.1" in attempt.error
    first, *_ = attempt.traceback.splitlines()[1:]
    assert "in handler" in first
    assert "in hangs_here" in attempt.traceback


def hangs_here(released: threading.Event) -> None:
    released.wait(PATIENCE_SECONDS)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(PATIENCE_SECONDS * 100):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("It did not come about.")


def pass_grace_period(worker: WorkerProcess) -> None:
    """As if the time had passed in which the other handlers may end."""
    assert worker.hard_timeout.ends_at is not None
    worker.hard_timeout.ends_at -= deadlines.CHECKPOINT_GRACE_SECONDS


def test_other_jobs_of_the_process_have_a_grace_period_and_are_handed_back_uncharged(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int]
) -> None:
    hanging, good = kind(max_attempts=1), kind(max_attempts=1)
    bad, beside = submit(hanging), submit(good)
    at_work(hanging, worker, overtime_seconds=GRACE_SECONDS + 1)
    at_work(good, worker, overtime_seconds=-60)

    worker.heartbeat.beat()
    early = list(exits)
    pass_grace_period(worker)
    worker.heartbeat.beat()

    assert (early, exits) == ([], [1])
    assert worker.draining.is_set()
    assert (again(bad).status, outcomes(bad)) == ("FAILED", ["TIMED_OUT"])
    assert (again(beside).status, again(beside).ready, outcomes(beside)) == ("CREATED", True, ["INTERRUPTED"])
    assert again(beside).max_attempts == 2


def test_a_job_that_was_handed_back_before_has_a_longer_grace_period(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int]
) -> None:
    hanging, good = kind(max_attempts=1), kind(max_attempts=1)
    bad, beside = submit(hanging), submit(good)
    endings.end_attempt(lease(good, worker), Ended(Attempt.Outcome.INTERRUPTED, error=recovery.ENDED_FOR_ANOTHER))
    at_work(hanging, worker, overtime_seconds=GRACE_SECONDS + 1)
    at_work(good, worker, overtime_seconds=-60)

    worker.heartbeat.beat()
    pass_grace_period(worker)
    worker.heartbeat.beat()

    assert (exits, worker.draining.is_set(), worker.hard_timeout.hanging_kinds) == ([], False, {hanging.name})
    assert (outcomes(bad), again(beside).status) == (["TIMED_OUT"], "RUNNING")
    worker.hard_timeout.ends_at = time.monotonic()
    worker.heartbeat.beat()
    assert (exits, outcomes(beside)) == ([1], ["INTERRUPTED", "INTERRUPTED"])


def test_a_process_takes_no_more_jobs_of_a_kind_that_hangs_there(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int]
) -> None:
    hanging, good = kind(), kind()
    worker.hard_timeout.hanging_kinds.add(hanging.name)
    left, run_here = submit(hanging), submit(good)

    for each in (hanging, good):
        runner.run_ready(each, worker)

    assert (again(left).status, again(run_here).status) == ("CREATED", "COMPLETED")


def test_a_claim_that_no_handler_has_begun_is_handed_back_too(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int]
) -> None:
    hanging, good = kind(max_attempts=1), kind(max_attempts=1)
    submit(hanging)
    at_work(hanging, worker, overtime_seconds=GRACE_SECONDS + 1)
    just_claimed = submit(good)
    lease(good, worker)

    worker.heartbeat.beat()

    assert exits == [1]
    assert (again(just_claimed).ready, outcomes(just_claimed)) == (True, ["INTERRUPTED"])


def test_a_process_that_ends_claims_nothing_more(kind: DeclareKind, worker: WorkerProcess) -> None:
    submit(hanging := kind(max_attempts=1))
    at_work(hanging, worker, overtime_seconds=GRACE_SECONDS + 1)
    worker.heartbeat.beat()
    late = submit(hanging)

    with pytest.raises(AssertionError):
        lease(hanging, worker)

    assert again(late).ready


def test_once_it_has_said_that_it_ends_it_does_although_the_handler_returns(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int]
) -> None:
    hanging, good = kind(), kind()
    submit(hanging), submit(good)
    late = at_work(hanging, worker, overtime_seconds=GRACE_SECONDS + 1)
    beside = at_work(good, worker, overtime_seconds=-60)

    worker.heartbeat.beat()
    worker.running.unregister(late)
    worker.running.unregister(beside)
    worker.heartbeat.beat()

    assert exits == [1]


def test_a_kind_without_timeout_may_take_for_ever(kind: DeclareKind, worker: WorkerProcess, exits: list[int]) -> None:
    job = submit(patient := kind(timeout_seconds=None))
    running = RunningJob(lease(patient, worker), patient)
    running.began_at -= 1_000_000
    worker.running.register(running)

    worker.heartbeat.beat()

    running.check()
    assert (exits, again(job).status) == ([], "RUNNING")


def test_a_clock_of_the_database_that_is_set_times_nobody_out(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int]
) -> None:
    job = submit(patient := kind(timeout_seconds=100))
    running = RunningJob(lease(patient, worker), patient)
    worker.running.register(running)
    # The deadline is past by a clock that was just set forward by an hour.
    back = timedelta(hours=1)
    running.row.claimed_at -= back
    Job.objects.filter(id=job.id).update(deadline_at=running.row.claimed_at + timedelta(seconds=100))

    worker.heartbeat.beat()

    running.check()
    assert exits == []


def test_what_hangs_after_its_lease_was_lost_still_frees_its_slot(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int]
) -> None:
    job = submit(hanging := kind(max_attempts=1))
    at_work(hanging, worker, overtime_seconds=GRACE_SECONDS + 1)
    declare_dead(worker.row_id)
    take_back_from_ended()

    worker.lease.renewed_at = 0
    worker.heartbeat.beat()

    assert exits == [1]
    assert len(outcomes(job)) == 1


def test_while_the_database_is_away_nobody_is_ended(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(*_: Any) -> None:
        raise OperationalError("away")

    job = submit(hanging := kind(max_attempts=1))
    at_work(hanging, worker, overtime_seconds=GRACE_SECONDS + 60)

    with monkeypatch.context() as patch:
        patch.setattr(worker.heartbeat, "parts", [is_away])
        worker.heartbeat.beat()
    worker.heartbeat.beat()
    during = list(exits)
    worker.heartbeat.database_failed_at -= GRACE_SECONDS
    worker.heartbeat.beat()

    assert (during, exits) == ([], [1])
    assert outcomes(job) == ["TIMED_OUT"]


def test_a_process_whose_end_cannot_be_recorded_ends_all_the_same(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise OperationalError("away")

    job = submit(hanging := kind(max_attempts=1))
    at_work(hanging, worker, overtime_seconds=GRACE_SECONDS + 1)
    monkeypatch.setattr(worker.process_end, "hand_back", fails)

    worker.heartbeat.beat()

    assert exits == [1]
    assert again(job).status == "RUNNING"


def test_a_handler_that_hangs_while_it_locks_its_own_row_ends_too(
    kind: DeclareKind, worker: WorkerProcess, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "CHECKPOINT_GRACE_SECONDS", 0.1)
    job = submit(hanging := kind(max_attempts=1))
    at_work(hanging, worker, overtime_seconds=GRACE_SECONDS + 1)

    with threads(1) as call, transaction.atomic():
        Job.objects.select_for_update().get(id=job.id)
        call(worker.heartbeat.beat).result(PATIENCE_SECONDS)
    take_back_from_ended()

    assert exits == [1]
    assert outcomes(job) == ["TIMED_OUT"]


def test_of_a_process_that_ended_with_a_job_past_its_deadline_the_others_are_not_charged(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    dead = make_worker("dead@here")
    hanging, good = kind(max_attempts=1), kind(max_attempts=1)
    bad, beside = submit(hanging), submit(good)
    at_work(hanging, dead, overtime_seconds=1)
    at_work(good, dead, overtime_seconds=-60)
    declare_dead(dead.row_id)

    take_back_from_ended()

    assert (again(bad).status, outcomes(bad)) == ("FAILED", ["TIMED_OUT"])
    assert (again(beside).status, outcomes(beside)) == ("CREATED", ["INTERRUPTED"])


def test_a_deadline_that_passed_after_the_process_died_is_not_held_against_the_job(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    dead = make_worker("dead@here")
    job = submit(good := kind(max_attempts=1))
    at_work(good, dead, overtime_seconds=60)
    Worker.objects.filter(id=dead.row_id).update(ended_at=Now() - timedelta(hours=1))

    take_back_from_ended()

    assert outcomes(job) == ["LOST"]


def test_a_batch_that_hangs_ends_and_its_jobs_run_alone_uncharged(
    kind: DeclareKind, live_worker: WorkerProcess, settings: Any, exits: list[int]
) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, HARD_TIMEOUT_GRACE_SECONDS=0.1)
    released = threading.Event()

    def handler(running: RunningJob) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO auth_group (name) VALUES (%s)", [running.id])
        hangs_here(released)

    hanging = kind(handler, execution="transactional", max_attempts=1, timeout_seconds=0.1, backoff_seconds=0)
    jobs = [submit(hanging), submit(hanging)]
    with threads(1) as call:
        ran = call(run, hanging, live_worker)
        wait_for(lambda: bool(exits))
        released.set()
        with suppress(Exception):
            ran.result(PATIENCE_SECONDS)

    for job in jobs:
        assert (again(job).ready, again(job).runs_alone, again(job).max_attempts) == (True, True, 2)
        attempt = again(job).attempts.get()
        assert attempt.outcome == "TIMED_OUT"
        assert "in hangs_here" in attempt.traceback
    assert not {str(job.id) for job in jobs} & written()


@pytest.mark.parametrize("execution", ["leased", "transactional"])
@pytest.mark.parametrize("table", ["orchestrator_worker", "orchestrator_job", "orchestrator_attempt"])
def test_a_handler_that_hangs_ends_although_a_table_is_locked_by_whoever_waits_for_it(
    execution: Any, table: str, kind: DeclareKind, live_worker: WorkerProcess, settings: Any, exits: list[int]
) -> None:
    """As ALTER TABLE does: it waits for the handler, and everyone else waits for it, the heartbeat too."""
    settings.ENV = msgspec.structs.replace(settings.ENV, HARD_TIMEOUT_GRACE_SECONDS=1.5)
    reads = threading.Event()
    ends = threading.Event()

    def handler(_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT FROM {table} LIMIT 1")
            reads.set()
            ends.wait(10 * PATIENCE_SECONDS)

    submit(hanging := kind(handler, execution=execution, timeout_seconds=0.1))
    with threads(2) as call:
        ran = call(run, hanging, live_worker)
        assert reads.wait(PATIENCE_SECONDS)
        altered = call(lock_exclusively, table)
        try:
            wait_for(lambda: bool(exits))
        finally:
            ends.set()
        with suppress(OperationalError):
            ran.result(PATIENCE_SECONDS)
        altered.result(PATIENCE_SECONDS)


def lock_exclusively(table: str) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")


@pytest.mark.parametrize(("execution", "seconds"), [("leased", 3_600), ("transactional", 120)])
def test_every_kind_has_a_timeout_unless_it_wants_none(execution: Any, seconds: int, kind: DeclareKind) -> None:
    assert kind(execution=execution).timeout == timedelta(seconds=seconds)
    assert kind(execution=execution, timeout_seconds=7).timeout == timedelta(seconds=7)
    assert kind(execution=execution, timeout_seconds=None).timeout is None


@pytest.mark.parametrize(("is_there", "ended"), [(True, []), (False, ["worker"])])
def test_a_child_that_ends_where_nobody_replaces_it_has_its_whole_worker_replaced(
    is_there: bool, ended: list[str]
) -> None:
    done: list[str] = []
    consumer_stall: Any = SimpleNamespace(reaches_broker=lambda: is_there, end_worker=lambda: done.append("worker"))

    tasks.make_sure_of_a_successor(consumer_stall)

    assert done == ended


def test_whether_the_broker_is_there_is_known_soon(worker: WorkerProcess, valkey: Valkey) -> None:
    consumer_stall = ConsumerStall(worker, celery_pid=0)
    assert consumer_stall.reaches_broker()

    valkey.kill()

    assert not consumer_stall.reaches_broker()
