"""Transactional execution: a batch in one transaction, and who is to blame when it fails."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, transaction

from orchestrator import submission
from orchestrator.models import Dependency, Job, Worker
from orchestrator.queue import claims, recovery, turns
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import RunningJob
from orchestrator.submission import submit, submit_many
from orchestrator.upkeep import tick
from orchestrator.worker import batches
from orchestrator.worker.process import WorkerProcess
from tests.concurrency import held_open
from tests.orchestrator.workbench import (
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    end_own_connection,
    is_in_order,
    make_due,
    pipeline,
    record_in_flight,
    run,
    threads,
    write,
    written,
)

BATCH: dict[str, Any] = {"execution": "transactional", "backoff_seconds": 0}


def statuses() -> list[str]:
    return list(Job.objects.order_by("id").values_list("status", flat=True))


def count_unlocked() -> int:
    """How many ready jobs nobody has locked."""
    with transaction.atomic():
        return len(Job.objects.filter(ready=True).select_for_update(skip_locked=True))


def die(worker: WorkerProcess, *jobs: Job) -> None:
    """What is left of a process that was killed while it ran these jobs in one or more batches."""
    with threads(1) as call:
        call(record_in_flight, worker, *map(again, jobs)).result()
    declare_dead(worker.row_id)


def test_a_batch_completes_at_once(kind: DeclareKind, worker: WorkerProcess) -> None:
    doubling = kind(lambda running, payload: {"double": payload["n"] * 2}, **BATCH)
    ids = submit_many(doubling, [{"n": n} for n in range(50)])

    ran = run(doubling, worker)

    jobs = Job.objects.in_bulk(ids)
    assert ran == 50
    assert [jobs[id].result for id in ids] == [{"double": 2 * n} for n in range(50)]
    assert {(job.status, job.attempt, job.ready, job.worker_name) for job in jobs.values()} == {
        ("COMPLETED", 1, False, worker.name)
    }
    assert all(is_in_order(job.created_at, job.started_at, job.finished_at) for job in jobs.values())


def test_no_more_than_a_batch_is_claimed(kind: DeclareKind, worker: WorkerProcess) -> None:
    batching = kind(batch_size=3, **BATCH)
    submit_many(batching, [{}] * 4)

    run(batching, worker)

    assert statuses() == ["COMPLETED"] * 3 + ["CREATED"]


def test_nothing_is_run_where_nothing_is_ready(kind: DeclareKind, worker: WorkerProcess) -> None:
    assert run(kind(**BATCH), worker) == 0


def test_a_handler_may_take_its_whole_batch(kind: DeclareKind, worker: WorkerProcess) -> None:
    def add_many(jobs: list[RunningJob]) -> list[int]:
        return [len(jobs) * 100 + job.payload["n"] for job in jobs]

    adding = kind(add_many, takes_batch=True, **BATCH)
    ids = submit_many(adding, [{"n": n} for n in range(3)])

    run(adding, worker)

    assert [Job.objects.get(id=id).result for id in ids] == [300, 301, 302]


def test_a_bad_job_fails_alone_and_only_its_writes_are_lost(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob, payload: dict[str, Any]) -> None:
        write(str(payload["n"]))
        if payload["n"] == 1:
            raise ValueError("one is bad")

    batching = kind(handler, max_attempts=1, **BATCH)
    submit_many(batching, [{"n": n} for n in range(3)])

    run(batching, worker)

    assert statuses() == ["COMPLETED", "FAILED", "COMPLETED"]
    assert written() == {"0", "2"}
    bad = Job.objects.get(status="FAILED")
    assert (bad.error, bad.attempt, bad.worker_name) == ("ValueError: one is bad", 1, worker.name)
    assert "in handler" in bad.attempts.get().traceback


def test_a_bad_job_is_tried_again_and_then_fails(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        raise ValueError(f"attempt {running.row.attempt + 1}")

    batching = kind(handler, max_attempts=3, **BATCH)
    job = submit(batching)

    while run(batching, worker):
        pass

    assert (again(job).status, again(job).error, again(job).attempt) == ("FAILED", "ValueError: attempt 3", 3)
    assert [attempt.number for attempt in again(job).attempts.all()] == [1, 2, 3]


def test_the_attempt_a_handler_sees_is_the_one_that_is_kept(kind: DeclareKind, worker: WorkerProcess) -> None:
    batching = kind(lambda running: running.attempt, **BATCH)
    job = submit(batching)

    run(batching, worker)

    assert (again(job).result, again(job).attempt) == (1, 1)


@pytest.mark.parametrize("returned", [[], [1], [1, 2, 3], None, 5])
def test_a_batch_with_the_wrong_number_of_results_completes_nothing(
    returned: Any, kind: DeclareKind, worker: WorkerProcess
) -> None:
    batching = kind(lambda jobs: returned if len(jobs) > 1 else [1], takes_batch=True, **BATCH)
    submit_many(batching, [{}] * 2)

    run(batching, worker)

    assert list(Job.objects.values_list("status", "result")) == [("COMPLETED", 1)] * 2, "each ran alone"


def test_a_bad_job_of_a_large_batch_is_found_by_calls_with_parts_of_it(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    sizes: list[int] = []

    def handler(jobs: list[RunningJob]) -> list[int]:
        sizes.append(len(jobs))
        if any(job.payload["n"] == 30 for job in jobs):
            raise ValueError("one is bad")
        return [job.payload["n"] for job in jobs]

    batching = kind(handler, takes_batch=True, max_attempts=1, **BATCH)
    ids = submit_many(batching, [{"n": n} for n in range(2 * batches.PART + 1)])

    run(batching, worker)

    assert sizes == [2 * batches.PART + 1, batches.PART, batches.PART, 1, *[1] * batches.PART]
    results = {n: Job.objects.get(id=id).result for n, id in enumerate(ids)}
    assert results == {n: n for n in results} | {30: None}
    assert statuses() == ["COMPLETED"] * 30 + ["FAILED"] + ["COMPLETED"] * (len(ids) - 31)


def test_bad_jobs_of_a_large_batch_each_fail_once_however_it_was_divided(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(jobs: list[RunningJob]) -> list[int]:
        raise ValueError("all are bad")

    batching = kind(handler, takes_batch=True, max_attempts=1, **BATCH)
    count = len(submit_many(batching, [{}] * (batches.PART + 1)))

    run(batching, worker)

    assert list(Job.objects.values_list("status", "attempt")) == [("FAILED", 1)] * count


def test_a_job_alone_with_the_wrong_number_of_results_fails(kind: DeclareKind, worker: WorkerProcess) -> None:
    batching = kind(lambda jobs: [], takes_batch=True, max_attempts=1, **BATCH)
    job = submit(batching)

    run(batching, worker)

    assert again(job).error.endswith("was given 1 jobs and returned 0 results.")


def test_a_result_that_cannot_be_kept_fails_its_job_alone(kind: DeclareKind, worker: WorkerProcess) -> None:
    batching = kind(lambda running, payload: payload["text"] * 2 + "\x00" * payload["nuls"], max_attempts=1, **BATCH)
    submit_many(batching, [{"text": "good", "nuls": 0}, {"text": "bad", "nuls": 1}])

    run(batching, worker)

    assert statuses() == ["COMPLETED", "FAILED"]


def break_at_commit(running: RunningJob) -> None:
    """Its foreign keys are checked when the transaction commits."""
    Dependency.objects.create(job_id=running.id, depends_on_id="00000000-0000-7000-8000-000000000000")


def test_a_batch_whose_commit_fails_is_run_one_by_one_and_the_good_jobs_complete(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: dict[str, Any]) -> None:
        if payload["bad"]:
            break_at_commit(running)

    batching = kind(handler, max_attempts=1, **BATCH)
    submit_many(batching, [{"bad": bad} for bad in (False, True, False)])

    while run(batching, worker):
        pass

    assert statuses() == ["COMPLETED", "FAILED", "COMPLETED"]
    assert Job.objects.get(status="FAILED").error.startswith("IntegrityError")


def test_a_batch_that_the_database_failed_is_not_charged(kind: DeclareKind, worker: WorkerProcess) -> None:
    unlucky = kind(lambda running: end_own_connection(), max_attempts=1, **BATCH)
    job = submit(unlucky)

    run(unlucky, worker)

    assert (again(job).status, again(job).attempt, again(job).ready) == ("CREATED", 1, True)
    assert again(job).attempts.get().outcome == "UNAVAILABLE"


def test_a_batch_that_failed_is_recorded_once_the_database_is_back(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, refusals = recovery.record_crashed_attempts, [OperationalError("the database is away")]

    def recorded_at_the_second_try(*args: Any, **options: Any) -> bool:
        if refusals:
            raise refusals.pop()
        return bool(record(*args, **options))

    monkeypatch.setattr(batches, "record_crashed_attempts", recorded_at_the_second_try)
    unlucky = kind(lambda running: end_own_connection(), max_attempts=1, **BATCH)
    job = submit(unlucky)

    run(unlucky, worker)

    assert again(job).attempts.get().outcome == "UNAVAILABLE"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_errors_that_end_processes_fail_the_bad_job_alone(
    error: BaseException, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: dict[str, Any]) -> None:
        if payload["bad"]:
            raise error

    batching = kind(handler, max_attempts=1, **BATCH)
    submit_many(batching, [{"bad": bad} for bad in (False, True)])

    while run(batching, worker):
        pass

    assert statuses() == ["COMPLETED", "FAILED"]


def test_what_is_about_to_run_is_noted_where_a_rollback_does_not_reach(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> dict[str, int]:
        with threads(1) as call:
            return dict(call(Worker.objects.get, id=worker.row_id).result().in_flight_batch)

    batching = kind(handler, **BATCH)
    job = submit(batching)

    run(batching, worker)
    worker.heartbeat.beat()

    assert again(job).result == {str(job.id): 0}
    assert Worker.objects.get(id=worker.row_id).in_flight_batch == {}


def test_each_job_a_dead_worker_ran_is_counted_an_attempt_and_runs_alone(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    sizes: list[int] = []

    def handler(jobs: list[RunningJob]) -> list[None]:
        sizes.append(len(jobs))
        return [None] * len(jobs)

    batching = kind(handler, takes_batch=True, max_attempts=2, **BATCH)
    jobs = [submit(batching) for _ in range(3)]
    die(make_worker("dead@here"), *jobs)
    jobs.append(submit(batching))

    take_back_from_ended()
    counted = [again(job).attempt for job in jobs]
    survivor = make_worker("survivor@here")
    while run(batching, survivor):
        pass

    assert counted == [1, 1, 1, 0]
    assert [again(job).attempts.count() for job in jobs] == [1, 1, 1, 0]
    assert sizes == [1, 1, 1, 1]


def test_a_claim_after_a_job_that_ran_alone_leaves_the_others_to_other_workers(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    free: list[int] = []

    def handler(job: RunningJob) -> None:
        with threads(1) as call:
            free.append(call(count_unlocked).result(PATIENCE_SECONDS))

    batching = kind(handler, **BATCH)
    jobs = [submit(batching) for _ in range(4)]
    die(make_worker("dead@here"), *jobs)
    take_back_from_ended()
    survivor = make_worker("survivor@here")

    while run(batching, survivor):
        pass

    assert free == [0, 2, 1, 0]
    assert statuses() == ["COMPLETED"] * 4


def test_jobs_that_did_not_cause_a_crash_complete_although_they_have_one_attempt(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    batching = kind(max_attempts=1, **BATCH)
    jobs = [submit(batching) for _ in range(3)]
    die(make_worker("dead@here"), *jobs)

    take_back_from_ended()
    survivor = make_worker("survivor@here")
    while run(batching, survivor):
        pass

    assert [again(job).status for job in jobs] == ["COMPLETED"] * 3


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_job_that_kills_its_worker_each_time_ends_failed(
    max_attempts: int, kind: DeclareKind, make_worker: MakeWorker
) -> None:
    batching = kind(max_attempts=max_attempts, **BATCH)
    job, innocent = submit(batching), submit(batching)

    die(make_worker("first@here"), job, innocent)
    take_back_from_ended()
    for _ in range(max_attempts):
        die(make_worker("next@here"), job)
        take_back_from_ended()

    assert again(job).status == "FAILED"
    assert again(job).error == "Its worker died while it ran."


def test_an_attempt_is_counted_once_the_lock_on_the_job_is_released(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    batching = kind(max_attempts=2, **BATCH)
    job, neighbour = submit(batching), submit(batching)
    die(make_worker("dead@here"), job, neighbour)

    with held_open(lambda: list(Job.objects.select_for_update().filter(id=job.id))):
        take_back_from_ended()
    while_held = [again(each).attempts.count() for each in (job, neighbour)]
    take_back_from_ended()
    take_back_from_ended()

    assert while_held == [0, 1]
    assert [again(each).attempts.count() for each in (job, neighbour)] == [1, 1]
    assert [again(each).runs_alone for each in (job, neighbour)] == [True, True]


def test_jobs_of_a_dead_worker_are_left_out_of_batches_until_they_are_counted(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    batching = kind(**BATCH)
    crashed, innocent = submit(batching), submit(batching)
    die(make_worker("dead@here"), crashed)
    turns.absorb(batching.name)

    with held_open(lambda: claims.lock_ready(batching, worker_id=0)) as locked:
        take_back_from_ended()

    assert [job.id for job in locked.result()] == [innocent.id]
    assert again(crashed).attempts.count() == 1


def test_what_another_process_died_of_while_a_batch_failed_is_left_alone_until_that_is_counted(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    """The batch has released its jobs, and the other process has locked them meanwhile."""
    dead, alive = make_worker("dead@here"), make_worker("alive@here")
    ran: list[str] = []

    def handler(running: RunningJob, payload: dict[str, Any]) -> None:
        ran.append(running.id)
        if payload["bad"]:
            break_at_commit(running)
            with threads(1) as call:
                call(record_in_flight, dead, crashed).result(PATIENCE_SECONDS)

    batching = kind(handler, max_attempts=1, **BATCH)
    crashed, bad = submit(batching, {"bad": False}), submit(batching, {"bad": True})

    run(batching, alive)

    assert (again(crashed).status, again(bad).status) == ("CREATED", "FAILED")
    assert ran.count(str(crashed.id)) == 1
    declare_dead(dead.row_id)
    take_back_from_ended()
    assert again(crashed).attempts.count() == 1


def test_what_a_process_has_just_died_of_is_left_alone_until_that_is_counted(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    batching = kind(**BATCH)
    crashed = [submit(batching), submit(batching)]
    dead, alive = make_worker("dead@here"), make_worker("alive@here")
    with threads(1) as call:
        call(record_in_flight, dead, *crashed).result()

    assert not run(batching, alive)
    innocent = submit(batching)
    assert run(batching, alive)

    assert [again(job).status for job in (*crashed, innocent)] == ["CREATED", "CREATED", "COMPLETED"]
    declare_dead(dead.row_id)
    take_back_from_ended()
    while run(batching, alive):
        pass
    assert statuses() == ["COMPLETED"] * 3


def test_a_job_that_kills_workers_is_stopped_though_other_threads_run_batches(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    batching = kind(max_attempts=3, **BATCH)
    job = submit(batching)

    for _ in range(5):
        die(make_worker("threads@here"), job, submit(batching))
        take_back_from_ended()

    assert again(job).status == "FAILED"


def test_a_batch_under_way_when_its_process_is_declared_dead_is_noted_in_the_new_row(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    batching = kind(**BATCH)
    job = submit(batching)
    record_in_flight(worker, job)

    declare_dead(worker.row_id)
    worker.lease.renewed_at = 0
    worker.heartbeat.beat()

    assert Worker.objects.get(id=worker.row_id).in_flight_batch == {str(job.id): 0}


def test_a_job_whose_batch_went_on_without_it_is_not_charged(kind: DeclareKind, make_worker: MakeWorker) -> None:
    batching = kind(**BATCH)
    done, cancelled, retried = (submit(batching) for _ in range(3))
    dead = make_worker("dead@here")
    record_in_flight(dead, done, cancelled, retried)
    submission.cancel(cancelled.id)
    Job.objects.filter(id=retried.id).update(ready=False)
    run(batching, dead)
    Job.objects.filter(id=retried.id).update(attempt=1, ready=True)

    declare_dead(dead.row_id)
    take_back_from_ended()

    assert [again(job).attempts.count() for job in (done, cancelled, retried)] == [0, 0, 0]


def test_a_handler_that_cancels_another_job_of_its_batch_does_not_complete_it(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> None:
        if running.row.name == "a":
            submission.cancel(children["b"].id)

    step, last = kind(handler, **BATCH), kind()
    parent, children = pipeline(last, step, {"a": [], "b": []})

    run(step, worker)

    assert again(children["b"]).status == "CANCELLED"
    assert again(parent).unfinished_dependencies == 1
    assert again(parent).status == "FAILED"


def test_a_batch_of_children_counts_down_what_waits_for_them(kind: DeclareKind, worker: WorkerProcess) -> None:
    step = kind(**BATCH)
    parent, children = pipeline(step, step, {"a": [], "b": [], "c": ["a", "b"]})

    run(step, worker)
    halfway = (again(children["c"]).ready, again(parent).unfinished_dependencies)
    run(step, worker)
    run(step, worker)

    assert halfway == (True, 1)
    assert again(parent).status == "COMPLETED"


def test_a_transactional_child_that_fails_fails_its_pipeline(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        if running.row.name == "bad":
            raise ValueError("no")

    step = kind(handler, max_attempts=1, **BATCH)
    parent, children = pipeline(step, step, {"good": [], "bad": [], "rest": ["bad"]})

    run(step, worker)

    assert {name: again(child).status for name, child in children.items()} == {
        "good": "COMPLETED", "bad": "FAILED", "rest": "CANCELLED",
    }  # fmt: skip
    assert again(parent).error == "The child 'bad' failed: ValueError: no"


def test_a_failed_job_of_a_batch_waits_out_its_backoff(kind: DeclareKind, worker: WorkerProcess) -> None:
    def fails_once(running: RunningJob) -> None:
        if running.attempt == 1:
            raise ValueError("not yet")

    batching = kind(fails_once, execution="transactional", backoff_seconds=1_000)
    job = submit(batching)
    run(batching, worker)
    ran_meanwhile = run(batching, worker)
    waits = again(job)

    make_due(job)
    tick.make_due_ready()
    run(batching, worker)

    assert (waits.status, waits.ready, ran_meanwhile) == ("CREATED", False, False)
    assert again(job).status == "COMPLETED"
