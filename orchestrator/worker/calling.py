"""Calls a kind's handler, and says what its failure is recorded as."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial

from django.conf import settings

from orchestrator.attempt.callbacks import TransactionLost
from orchestrator.attempt.process_state import Raised, shielded
from orchestrator.claimed import Claimed
from orchestrator.database_errors import is_database_fault
from orchestrator.failures import error_of, is_one_of, traceback_of
from orchestrator.job_log import logged_for
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job
from orchestrator.pg_values import as_json_each
from orchestrator.queue import endings
from orchestrator.queue.endings import Ended
from orchestrator.queue.recovery import SHUT_DOWN
from orchestrator.running import BaseRunningJob, RunningJob
from orchestrator.stops import Cancelled, Interrupted, LeaseLost, RowMoved, Snooze, TimedOut

logger = logging.getLogger(__name__)


class OwnRowChanged(Exception):
    """A handler wrote where only the worker does."""

    def __init__(self) -> None:
        super().__init__(
            "The handler deleted or changed the row of its own job, which only its worker may write. Its work was "
            "rolled back."
        )


def result_of(running: RunningJob) -> str:
    """Runs the handler and returns its result as JSON; raises Raised with whatever it raised."""
    return shielded(partial(_call, running))


def results_of_batch(kind: Kind, running: Sequence[RunningJob]) -> list[str]:
    """Runs the handler of a kind that takes batches and returns the results as JSON; raises as `result_of` does."""
    return shielded(partial(_call_with_batch, kind, running))


def _call(running: RunningJob) -> str:
    logged_for.set(running)  # In a context of its own, see `shielded`.
    began_at = time.monotonic()
    if running.kind.resumes and running.attempt > 1:
        running.function = running.spawning.function()
    result = running.kind.called(running.function, running)
    running.runtime_seconds = time.monotonic() - began_at
    return running.returned(result)


def _call_with_batch(kind: Kind, running: Sequence[RunningJob]) -> list[str]:
    # What a call for several jobs logs otherwise than by their own logs is nobody's in particular.
    logged_for.set(running[0] if len(running) == 1 else None)
    began_at = time.monotonic()
    results = kind.handler(running)
    for job in running:
        job.runtime_seconds = time.monotonic() - began_at
    if len(results) != len(running):
        raise ValueError(f"{kind.name} was given {len(running)} jobs and returned {len(results)} results.")
    return as_json_each(results, at_most=settings.ENV.MAX_RESULT_BYTES)


def end(running: BaseRunningJob, error: BaseException) -> None:
    """Ends an attempt that did not complete its leased job, by what ended its transaction."""
    job, kind = running.row, running.kind
    if isinstance(error, Cancelled):
        endings.end_attempt(job, Ended(None))
    elif isinstance(error, Interrupted):
        endings.end_attempt(job, Ended(Attempt.Outcome.INTERRUPTED, error=SHUT_DOWN))
    elif isinstance(error, TimedOut):
        endings.end_attempt(job, Ended(Attempt.Outcome.TIMED_OUT, error=f"It took longer than {kind.timeout}."))
    elif isinstance(error, LeaseLost):
        # The handler's transaction is rolled back. If the row is as the claim left it now, the handler had changed it.
        changed_itself = isinstance(error, RowMoved) and running.stop_reason is not LeaseLost
        if not (changed_itself and fail(job, kind, OwnRowChanged())):
            logger.warning(
                "%s no longer belongs to this worker; the work of attempt %d is discarded.", job, job.attempt
            )
    else:
        fail(job, kind, error)


def fail(job: Claimed, kind: Kind, failure: BaseException, *, worker_name: str | None = None) -> Job | None:
    """Ends the attempt with its failure. Returns as `endings.end_attempt` does.

    Raises the failure if what the kind declares for it has lost the transaction of a batch.
    """
    try:
        return endings.end_attempt(job, ended_by(kind, failure), worker_name=worker_name)
    except TransactionLost:
        raise failure from None


def ended_by(kind: Kind, failure: BaseException, *, runs_alone: bool = False) -> Ended:
    """The failure as it is recorded."""
    error = cause_of(failure)
    if is_one_of(error, (Snooze,)):
        return Ended(None, error=error_of(error), snooze=error.delay, runs_alone=runs_alone)  # type: ignore[attr-defined]
    return Ended(
        _outcome(failure),
        error=error_of(error),
        traceback=traceback_of(error),
        exception=error,
        retryable=not is_one_of(error, kind.no_retry),
        runs_alone=runs_alone,
    )


def cause_of(failure: BaseException) -> BaseException:
    """The exception that is shown for a failure: what the handler raised, if it raised."""
    if isinstance(failure, Raised):
        return failure.error
    return OwnRowChanged() if isinstance(failure, RowMoved) else failure


def _outcome(failure: BaseException) -> Attempt.Outcome:
    if isinstance(failure, Raised) and failure.is_from_another_database:
        return Attempt.Outcome.RAISED
    return Attempt.Outcome.UNAVAILABLE if is_database_fault(cause_of(failure)) else Attempt.Outcome.RAISED
