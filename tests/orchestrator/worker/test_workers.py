"""Worker processes: leases that are renewed, taken over from the dead, and handed back when told to stop."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from celery import signals
from django.db import DatabaseError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from orchestrator import tasks
from orchestrator.claimed import Claimed
from orchestrator.host import host, process_started
from orchestrator.kinds import all_kinds
from orchestrator.models import Attempt, Job, Kind, Worker
from orchestrator.queue import endings
from orchestrator.queue.endings import Ended
from orchestrator.queue.recovery import declare_dead, expire_leases, recover_on_this_host, take_back_from_ended
from orchestrator.running import Interrupted, RunningJob
from orchestrator.stops import LeaseLost
from orchestrator.submission import submit
from orchestrator.upkeep import tick
from orchestrator.worker import deadlines, runner
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import (
    LONG_OVERDUE,
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    complete,
    lease,
    run,
    threads,
    write,
    written,
)

SILENT = timedelta(seconds=16)


def row(worker: WorkerProcess) -> Worker:
    return Worker.objects.get(id=worker.row_id)


def silence(worker: WorkerProcess) -> None:
    """As if ticks had looked for its sign of life for longer than a lease lasts."""
    expire_leases()
    Worker.objects.filter(id=worker.row_id).update(
        seen_at=Now() - SILENT, noted_seen_at=Now() - SILENT, noted_seconds=F("noted_seconds") - SILENT.total_seconds()
    )


def stranger(**columns: Any) -> Worker:
    """The row of a process that is not this one."""
    return Worker.objects.create(
        **{"name": "stranger@there", "host": "elsewhere", "pid": 1, "process_started": "0", **columns}
    )


def take(job: Claimed, kind: Any, worker: WorkerProcess) -> RunningJob:
    """As if a handler were at work on the job."""
    running = RunningJob(job, kind)
    worker.running.register(running)
    return running


def test_a_process_registers_itself_and_its_kinds(kind: DeclareKind, make_worker: MakeWorker) -> None:
    declared = kind(queue="io")

    worker = make_worker("io@here")

    assert (row(worker).name, row(worker).pid, row(worker).ended_at) == ("io@here", os.getpid(), None)
    assert Kind.objects.get(name=declared.name).queue == "io"
    assert Kind.objects.count() == len(all_kinds())


def test_registering_again_keeps_a_kind_paused(kind: DeclareKind, make_worker: MakeWorker) -> None:
    declared = kind()
    make_worker()
    Kind.objects.update(paused_at=Now())

    make_worker("second@here")

    assert Kind.objects.get(name=declared.name).paused_at is not None


def test_objects_from_before_a_fork_are_not_collected_and_stay_shared() -> None:
    try:
        signals.worker_before_create_process.send(sender=None)

        assert gc.get_freeze_count() > 100_000
    finally:
        gc.unfreeze()


def test_a_heartbeat_renews_the_row(worker: WorkerProcess) -> None:
    silence(worker)
    worker.lease.renewed_at = 0

    worker.heartbeat.beat()
    expire_leases()

    assert row(worker).ended_at is None


def test_a_process_that_does_not_renew_is_declared_dead_and_its_job_taken_back(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waiting = kind(backoff_seconds=0)
    job = submit(waiting)
    lease(waiting, worker)
    silence(worker)

    tick.take_back_from_dead_workers()

    assert (row(worker).lost, row(worker).ended_at is not None) == (True, True)
    assert (again(job).status, again(job).ready, again(job).worker_id) == ("CREATED", True, None)
    lost = again(job).attempts.get()
    # The process lives: it is this one.
    assert (lost.outcome, lost.number, lost.worker_name) == ("UNAVAILABLE", 1, worker.name)


def test_a_process_seen_within_its_lease_is_left_alone(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    job = submit(waiting)
    lease(waiting, worker)
    Worker.objects.update(seen_at=Now() - timedelta(seconds=10))

    tick.take_back_from_dead_workers()

    assert again(job).status == "RUNNING"


def test_a_job_that_loses_its_last_worker_fails(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind(max_attempts=1)
    job = submit(waiting)
    lease(waiting, worker)

    declare_dead(worker.row_id)
    take_back_from_ended()

    assert (again(job).status, again(job).error) == ("FAILED", "Its worker died while it ran.")


def test_a_job_left_by_a_process_that_shut_down_is_lost(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    job = submit(waiting)
    lease(waiting, worker)
    worker.lease.close()

    take_back_from_ended()

    assert again(job).attempts.get().outcome == "LOST"
    assert not row(worker).lost


def test_a_lost_workers_completion_is_refused(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        write("too late")
        with threads(1) as call:
            call(declare_dead, worker.row_id).result()
            call(take_back_from_ended).result()

    waiting = kind(handler)
    job = submit(waiting)

    run(waiting, worker)

    assert again(job).status == "CREATED"
    assert written() == set()


def test_a_process_declared_dead_continues_under_a_new_row_and_stops_what_it_ran(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waiting = kind()
    submit(waiting)
    running = take(lease(waiting, worker), waiting, worker)
    old_row = worker.row_id
    declare_dead(old_row)
    worker.lease.renewed_at = 0

    worker.heartbeat.beat()

    assert worker.row_id != old_row
    assert worker.lease.registered.is_set()
    assert row(worker).ended_at is None
    with pytest.raises(LeaseLost):
        running.check()


def test_a_process_declared_dead_claims_again_under_its_new_row(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    job = submit(waiting)
    declare_dead(worker.row_id)
    refused = run(waiting, worker)
    worker.lease.renewed_at = 0
    worker.heartbeat.beat()

    ran = run(waiting, worker)

    assert (refused, ran, again(job).status) == (False, True, "COMPLETED")


def test_declaring_dead_twice_is_harmless(worker: WorkerProcess) -> None:
    declare_dead(worker.row_id)
    ended_at = row(worker).ended_at

    declare_dead(worker.row_id)

    assert row(worker).ended_at == ended_at


def test_a_dead_process_of_the_host_is_declared_dead_without_waiting_for_its_lease(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = stranger(host=host(), pid=child.pid, process_started="1")
    Job.objects.filter(id=submit(kind()).id).update(status="RUNNING", ready=False, worker_id=dead.id, attempt=1)

    recover_on_this_host()

    assert Worker.objects.get(id=dead.id).lost
    assert Job.objects.get().attempts.get().outcome == "LOST"


def test_a_zombie_is_dead(worker: WorkerProcess) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_started(child.pid)
    dead = stranger(host=host(), pid=child.pid, process_started=started)
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    recover_on_this_host()
    child.wait()

    assert Worker.objects.get(id=dead.id).lost


def test_a_process_id_that_is_used_again_is_another_process(worker: WorkerProcess) -> None:
    earlier = stranger(host=host(), pid=os.getpid(), process_started="1")

    recover_on_this_host()

    assert Worker.objects.get(id=earlier.id).lost
    assert row(worker).ended_at is None


def test_processes_of_other_hosts_are_left_to_their_leases(worker: WorkerProcess) -> None:
    far = stranger()

    recover_on_this_host()

    assert Worker.objects.get(id=far.id).ended_at is None


def test_a_lease_whose_end_could_not_be_recorded_is_taken_back(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_to_record(*args: Any, **kwargs: Any) -> None:
        raise DatabaseError("the database is away")

    def explode(running: RunningJob) -> None:
        raise ValueError

    failing = kind(explode, backoff_seconds=0)
    job = submit(failing)
    with monkeypatch.context() as away:
        away.setattr(endings, "end_attempt", fail_to_record)
        with pytest.raises(DatabaseError):
            run(failing, worker)
    left = again(job)

    for _ in range(2):
        worker.heartbeat.beat()

    assert (left.status, left.worker_id) == ("RUNNING", worker.row_id)
    assert (again(job).status, again(job).ready) == ("CREATED", True)
    assert again(job).attempts.get().error == "The outcome of this attempt could not be recorded."


def test_a_lease_is_not_taken_back_at_the_first_beat(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    other, job = submit(waiting), submit(waiting)
    take(lease(waiting, worker), waiting, worker)
    claimed = lease(waiting, worker)

    worker.heartbeat.beat()
    take(claimed, waiting, worker)
    worker.heartbeat.beat()
    worker.heartbeat.beat()

    assert (again(job).status, again(other).status) == ("RUNNING", "RUNNING")


def test_an_orphaned_lease_is_taken_back_at_the_second_beat(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    other, job = submit(waiting), submit(waiting)
    take(lease(waiting, worker), waiting, worker)
    lease(waiting, worker)

    worker.heartbeat.beat()
    worker.heartbeat.beat()

    assert (again(job).status, again(other).status) == ("CREATED", "RUNNING")


def test_a_handler_whose_job_was_taken_away_is_stopped(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind(backoff_seconds=1_000)
    submit(waiting)
    running = take(lease(waiting, worker), waiting, worker)
    endings.end_attempt(running.row, Ended(Attempt.Outcome.TIMED_OUT))

    worker.heartbeat.beat()
    running.check()
    worker.heartbeat.beat()

    with pytest.raises(LeaseLost):
        running.check()


def test_two_attempts_at_a_job_in_one_process_are_distinguished(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind(backoff_seconds=0)
    job = submit(waiting)
    first = take(lease(waiting, worker), waiting, worker)
    Job.objects.update(deadline_at=Now() - LONG_OVERDUE)
    tick.end_overdue_attempts()
    second = take(lease(waiting, worker), waiting, worker)

    worker.heartbeat.beat()
    worker.heartbeat.beat()
    with pytest.raises(LeaseLost):
        first.check()
    worker.running.unregister(first)
    worker.heartbeat.beat()
    worker.heartbeat.beat()

    second.check()
    complete(second.row)
    assert again(job).status == "COMPLETED"


def test_progress_of_an_attempt_that_was_overtaken_is_not_written(kind: DeclareKind, make_worker: MakeWorker) -> None:
    waiting = kind(backoff_seconds=0)
    job = submit(waiting)
    frozen, survivor = make_worker("frozen@here"), make_worker("survivor@here")
    running = take(lease(waiting, frozen), waiting, frozen)
    running.progress(99)
    endings.end_attempt(running.row, Ended(Attempt.Outcome.LOST))
    lease(waiting, survivor)

    frozen.heartbeat.beat()

    assert again(job).progress_done is None


def test_a_draining_process_lets_its_jobs_finish_within_the_grace_period(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waiting = kind()
    submit(waiting)
    running = take(lease(waiting, worker), waiting, worker)

    worker.drain()
    worker.lease.renewed_at = 0
    worker.heartbeat.beat()

    running.check()
    assert row(worker).draining_at is not None


def test_a_draining_process_interrupts_its_jobs_after_the_grace_period(
    kind: DeclareKind, live_worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(deadlines, "CHECKPOINT_GRACE_SECONDS", 600)
    settings.ENV = msgspec.structs.replace(settings.ENV, SHUTDOWN_GRACE_SECONDS=0.1)
    asleep = threading.Event()

    def handler(running: RunningJob) -> None:
        asleep.set()
        running.sleep(600)

    sleeping = kind(handler, max_attempts=1)
    job = submit(sleeping)

    with threads(1) as call:
        ran = call(run, sleeping, live_worker)
        assert asleep.wait(PATIENCE_SECONDS)
        live_worker.drain()
        ran.result(PATIENCE_SECONDS)

    assert (again(job).status, again(job).max_attempts, again(job).ready) == ("CREATED", 2, True)
    assert again(job).attempts.get().outcome == "INTERRUPTED"


def test_a_handler_without_a_checkpoint_ends_with_its_process(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    unstoppable = kind(max_attempts=1)
    job = submit(unstoppable)
    running = take(lease(unstoppable, worker), unstoppable, worker)

    worker.shutdown.began_at = time.monotonic() - 10.5
    worker.heartbeat.beat()
    early = list(exits)
    worker.shutdown.began_at -= deadlines.CHECKPOINT_GRACE_SECONDS
    worker.heartbeat.beat()

    assert (early, exits) == ([], [0])
    assert (again(job).status, again(job).max_attempts) == ("CREATED", 2)
    assert row(worker).ended_at is not None
    with pytest.raises(Interrupted):
        running.check()


def test_a_draining_process_handles_no_bell(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "current_process", lambda: worker)
    waiting = kind()
    job = submit(waiting)
    worker.drain()

    runner.handle_bell(waiting)

    assert again(job).status == "CREATED"


def test_a_process_that_ends_closes_its_row(transactional_db: None) -> None:
    worker = WorkerProcess("brief@here", ["default"]).start()
    assert worker.lease.registered.wait(PATIENCE_SECONDS)

    worker.end(PATIENCE_SECONDS)

    assert (row(worker).ended_at is not None, row(worker).lost) == (True, False)


def test_the_heartbeat_continues_after_a_database_outage(
    live_worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, beaten = threading.Event(), threading.Event()

    def fail() -> None:
        failed.set()
        raise DatabaseError("the database is away")

    parts = live_worker.heartbeat.parts
    monkeypatch.setattr(live_worker.heartbeat, "parts", [fail])
    assert failed.wait(PATIENCE_SECONDS)
    monkeypatch.setattr(live_worker.heartbeat, "parts", [*parts, beaten.set])

    assert beaten.wait(PATIENCE_SECONDS)
    assert row(live_worker).ended_at is None


def test_a_heartbeat_waits_for_nobody_for_long(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    submit(waiting)
    running = take(lease(waiting, worker), waiting, worker)
    running.progress(1, 2)

    with transaction.atomic():
        Job.objects.select_for_update().get()
        with threads(1) as call:
            refused = call(worker.job_leases.write_progress).exception(PATIENCE_SECONDS)

    assert "lock timeout" in str(refused)


def test_no_process_is_declared_dead_while_it_claims(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    job = submit(waiting)

    with transaction.atomic():
        lease(waiting, worker)
        with threads(1) as call:
            call(declare_dead, worker.row_id).result(PATIENCE_SECONDS)

    assert row(worker).ended_at is None
    assert again(job).worker_id == worker.row_id


def test_a_part_of_the_heartbeat_that_fails_keeps_no_other_from_being_done(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise DatabaseError("a row is locked")

    done: list[str] = []
    monkeypatch.setattr(worker.heartbeat, "parts", [fail, lambda: done.append("the next one")])

    worker.heartbeat.beat()

    assert done == ["the next one"]


def test_a_connection_that_broke_since_the_last_message_is_replaced(transactional_db: None) -> None:
    def backend() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return int(cursor.fetchone()[0])

    def end(pid: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])

    def answer_two_messages() -> tuple[int, int]:
        first = backend()
        with threads(1) as run_elsewhere:
            run_elsewhere(end, first).result(PATIENCE_SECONDS)
        tasks.renew_connection()
        return first, backend()

    with threads(1) as run_elsewhere:
        first, second = run_elsewhere(answer_two_messages).result(PATIENCE_SECONDS)

    assert first != second
