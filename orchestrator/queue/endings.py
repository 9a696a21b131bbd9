"""How an attempt at a job ends: whether it is charged, whether and when there is another, and who has to know."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass, replace
from datetime import timedelta
from functools import partial
from typing import NamedTuple
from uuid import UUID

from django.db import transaction

from orchestrator.attempt.callbacks import begun_again
from orchestrator.claimed import Claimed
from orchestrator.failpoints import Failpoint
from orchestrator.failures import MAX_ERROR_CHARACTERS, MAX_TRACEBACK_CHARACTERS
from orchestrator.kinds import Kind, known_kind
from orchestrator.models import Attempt, Job
from orchestrator.pg_values import as_text
from orchestrator.queue import after_failure, bell, ends, pipelines, steps, transitions, unblocking
from orchestrator.states import FINAL
from orchestrator.telemetry import attempts

attempt_ending = Failpoint("attempt-ending")
attempt_ended = Failpoint("attempt-ended")

# How many attempts at a job may end because the database was not available, or because their process died while it
# ran others, too, before they count.
MAX_UNAVAILABLE = 10

SNOOZED_TOO_OFTEN = "It has snoozed too often: it has made 1,000,000 attempts."
# Numbers of attempts beyond which a job may not snooze: one that does so for ever ends at last.
MAX_SNOOZED_ATTEMPTS = 1_000_000

NO_DELAY = timedelta(0)


@dataclass(frozen=True)
class Ended:
    """How an attempt ended that did not complete its job.

    outcome: kept as an Attempt; None, for one that was cancelled or snoozes, keeps nothing.
    exception: what ended it, for the log, whose tools read more from it than the traceback.
    retryable: whether another attempt could end better.
    isolate_next_time: its process died while it ran others, too, and any of them may be the cause: it runs alone from
        now on.
    is_one_of_many: its process died while it ran so many that it is hardly to blame.
    runs_alone: it would take its whole batch with it.
    snooze: after how long its handler has asked to run again.
    """

    outcome: Attempt.Outcome | None
    _: KW_ONLY
    error: str = ""
    traceback: str = ""
    exception: BaseException | None = None
    retryable: bool = True
    isolate_next_time: bool = False
    is_one_of_many: bool = False
    runs_alone: bool = False
    snooze: timedelta | None = None

    @property
    def is_free_a_few_times(self) -> bool:
        """Bounded, in case that it is this job which brings the database or its process down."""
        return self.outcome == Attempt.Outcome.UNAVAILABLE or self.isolate_next_time or self.is_one_of_many


class Decision(NamedTuple):
    """What the end of an attempt means for its job, unless it is to be cancelled."""

    charged: bool
    again: bool
    within: timedelta


def decide(ended: Ended, *, number: int, max_attempts: int, free_so_far: int, kind: Kind | None) -> Decision:
    """Whether the attempt is charged, and whether and within what time there is another.

    number: of the attempt. free_so_far: how many earlier ones ended with that outcome, if `is_free_a_few_times`.
    kind: None for one that this process does not know, as during an upgrade.
    """
    if ended.snooze is not None:
        return Decision(charged=False, again=True, within=ended.snooze)
    was_interrupted = ended.outcome == Attempt.Outcome.INTERRUPTED
    is_free = free_so_far < MAX_UNAVAILABLE if ended.is_free_a_few_times else was_interrupted
    again = ended.retryable and number < max_attempts + is_free
    within = longest_delay(kind, number) if kind and again and not was_interrupted else NO_DELAY
    return Decision(charged=not is_free, again=again, within=within)


def longest_delay(kind: Kind, attempt: int) -> timedelta:
    """backoff * 2^(attempt - 1), or the kind's ceiling."""
    seconds = kind.backoff.total_seconds() * 2 ** min(attempt - 1, 30)
    return timedelta(seconds=min(kind.backoff_ceiling.total_seconds(), seconds))


def retry_delay(within: timedelta) -> timedelta:
    """A random time within that span: exponential backoff with full jitter.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return within * random.random()


@begun_again
def end_attempt(
    job: Job | Claimed,
    ended: Ended,
    *,
    worker_name: str | None = None,
    skip_locked: bool = False,
) -> Job | None:
    """Ends an attempt that did not complete the job: back to the queue, FAILED or CANCELLED, as the job's row demands.

    job: as it was claimed. None is returned, and nothing changed, if it has moved on since.
    worker_name: of who ran it, where the claim has not written it.
    skip_locked: do nothing instead of waiting for a process that is about to move it.

    The numbers of attempts only rise. One that the job is not charged for raises the most it may have.
    """
    number = job.attempt + 1 if job.worker_id is None else job.attempt
    if ended.snooze is not None and number >= MAX_SNOOZED_ATTEMPTS:
        ended = replace(ended, snooze=None, outcome=Attempt.Outcome.RAISED, error=SNOOZED_TOO_OFTEN, retryable=False)
    decision = decide(
        ended,
        number=number,
        max_attempts=job.max_attempts,
        free_so_far=_ended_likewise(job, ended) if ended.is_free_a_few_times else 0,
        kind=known_kind(job.kind),
    )
    ending = transitions.Ending(
        number=number,
        max_attempts=job.max_attempts + (not decision.charged),
        error="" if ended.snooze else as_text(ended.error, at_most=MAX_ERROR_CHARACTERS),
        worker_name=job.worker_name if worker_name is None else worker_name,
        runs_alone=ended.isolate_next_time or ended.runs_alone,
    )
    with transaction.atomic():
        delay = retry_delay(decision.within) if ended.snooze is None else ended.snooze
        moved = _move(job, ending, decision, delay, skip_locked=skip_locked)
        if moved is None:
            return None
        _record(job, moved, ended)
        attempt_ending()
        return moved


def _ended_likewise(job: Job | Claimed, ended: Ended) -> int:
    return Attempt.objects.filter(job=job.id, outcome=ended.outcome).count()


def _move(
    job: Job | Claimed, ending: transitions.Ending, decision: Decision, delay: timedelta, *, skip_locked: bool
) -> Job | None:
    if not decision.again:
        return transitions.fail(job, ending, skip_locked=skip_locked)
    if not decision.within:
        return transitions.hand_back(job, ending, skip_locked=skip_locked)
    return transitions.retry_later(job, ending, delay, skip_locked=skip_locked)


def _record(job: Job | Claimed, moved: Job, ended: Ended) -> None:
    """Keeps the attempt, logs it, and notifies the job's pipeline, its next worker, and what its kind declares."""
    started_at = job.claimed_at if isinstance(job, Claimed) else job.started_at
    if ended.outcome:
        Attempt.objects.create(
            job_id=job.id,
            number=moved.attempt,
            outcome=ended.outcome,
            error=as_text(ended.error, at_most=MAX_ERROR_CHARACTERS),
            traceback=as_text(ended.traceback, at_most=MAX_TRACEBACK_CHARACTERS),
            worker_name=moved.worker_name,
            started_at=started_at,
        )
    transaction.on_commit(attempt_ended)
    transaction.on_commit(
        partial(
            attempts.ended,
            moved,
            ended.outcome,
            error=ended.error,
            traceback=ended.traceback,
            exception=ended.exception,
            began_at=(started_at or moved.updated_at) if job.worker_id is None else None,
            started_at=started_at,
        )
    )
    if moved.status in FINAL and moved.parent_id:
        pipelines.child_stopped(moved)
    if moved.ready:
        bell.ring_after_commit(moved.kind)
    unblocking.released_after_commit([job])
    if moved.unwinding:
        transaction.on_commit(partial(pipelines.unwind, moved.id))
    elif ended.snooze is None or moved.status in FINAL:
        after_failure.follow_up(moved, outcome=ended.outcome or "", exception=ended.exception)


def complete(job: Claimed, result: str, *, began_at: int | None = None) -> None:
    """Completes a leased job and counts it down for what waits for it. See `transitions.complete`."""
    transitions.complete(job, result, began_at=began_at)
    count_down([job])
    unblocking.released_after_commit([job])


def wait_for_children(job: Claimed, kind: Kind, count: int, resume_with: str, *, began_at: int | None) -> None:
    """Ends an attempt at a leased job that goes on once so many children have ended, which this transaction adds. The
    attempt is not charged. See `transitions.wait_for_children`.

    resume_with: the name of the function that goes on; empty: the handler.
    """
    if job.attempt >= MAX_SNOOZED_ATTEMPTS:
        raise RuntimeError(f"It has waited for children too often: it has made {MAX_SNOOZED_ATTEMPTS:,} attempts.")
    transitions.wait_for_children(job, count, began_at=began_at)
    if kind.resumes:
        steps.resume_with(job.id, resume_with)
    unblocking.released_after_commit([job])
    if not count:
        bell.ring_after_commit(job.kind)


def complete_together(jobs: Sequence[Claimed], results: Sequence[str]) -> set[UUID]:
    """Completes leased jobs whose handlers used no transaction, and counts them down, in a transaction of their own.
    Returns the ids of those that were as their claims had left them.
    """
    with transaction.atomic() if ends.are_watched(jobs) else nullcontext():
        completed, counted = transitions.complete_together(jobs, results)
        pipelines.counted_down(counted)
        unblocking.released_after_commit(jobs)
    return completed


def hand_back_unstarted(jobs: Sequence[Claimed]) -> None:
    """Returns jobs of one claim to the queue that were not started and never will be. See the verb of that name.

    One that is to be cancelled is cancelled.
    """
    handed_back = transitions.hand_back_unstarted(jobs)
    if handed_back:
        bell.ring_after_commit(jobs[0].kind)
    unblocking.released_after_commit(jobs)
    for job in jobs:
        if job.id not in handed_back:
            end_attempt(job, Ended(None))


def count_down(jobs: Sequence[Claimed]) -> None:
    """Counts completed jobs down for what waits for them. Only children are waited for."""
    if children := [job.id for job in jobs if job.parent_id]:
        pipelines.count_down(children)
