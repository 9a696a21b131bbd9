"""What a worker does when a bell wakes it: claim jobs of that kind, run them, finish them."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from orchestrator import bell, moves
from orchestrator.failpoints import Failpoint
from orchestrator.faults import DATABASE_ERRORS, is_database_fault
from orchestrator.kinds import Kind
from orchestrator.models import Attempt
from orchestrator.running import Cancelled, Claimed, Interrupted, LeaseLost, RunningJob, TimedOut
from orchestrator.workers import WorkerProcess, blame, current_process

logger = logging.getLogger(__name__)

# How long a bell waits for a process that has just started, or was given up, to have a row.
REGISTRATION_SECONDS = 5
# How long a process that has caught up lets work gather before it looks again: jobs that come one by one share a
# transaction then, which costs a third. A job that comes alone does not wait.
GATHER_SECONDS = 0.02
# How long a process goes on trying to record that a batch failed, while the database is away or others hold its jobs.
BLAME_SECONDS = 60

lease_claimed = Failpoint("lease-claimed")
lease_handled = Failpoint("lease-handled")
lease_completing = Failpoint("lease-completing")
lease_completed = Failpoint("lease-completed")
batch_claimed = Failpoint("batch-claimed")
batch_handled = Failpoint("batch-handled")
batch_completing = Failpoint("batch-completing")
batch_completed = Failpoint("batch-completed")


def answer_bell(kind: Kind, *, celery_task_id: str) -> None:
    """Runs ready jobs of the kind, as soon as this process has a slot free."""
    bell.mark_answered(kind.name)
    process = current_process()
    if process is None or not process.registered.wait(REGISTRATION_SECONDS):
        logger.warning("No worker row, so nothing is claimed; the tick rings again for %s.", kind.name)
        return
    with process.slots:
        run_ready(kind, process, celery_task_id=celery_task_id)


def run_ready(kind: Kind, process: WorkerProcess, *, celery_task_id: str) -> None:
    """Runs ready jobs of the kind until none is left, or until the time slice is spent; then rings for the rest."""
    run_next = run_batch if kind.execution == "transactional" else run_leased
    slice_ends = time.monotonic() + settings.ENV.TIME_SLICE_SECONDS
    while not process.draining.is_set() and (ran := run_next(kind, process, celery_task_id)):
        if time.monotonic() >= slice_ends:
            ring_if_more(kind)
            return
        if ran < kind.batch_size:
            process.draining.wait(GATHER_SECONDS)


def ring_if_more(kind: Kind) -> None:
    """Wakes the next worker while jobs are waiting: so one bell reaches every free worker."""
    if moves.has_ready(kind):
        bell.ring(kind)


def run_leased(kind: Kind, process: WorkerProcess, celery_task_id: str) -> int:
    """Claims and runs one job; answers how many were ready, 1 or 0."""
    assert process.row_id is not None
    job = moves.lease_next(kind, worker_id=process.row_id, worker_name=process.name, celery_task_id=celery_task_id)
    if job is None:
        return 0
    lease_claimed()
    running = RunningJob(job, kind)
    process.take(running)
    try:
        ring_if_more(kind)
        _attempt(running)
    finally:
        process.drop(running)
    return 1


def _attempt(running: RunningJob) -> None:
    """Runs the handler once and finishes the job, or ends the attempt; what it wrote is kept only with the former."""
    job, kind = running.row, running.kind
    try:
        with running.own_transaction():
            try:
                result = _call(kind, running)
                lease_handled()
                running.keep_progress()
                moves.complete(job, result)
                lease_completing()
            except Cancelled:
                if kind.on_cancel == "rollback" or not running.is_cancelled:
                    raise
                if moves.end_attempt(job, None) is None:
                    raise LeaseLost from None
        lease_completed()
    except Cancelled as error:
        if running.is_cancelled:
            moves.end_attempt(job, None)
        else:  # The handler raised it of its own accord.
            _fail(job, kind, error)
    except Interrupted:
        moves.end_attempt(job, Attempt.Outcome.INTERRUPTED, error="The worker was told to stop.")
    except TimedOut:
        moves.end_attempt(job, Attempt.Outcome.TIMED_OUT, error=f"It took longer than {kind.timeout}.")
    except LeaseLost:
        logger.warning("%s is not this worker's any more; what attempt %d did is discarded.", job, job.attempt)
    # Whatever a handler raises is data about the attempt. A MemoryError or SystemExit that reached Celery would end
    # the worker, and take other jobs with it.
    except BaseException as error:
        _fail(job, kind, error)


def run_batch(kind: Kind, process: WorkerProcess, celery_task_id: str) -> int:
    """Claims, runs and completes a batch of jobs in one transaction; answers how many were ready, at most its size.

    The row locks are the lease: when the worker dies they are gone, and so is all that was written.
    """
    assert process.row_id is not None
    trying: dict[str, int] = {}
    ready = 0
    try:
        with transaction.atomic():
            jobs = moves.lock_ready(kind, worker_id=process.row_id)
            if not jobs:
                return 0
            # Whatever waits behind a job that runs alone was left where it was.
            ready = kind.batch_size if jobs[0].runs_alone else len(jobs)
            trying = {str(job.id): job.attempt for job in jobs}
            process.note_trying(trying)
            batch_claimed()
            if ready == kind.batch_size:
                bell.ring(kind)
            _run_locked(kind, jobs, process.name, celery_task_id)
            batch_completing()
        batch_completed()
    # The transaction itself failed, so no attempt was recorded: it counts as if the worker had died of it.
    except BaseException as error:
        logger.exception("A batch of %d jobs of kind %s failed as a whole.", len(trying), kind.name)
        _blame(trying, error, process)
    finally:
        process.forget_trying(trying)
    return ready


def _blame(trying: Mapping[str, int], error: BaseException, process: WorkerProcess) -> None:
    """Records the attempts of a batch that failed as a whole, as soon as the database takes it.

    If it were forgotten, a job that brings the database down could do so for ever.
    """
    gives_up_at = time.monotonic() + BLAME_SECONDS
    while time.monotonic() < gives_up_at:
        try:
            if blame(trying, _outcome(error), _sentence(error), traceback=_as_text(error), worker_name=process.name):
                return
        except DATABASE_ERRORS:
            connection.close()
        if process.draining.wait(1):
            break
    logger.error("It was not recorded that %d jobs failed.", len(trying))


def _run_locked(kind: Kind, jobs: Sequence[Claimed], worker_name: str, celery_task_id: str) -> None:
    """Runs the batch at once. If that raises, it is rolled back and run one by one, so that a bad job fails alone.

    What waits for the jobs is locked after all of them have run, once, in the order of ids.
    """
    completed: list[Claimed] = []
    failed: list[tuple[Claimed, Exception]] = []
    groups: list[Sequence[Claimed]] = [jobs]
    for group in groups:
        try:
            _complete_together(kind, group, worker_name, celery_task_id)
            completed += group
        except Exception as error:
            if len(group) == 1:
                failed.append((group[0], error))
            else:
                logger.info("A batch of %d jobs of kind %s runs one by one: %s", len(group), kind.name, error)
                groups += [[job] for job in group]
    moves.count_down(completed)
    for job, reason in failed:
        _fail(job, kind, reason, worker_name=worker_name)


def _complete_together(kind: Kind, jobs: Sequence[Claimed], worker_name: str, celery_task_id: str) -> None:
    with transaction.atomic():
        running = [RunningJob(job, kind) for job in jobs]
        if kind.takes_batch:
            results = kind.handler(running)
            if len(results) != len(jobs):
                raise ValueError(f"{kind.name} was given {len(jobs)} jobs and returned {len(results)} results.")
        else:
            results = [_call(kind, job) for job in running]
        batch_handled()
        moves.complete_locked(jobs, results, worker_name=worker_name, celery_task_id=celery_task_id)


def _call(kind: Kind, running: RunningJob) -> Any:
    """A handler may take the payload as its second argument, or the job alone."""
    return kind.handler(running, running.payload) if kind.takes_payload else kind.handler(running)


def _fail(job: Claimed, kind: Kind, error: BaseException, *, worker_name: str | None = None) -> None:
    moves.end_attempt(
        job,
        _outcome(error),
        error=_sentence(error),
        traceback=_as_text(error),
        mendable=not isinstance(error, kind.no_retry),
        worker_name=worker_name,
    )


def _outcome(error: BaseException) -> Attempt.Outcome:
    return Attempt.Outcome.UNAVAILABLE if is_database_fault(error) else Attempt.Outcome.RAISED


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _as_text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
