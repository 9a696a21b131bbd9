"""Races for a job: claims against claims, cancellations, lost leases and late ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import transaction
from django.db.models.functions import Now

from orchestrator import submission
from orchestrator.claimed import Claimed
from orchestrator.models import Job, Worker
from orchestrator.queue import claims, transitions, turns
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.stops import LeaseLost
from orchestrator.submission import NotCancellable, NotRetryable, TooManyUnfinished, submit, submit_many
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.concurrency import at_once, held_open, waiting
from tests.orchestrator.workbench import (
    LONG_OVERDUE,
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    claim,
    complete,
    fail,
    lease,
    run,
    write,
    written,
)

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_second_claimer_takes_the_next_job_without_waiting(kind: DeclareKind, make_worker: MakeWorker) -> None:
    waits = kind()
    first, second = submit(waits), submit(waits)
    one, two = make_worker("one@here"), make_worker("two@here")
    turns.absorb(waits.name)

    with held_open(lambda: lease(waits, one)) as claimed:
        taken = claim(waits, two)
        left = claim(waits, two)

    assert taken is not None
    assert (claimed.result().id, taken.id, left) == (first.id, second.id, None)


def test_a_batch_leaves_out_what_another_is_running(kind: DeclareKind, make_worker: MakeWorker) -> None:
    batching = kind(execution="transactional", batch_size=2)
    ids = submit_many(batching, [{}] * 3)
    turns.absorb(batching.name)

    with held_open(lambda: claims.lock_ready(batching, worker_id=0)) as locked:
        run(batching, make_worker())

    assert [job.id for job in locked.result()] == ids[:2]
    assert [Job.objects.get(id=id).status for id in ids] == ["CREATED", "CREATED", "COMPLETED"]


def test_a_job_that_is_written_while_it_is_claimed_is_left_and_told_of(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waits = kind()
    job = submit(waits)
    turns.absorb(waits.name)

    def try_to_claim() -> transitions.Claim:
        return transitions.claim(waits, worker_id=worker.row_id, worker_name="w")

    # The statement has begun, and so sees the job as it is now, when it waits for the worker's row.
    with held_open(lambda: Worker.objects.select_for_update().get(id=worker.row_id)):
        claiming = waiting(try_to_claim)
        Job.objects.filter(id=job.id).update(priority=1)
    missed = claiming.result(PATIENCE_SECONDS)

    assert missed == transitions.Claim([], has_more=True)
    assert [each.id for each in try_to_claim().jobs] == [job.id]


def test_many_claimers_never_claim_the_same_job(kind: DeclareKind, make_worker: MakeWorker) -> None:
    waits = kind()
    ids = submit_many(waits, [{}] * 60)
    workers = [make_worker(f"{n}@here") for n in range(6)]

    def claim_all(worker: WorkerProcess) -> list[Claimed]:
        return list(iter(lambda: claim(waits, worker), None))

    claimed = at_once(*(lambda worker=worker: claim_all(worker) for worker in workers))

    assert sorted(job.id for jobs in claimed for job in jobs) == ids
    assert set(Job.objects.values_list("attempt", flat=True)) == {1}


def test_cancelling_while_a_claim_commits_asks_the_running_job(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    job = submit(waits)

    with held_open(lambda: lease(waits, worker)):
        cancelling = waiting(lambda: submission.cancel(job.id))

    answered = cancelling.result(PATIENCE_SECONDS)
    assert (answered.status, answered.worker_id) == ("RUNNING", worker.row_id)
    assert answered.cancel_requested_at is not None


def test_a_claim_while_a_cancellation_commits_finds_nothing(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    job = submit(waits)

    with held_open(lambda: submission.cancel(job.id)):
        claimed = claim(waits, worker)

    assert claimed is None
    assert (again(job).status, again(job).attempt) == ("CANCELLED", 0)


def test_cancel_is_refused_when_the_batch_commits_first(kind: DeclareKind, worker: WorkerProcess) -> None:
    batching = kind(execution="transactional")
    job = submit(batching)

    with held_open(lambda: run(batching, worker)):
        cancelling = waiting(lambda: submission.cancel(job.id))

    with pytest.raises(NotCancellable):
        cancelling.result(PATIENCE_SECONDS)
    assert again(job).status == "COMPLETED"


def test_cancel_is_refused_when_the_job_completes_first(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    job = submit(waits)
    held = lease(waits, worker)

    with held_open(lambda: complete(held)):
        cancelling = waiting(lambda: submission.cancel(job.id))

    with pytest.raises(NotCancellable):
        cancelling.result(PATIENCE_SECONDS)
    assert again(job).status == "COMPLETED"


def test_a_job_that_completes_while_its_cancellation_commits_has_completed(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waits = kind()
    job = submit(waits)
    held = lease(waits, worker)

    with held_open(lambda: submission.cancel(job.id)):
        completing = waiting(lambda: complete(held, "done"))

    completing.result(PATIENCE_SECONDS)
    assert (again(job).status, again(job).result) == ("COMPLETED", "done")


def test_an_attempt_that_fails_while_it_is_cancelled_ends_cancelled(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind(max_attempts=5)
    job = submit(waits)
    held = lease(waits, worker)

    with held_open(lambda: submission.cancel(job.id)):
        failing = waiting(lambda: fail(held, retryable=True))

    assert failing.result(PATIENCE_SECONDS).status == "CANCELLED"
    assert again(job).error == ""


def test_a_completion_is_refused_with_all_it_wrote_when_the_job_is_taken_back_first(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waits = kind(backoff_seconds=0)
    job = submit(waits)
    held = lease(waits, worker)
    declare_dead(worker.row_id)

    def write_and_complete() -> None:
        with transaction.atomic():
            write("too late")
            transitions.complete(held, "null")

    with held_open(take_back_from_ended):
        completing = waiting(write_and_complete)

    with pytest.raises(LeaseLost):
        completing.result(PATIENCE_SECONDS)
    assert (again(job).status, again(job).attempts.get().outcome) == ("CREATED", "LOST")
    assert written() == set()


def test_a_completion_is_refused_when_the_tick_ends_the_attempt_first(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waits = kind(backoff_seconds=0)
    job = submit(waits)
    held = lease(waits, worker)
    Job.objects.update(deadline_at=Now() - LONG_OVERDUE)

    with held_open(tick.end_overdue_attempts):
        completing = waiting(lambda: complete(held))

    with pytest.raises(LeaseLost):
        completing.result(PATIENCE_SECONDS)
    assert (again(job).status, again(job).attempts.get().outcome) == ("CREATED", "TIMED_OUT")


@pytest.mark.parametrize("take_back", [take_back_from_ended, tick.end_overdue_attempts])
def test_a_job_that_is_just_completing_is_not_taken_back(
    take_back: Callable[[], None], kind: DeclareKind, worker: WorkerProcess
) -> None:
    waits = kind()
    job = submit(waits)
    held = lease(waits, worker)
    Job.objects.update(deadline_at=Now() - LONG_OVERDUE)
    declare_dead(worker.row_id)

    with held_open(lambda: complete(held)):
        take_back()

    assert again(job).status == "COMPLETED"
    assert not again(job).attempts.exists()


def test_a_process_is_not_declared_dead_while_its_claim_commits(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    job = submit(waits)

    with held_open(lambda: lease(waits, worker)):
        declare_dead(worker.row_id)

    assert Worker.objects.get(id=worker.row_id).ended_at is None
    assert again(job).worker_id == worker.row_id


def test_a_claim_is_refused_while_its_process_is_declared_dead(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    job = submit(waits)

    with held_open(lambda: declare_dead(worker.row_id)):
        claiming = waiting(lambda: claim(waits, worker))

    assert claiming.result(PATIENCE_SECONDS) is None
    assert (again(job).status, again(job).worker_id) == ("CREATED", None)


def test_of_two_who_retry_one_is_refused(kind: DeclareKind) -> None:
    job = submit(kind())
    submission.cancel(job.id)

    with held_open(lambda: submission.retry(job.id)):
        second = waiting(lambda: submission.retry(job.id))

    with pytest.raises(NotRetryable):
        second.result(PATIENCE_SECONDS)
    assert again(job).status == "CREATED"


def test_cancelling_while_a_retry_commits_cancels_the_new_attempt(kind: DeclareKind) -> None:
    job = submit(kind())
    submission.cancel(job.id)

    with held_open(lambda: submission.retry(job.id)):
        cancelling = waiting(lambda: submission.cancel(job.id))

    assert cancelling.result(PATIENCE_SECONDS).status == "CANCELLED"
    assert not again(job).ready


def test_a_retry_that_waits_for_a_cancellation_prevails(kind: DeclareKind) -> None:
    job = submit(kind())

    with held_open(lambda: submission.cancel(job.id)):
        retrying = waiting(lambda: submission.retry(job.id))

    assert retrying.result(PATIENCE_SECONDS).status == "CREATED"
    assert (again(job).ready, again(job).cancel_requested_at) == (True, None)


def test_a_due_job_that_is_just_cancelled_is_not_made_ready(kind: DeclareKind) -> None:
    job = submit(kind())
    Job.objects.update(ready=False)

    with held_open(lambda: submission.cancel(job.id)):
        tick.make_due_ready()

    assert (again(job).status, again(job).ready) == ("CANCELLED", False)


def test_a_submission_waits_for_the_one_that_might_fill_the_cap(kind: DeclareKind) -> None:
    capped = kind(max_unfinished_per_owner=1)

    with held_open(lambda: submit(capped, owner="ada")):
        other = submit(capped, owner="bob")
        second = waiting(lambda: submit(capped, owner="ada"))

    with pytest.raises(TooManyUnfinished):
        second.result(PATIENCE_SECONDS)
    assert other.owner == "bob"


def test_thirty_two_submissions_at_once_fill_the_cap_exactly(kind: DeclareKind) -> None:
    capped = kind(max_unfinished_per_owner=3)

    answers = at_once(*[lambda: submit(capped, owner="ada")] * 32)

    assert sum(isinstance(answer, Job) for answer in answers) == 3
    assert sum(isinstance(answer, TooManyUnfinished) for answer in answers) == 29
    assert Job.objects.count() == 3
