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
from django.db.models.functions import Now

from orchestrator import engine, moves, tasks, upkeep, workers
from orchestrator.host import host
from orchestrator.kinds import all_kinds
from orchestrator.models import Attempt, Job, Kind, Worker
from orchestrator.running import Interrupted, LeaseLost, RunningJob
from orchestrator.submission import submit
from orchestrator.workers import (
    WorkerProcess,
    give_up,
    give_up_dead_neighbours,
    give_up_silent,
    take_back_from_ended,
)
from tests.orchestrator.workbench import (
    PATIENCE_SECONDS,
    DeclareKind,
    Hire,
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
    """As if the process had been frozen for longer than a lease lasts."""
    Worker.objects.filter(id=worker.row_id).update(seen_at=Now() - SILENT)


def stranger(**columns: Any) -> Worker:
    """The row of a process that is not this one."""
    return Worker.objects.create(
        **{"name": "stranger@there", "host": "elsewhere", "pid": 1, "process_started": "0", **columns}
    )


def take(job: Job, kind: Any, worker: WorkerProcess) -> RunningJob:
    """As if a handler were at work on the job."""
    running = RunningJob(job, kind)
    worker.take(running)
    return running


def test_a_process_registers_itself_and_its_kinds(kind: DeclareKind, hire: Hire) -> None:
    declared = kind(queue="io")

    worker = hire("io@here")

    assert (row(worker).name, row(worker).pid, row(worker).ended_at) == ("io@here", os.getpid(), None)
    assert Kind.objects.get(name=declared.name).queue == "io"
    assert Kind.objects.count() == len(all_kinds())


def test_registering_again_keeps_a_kind_paused(kind: DeclareKind, hire: Hire) -> None:
    declared = kind()
    hire()
    Kind.objects.update(paused_at=Now())

    hire("second@here")

    assert Kind.objects.get(name=declared.name).paused_at is not None


def test_what_was_there_before_a_child_is_left_alone_by_the_collector_and_stays_shared() -> None:
    try:
        signals.worker_before_create_process.send(sender=None)

        assert gc.get_freeze_count() > 100_000
    finally:
        gc.unfreeze()


def test_a_heartbeat_renews_the_row(worker: WorkerProcess) -> None:
    silence(worker)
    worker._renewed_at = 0

    worker._look()
    give_up_silent()

    assert row(worker).ended_at is None


def test_a_silent_process_is_given_up_and_its_job_taken_back(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind(backoff_seconds=0)
    job = submit(waiting)
    lease(waiting, worker)
    silence(worker)

    upkeep.give_up_silent_workers()

    assert (row(worker).lost, row(worker).ended_at is not None) == (True, True)
    assert (again(job).status, again(job).ready, again(job).worker_id) == ("CREATED", True, None)
    lost = again(job).attempts.get()
    assert (lost.outcome, lost.number, lost.worker_name) == ("LOST", 1, worker.name)


def test_a_process_seen_within_its_lease_is_left_alone(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    job = submit(waiting)
    lease(waiting, worker)
    Worker.objects.update(seen_at=Now() - timedelta(seconds=10))

    upkeep.give_up_silent_workers()

    assert again(job).status == "RUNNING"


def test_a_job_that_loses_its_last_worker_fails(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind(max_attempts=1)
    job = submit(waiting)
    lease(waiting, worker)

    give_up(worker.row_id)
    take_back_from_ended()

    assert (again(job).status, again(job).error) == ("FAILED", "Its worker died while it ran.")


def test_a_process_that_ended_in_order_but_left_a_job_loses_it(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    job = submit(waiting)
    lease(waiting, worker)
    worker._close_row()

    take_back_from_ended()

    assert again(job).attempts.get().outcome == "LOST"
    assert not row(worker).lost


def test_a_lost_workers_completion_is_refused(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        write("too late")
        with threads(1) as call:
            call(give_up, worker.row_id).result()
            call(take_back_from_ended).result()

    waiting = kind(handler)
    job = submit(waiting)

    run(waiting, worker)

    assert again(job).status == "CREATED"
    assert written() == set()


def test_a_given_up_process_goes_on_under_a_new_row_and_stops_what_it_ran(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waiting = kind()
    submit(waiting)
    running = take(lease(waiting, worker), waiting, worker)
    old_row = worker.row_id
    give_up(old_row)
    worker._renewed_at = 0

    worker._look()

    assert worker.row_id != old_row
    assert worker.registered.is_set()
    assert row(worker).ended_at is None
    with pytest.raises(LeaseLost):
        running.check()


def test_a_given_up_process_claims_again_under_its_new_row(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    job = submit(waiting)
    give_up(worker.row_id)
    refused = run(waiting, worker)
    worker._renewed_at = 0
    worker._look()

    ran = run(waiting, worker)

    assert (refused, ran, again(job).status) == (False, True, "COMPLETED")


def test_giving_up_twice_is_harmless(worker: WorkerProcess) -> None:
    give_up(worker.row_id)
    ended_at = row(worker).ended_at

    give_up(worker.row_id)

    assert row(worker).ended_at == ended_at


def test_a_dead_neighbour_is_given_up_without_waiting_for_its_lease(kind: DeclareKind, worker: WorkerProcess) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = stranger(host=host(), pid=child.pid, process_started="1")
    Job.objects.filter(id=submit(kind()).id).update(status="RUNNING", ready=False, worker_id=dead.id, attempt=1)

    give_up_dead_neighbours()

    assert Worker.objects.get(id=dead.id).lost
    assert Job.objects.get().attempts.get().outcome == "LOST"


def test_a_zombie_is_dead(worker: WorkerProcess) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = workers._process_started(child.pid)
    dead = stranger(host=host(), pid=child.pid, process_started=started)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    give_up_dead_neighbours()
    child.wait()

    assert Worker.objects.get(id=dead.id).lost


def test_a_process_id_that_is_used_again_is_another_process(worker: WorkerProcess) -> None:
    earlier = stranger(host=host(), pid=os.getpid(), process_started="1")

    give_up_dead_neighbours()

    assert Worker.objects.get(id=earlier.id).lost
    assert row(worker).ended_at is None


def test_processes_of_other_hosts_are_left_to_their_leases(worker: WorkerProcess) -> None:
    far = stranger()

    give_up_dead_neighbours()

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
        away.setattr(moves, "end_attempt", fail_to_record)
        with pytest.raises(DatabaseError):
            run(failing, worker)
    left = again(job)

    for _ in range(2):
        worker._look()

    assert (left.status, left.worker_id) == ("RUNNING", worker.row_id)
    assert (again(job).status, again(job).ready) == ("CREATED", True)
    assert again(job).attempts.get().error == "Its end could not be recorded."


def test_a_lease_is_not_taken_back_at_the_first_look(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    other, job = submit(waiting), submit(waiting)
    take(lease(waiting, worker), waiting, worker)
    claimed = lease(waiting, worker)

    worker._look()
    take(claimed, waiting, worker)
    worker._look()
    worker._look()

    assert (again(job).status, again(other).status) == ("RUNNING", "RUNNING")


def test_an_orphaned_lease_is_taken_back_at_the_second_look(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    other, job = submit(waiting), submit(waiting)
    take(lease(waiting, worker), waiting, worker)
    lease(waiting, worker)

    worker._look()
    worker._look()

    assert (again(job).status, again(other).status) == ("CREATED", "RUNNING")


def test_a_handler_whose_job_was_taken_away_is_stopped(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind(backoff_seconds=1_000)
    submit(waiting)
    running = take(lease(waiting, worker), waiting, worker)
    moves.end_attempt(running.row, Attempt.Outcome.TIMED_OUT)

    worker._look()
    running.check()
    worker._look()

    with pytest.raises(LeaseLost):
        running.check()


def test_two_attempts_at_a_job_in_one_process_are_told_apart(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind(backoff_seconds=0)
    job = submit(waiting)
    first = take(lease(waiting, worker), waiting, worker)
    Job.objects.update(deadline_at=Now())
    upkeep.end_overdue_attempts()
    second = take(lease(waiting, worker), waiting, worker)

    worker._look()
    worker._look()
    with pytest.raises(LeaseLost):
        first.check()
    worker.drop(first)
    worker._look()
    worker._look()

    second.check()
    complete(second.row)
    assert again(job).status == "COMPLETED"


def test_progress_of_an_attempt_that_was_overtaken_is_not_written(kind: DeclareKind, hire: Hire) -> None:
    waiting = kind(backoff_seconds=0)
    job = submit(waiting)
    frozen, survivor = hire("frozen@here"), hire("survivor@here")
    running = take(lease(waiting, frozen), waiting, frozen)
    running.progress(99)
    moves.end_attempt(running.row, Attempt.Outcome.LOST)
    lease(waiting, survivor)

    frozen._look()

    assert again(job).progress_done is None


def test_a_draining_process_lets_its_jobs_finish_within_the_grace_period(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waiting = kind()
    submit(waiting)
    running = take(lease(waiting, worker), waiting, worker)

    worker.drain()
    worker._renewed_at = 0
    worker._look()

    running.check()
    assert row(worker).draining_at is not None


def test_a_draining_process_interrupts_its_jobs_after_the_grace_period(
    kind: DeclareKind, live_worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(workers, "LAST_CALL_SECONDS", 600)
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


def test_a_handler_that_does_not_listen_is_left_behind_with_its_process(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    deaf = kind(max_attempts=1)
    job = submit(deaf)
    running = take(lease(deaf, worker), deaf, worker)

    worker._drain_began = time.monotonic() - 10.5
    worker._press_on()
    told = list(exits)
    worker._drain_began -= 2
    worker._press_on()

    assert (told, exits) == ([], [0])
    assert (again(job).status, again(job).max_attempts) == ("CREATED", 2)
    assert row(worker).ended_at is not None
    with pytest.raises(Interrupted):
        running.check()


def test_a_draining_process_answers_no_bell(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "current_process", lambda: worker)
    waiting = kind()
    job = submit(waiting)
    worker.drain()

    engine.answer_bell(waiting, celery_task_id="the-bell")

    assert again(job).status == "CREATED"


def test_a_process_that_ends_closes_its_row(transactional_db: None) -> None:
    worker = WorkerProcess("brief@here", ["default"]).start()
    assert worker.registered.wait(PATIENCE_SECONDS)

    worker.end()
    worker._thread.join(PATIENCE_SECONDS)

    assert (row(worker).ended_at is not None, row(worker).lost) == (True, False)


def test_the_heartbeat_goes_on_after_the_database_was_away(
    live_worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, looked = threading.Event(), threading.Event()

    def fail() -> None:
        failed.set()
        raise DatabaseError("the database is away")

    heed = live_worker._heed_leases
    monkeypatch.setattr(live_worker, "_heed_leases", fail)
    assert failed.wait(PATIENCE_SECONDS)
    monkeypatch.setattr(live_worker, "_heed_leases", lambda: (heed(), looked.set()))

    assert looked.wait(PATIENCE_SECONDS)
    assert row(live_worker).ended_at is None


def test_a_heartbeat_waits_for_nobody_for_long(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    submit(waiting)
    running = take(lease(waiting, worker), waiting, worker)
    running.progress(1, 2)

    with transaction.atomic():
        Job.objects.select_for_update().get()
        with threads(1) as call:
            refused = call(worker._write_progress).exception(PATIENCE_SECONDS)

    assert "lock timeout" in str(refused)


def test_nobody_is_given_up_while_it_claims(kind: DeclareKind, worker: WorkerProcess) -> None:
    waiting = kind()
    job = submit(waiting)

    with transaction.atomic():
        lease(waiting, worker)
        with threads(1) as call:
            call(give_up, worker.row_id).result(PATIENCE_SECONDS)

    assert row(worker).ended_at is None
    assert again(job).worker_id == worker.row_id


def test_a_part_of_the_heartbeat_that_fails_keeps_no_other_from_being_done(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise DatabaseError("a row is locked")

    done: list[str] = []
    monkeypatch.setattr(worker, "_write_progress", fail)
    monkeypatch.setattr(worker, "_keep_note", lambda: done.append("note"))

    worker._look()

    assert done == ["note"]


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
