"""Batches of transactional jobs: claimed, run and completed in one transaction.

Its row locks are the lease: when the worker dies they are gone, and so is all that was written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from django.db import connection, transaction

from orchestrator.attempt import process_state, session
from orchestrator.attempt.timeouts import InFlightBatch
from orchestrator.claimed import Claimed
from orchestrator.database_errors import DATABASE_ERRORS
from orchestrator.failpoints import Failpoint
from orchestrator.failures import error_of
from orchestrator.ids import texts_of
from orchestrator.kinds import Kind
from orchestrator.queue import bell, claims, endings, transitions, turns, unblocking
from orchestrator.queue.costs import batch_ran
from orchestrator.queue.recovery import record_crashed_attempts
from orchestrator.running import RunningJob
from orchestrator.telemetry import attempts
from orchestrator.worker.calling import cause_of, ended_by, fail, result_of, results_of_batch
from orchestrator.worker.process import WorkerProcess

logger = logging.getLogger(__name__)

# How long a process keeps trying to record that a batch failed, while the database is away or others lock its jobs.
RECORD_SECONDS = 60

# Where a function takes a batch and fails, it is called with parts of it first, then with single jobs of those that
# fail: a bad job among 500 means 45 calls.
PART = 25
# Jobs that failed together, and how.
Failed = tuple[Sequence[Claimed], BaseException]

batch_claimed = Failpoint("batch-claimed")
batch_handled = Failpoint("batch-handled")
batch_completing = Failpoint("batch-completing")
batch_completed = Failpoint("batch-completed")


class SessionChanged(Exception):
    """A job of a batch has changed the database session that all of them share."""

    def __init__(self) -> None:
        super().__init__("one of them changes its database session, as SET and advisory locks do")


def run_batch(kind: Kind, process: WorkerProcess) -> int:
    """Claims, runs and completes a batch of jobs; returns how many were ready, at most its size."""
    worker_id = process.row_id
    batch = _Batch(kind, process)
    # Where one runs alone, so does the next, most likely: a whole batch would be claimed for each.
    claimed = replace(kind, batch_size=1) if kind.name in process.in_flight.alone else kind
    turns.absorb(kind.name)
    try:
        batch.run(lambda: claims.lock_ready(claimed, worker_id=worker_id), rings=True)
    # The transaction itself failed, so no attempt was recorded.
    except BaseException as error:
        session.clean()
        if len(batch.attempts) == 1:
            _record_attempts(batch, error)
        elif batch.attempts:
            logger.warning(
                "A batch of %d jobs of kind %s failed as a whole, so each runs in a transaction of its own: %s",
                len(batch.attempts), kind.name, error_of(cause_of(error)),
            )  # fmt: skip
            _run_each_alone(batch)
    finally:
        batch.forget()
    return batch.ready


class _Batch:
    """The jobs of one transaction, and what is known of them when it has failed."""

    def __init__(self, kind: Kind, process: WorkerProcess) -> None:
        self.kind, self.process = kind, process
        self.ready = 0
        self.in_flight: InFlightBatch | None = None

    @property
    def attempts(self) -> dict[str, int]:
        """How many attempts each job had before this one, by its id."""
        return self.in_flight.attempts if self.in_flight else {}

    def run(self, lock: Callable[[], list[Claimed]], *, rings: bool = False) -> None:
        """Runs and completes the jobs that `lock` returns. rings: for another worker, if there may be more jobs."""
        began_at = time.monotonic()
        with transaction.atomic():
            jobs = lock()
            was_alone = self.process.in_flight.runs_alone(self.kind.name, bool(jobs) and jobs[0].runs_alone)
            if not jobs:
                return
            # A job that runs alone, or after one, was the only one taken of those that are ready.
            self.ready = self.kind.batch_size if jobs[0].runs_alone or was_alone else len(jobs)
            self._record_in_flight(jobs)
            batch_claimed()
            if rings and self.ready == self.kind.batch_size:
                bell.ring(self.kind.name)
            with process_state.restored(alone=self.process.slots.count == 1):
                done = run_locked(self.kind, jobs, self.process)
            batch_completing()
        batch_completed()
        batch_ran(self.kind.name, jobs, time.monotonic() - began_at)
        _after_commit(done, self.process)

    def _record_in_flight(self, jobs: Sequence[Claimed]) -> None:
        ids = texts_of([job.id for job in jobs])
        attempts_so_far = dict(zip(ids, (job.attempt for job in jobs), strict=True))
        self.in_flight = InFlightBatch(self.kind, attempts_so_far, connection.connection.info.backend_pid)
        self.process.in_flight.record_in_flight(self.in_flight)

    def forget(self) -> None:
        """The jobs do not run any more."""
        if self.in_flight:
            self.process.in_flight.forget(self.in_flight)
            attempts.rolled_back(self.attempts)


class Done(NamedTuple):
    """Jobs that were run and completed together: each with its result as JSON, and their hooks with whose they are."""

    jobs: list[tuple[RunningJob, str]]
    hooks: list[tuple[str, Sequence[session.Hook]]]


def run_locked(kind: Kind, jobs: Sequence[Claimed], process: WorkerProcess) -> list[Done]:
    """Runs jobs that this transaction has locked: all together or, if that fails, one by one, so that a bad job fails
    alone. Then counts the completed ones down, in one statement, which locks what waits for them in the order of ids.
    """
    done, failed = _complete_each([jobs], kind, process)
    for size in (PART, 1) if kind.takes_batch else (1,):
        divided = [each for each in failed if len(each[0]) > size]
        failed = [each for each in failed if len(each[0]) <= size]
        more, failed_again = _complete_each(_parts(divided, size), kind, process)
        done += more
        failed += failed_again
    completed = [running.row for each in done for running, _ in each.jobs]
    endings.count_down(completed)
    unblocking.let_others_go(completed)
    for [job], failure in failed:
        fail(job, kind, failure, worker_name=process.name)
    return done


def _parts(failed: Iterable[Failed], size: int) -> Iterator[Sequence[Claimed]]:
    """Groups that failed as a whole, in parts of that size."""
    for group, failure in failed:
        logger.info(
            "A batch of %d jobs of kind %s runs %s: %s",
            len(group), group[0].kind, "one by one" if size == 1 else "in parts", error_of(cause_of(failure)),
        )  # fmt: skip
        for first in range(0, len(group), size):
            yield group[first : first + size]


def _complete_each(
    groups: Iterable[Sequence[Claimed]], kind: Kind, process: WorkerProcess
) -> tuple[list[Done], list[Failed]]:
    """Completes each group as a whole. Returns those completed, and the others with their failures."""
    done: list[Done] = []
    failed: list[Failed] = []
    for group in groups:
        running = [RunningJob(job, kind) for job in group]
        try:
            done.append(_complete_together(running, kind, process.name))
        except BaseException as error:
            if len(running) == 1:  # Otherwise each runs once more, and logs it all again.
                process.logs.ended(*running)
            if connection.closed_in_transaction or connection.needs_rollback:
                raise  # The whole transaction is lost.
            claims.clean_within_batch()
            failed.append((group, error))
    return done, failed


def _complete_together(running: list[RunningJob], kind: Kind, worker_name: str) -> Done:
    jobs = [each.row for each in running]
    with transaction.atomic():
        with session.Lent() as lent:
            results, hook_ends = _results(kind, running, lent)
        if lent.changed_session and len(jobs) > 1 and not kind.takes_batch:
            raise SessionChanged
        batch_handled()
        transitions.complete_locked(jobs, results, worker_name=worker_name)
    hooks = _hooks_by_owner(kind, jobs, lent.hooks, hook_ends) if lent.hooks else []
    return Done(list(zip(running, results, strict=True)), hooks)


def _results(kind: Kind, running: list[RunningJob], lent: session.Lent) -> tuple[list[str], list[int]]:
    """The results as JSON and, where each job has a call of its own, where its hooks end among those of all."""
    if kind.takes_batch:
        with attempts.called(running):
            return results_of_batch(kind, running), []
    results: list[str] = []
    hook_ends: list[int] = []
    for job in running:
        with attempts.called([job]):
            results.append(result_of(job))
        lent.check()  # The next job's writes would be kept, whatever becomes of it.
        hook_ends.append(lent.hooks_so_far)
    return results, hook_ends


def _hooks_by_owner(
    kind: Kind, jobs: Sequence[Claimed], hooks: Sequence[session.Hook], hook_ends: Sequence[int]
) -> list[tuple[str, Sequence[session.Hook]]]:
    if kind.takes_batch:
        return [(f"{kind.name}, in a batch of {len(jobs)} with {jobs[0].id},", hooks)]
    return [(str(job), hooks[start:end]) for job, (start, end) in zip(jobs, pairwise([0, *hook_ends]), strict=True)]


def _after_commit(done: Sequence[Done], process: WorkerProcess) -> None:
    process.logs.ended(*(job for each in done for job, _ in each.jobs))
    attempts.batch_completed([job for each in done for job in each.jobs])
    for each in done:
        for whose, hooks in each.hooks:
            session.run_hooks(hooks, whose)


def _run_each_alone(batch: _Batch) -> None:
    """Runs the jobs of a batch that failed as a whole each in a transaction of its own.

    So one that fails the commit, or breaks the connection, fails alone, and costs the others no attempt.
    """
    batch.forget()
    for id, attempt in batch.attempts.items():
        if not _repeat_until_true(_reconnect, batch.process):
            logger.error(
                "%d jobs of kind %s wait for the database; no attempt was charged.",
                len(batch.attempts), batch.kind.name,
            )  # fmt: skip
            return
        run_alone(batch.kind, batch.process, id, attempt)


def run_alone(kind: Kind, process: WorkerProcess, id: str, attempt: int) -> bool:
    """Runs a job in a transaction of its own, if it is still as it was found after so many attempts; whether it is."""
    alone = _Batch(kind, process)
    try:
        alone.run(partial(claims.lock_one, kind, id, attempt, worker_id=process.row_id))
    except BaseException as error:
        session.clean()
        _record_attempts(alone, error, runs_alone=True)
    finally:
        alone.forget()
    return alone.ready > 0


def _record_attempts(batch: _Batch, error: BaseException, *, runs_alone: bool = False) -> None:
    """Records the attempt of a job that failed its transaction, as soon as the database is there.

    If it were forgotten, a job that brings the database down could do so for ever.
    """
    ended = ended_by(batch.kind, error, runs_alone=runs_alone)
    record = partial(record_crashed_attempts, batch.attempts, ended, worker_name=batch.process.name)
    if not _repeat_until_true(record, batch.process):
        logger.error("The failure of %s was not recorded: %s", ", ".join(batch.attempts), ended.error)


def _reconnect() -> bool:
    connection.ensure_connection()
    return True


def _repeat_until_true(step: Callable[[], bool], process: WorkerProcess) -> bool:
    """Tries once a second, for RECORD_SECONDS at most and not while the process ends; returns whether it succeeded."""
    gives_up_at = time.monotonic() + RECORD_SECONDS
    while time.monotonic() < gives_up_at and not process.process_end.begun.is_set():
        try:
            if step():
                return True
        except DATABASE_ERRORS:
            session.discard()
        if process.draining.wait(1):
            break
    return False
