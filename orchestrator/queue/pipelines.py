"""Pipelines: jobs that wait for other jobs, and what their end means for one another.

A job's `unfinished_dependencies` is at all times the number of jobs it waits for that have not completed.
Ids rise from a dependency to its dependents to the parent, and every transaction here that waits for row locks takes
them in that order, so none can wait for another in a circle.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now

from orchestrator.attempt.callbacks import begun_again
from orchestrator.failpoints import Failpoint
from orchestrator.failures import MAX_ERROR_CHARACTERS
from orchestrator.kinds import all_kinds
from orchestrator.models import Job
from orchestrator.queue import after_failure, bell, transitions
from orchestrator.states import UNFINISHED, Status
from orchestrator.telemetry import attempts

counting_down = Failpoint("counting-down")
child_stopping = Failpoint("child-stopping")
unwinding = Failpoint("unwinding")

# Of the unstarted children of a pipeline, those whose cancellation Flower is told of. It could not follow thousands.
MAX_REPORTED = 100
# Children whose `on_failure` one transaction calls, and how long whoever unwinds a pipeline goes on with more of them.
FOLLOWED_UP_AT_ONCE = 50
UNWIND_SECONDS = 1.0


def count_down(done: Sequence[UUID]) -> None:
    """Counts completed jobs off for all that waited for them, within the transaction that completes them."""
    touched = transitions.count_down(done)
    if touched:
        counting_down()
    bell.ring_after_commit(*{job.kind for job in touched if job.ready})
    for job in touched:
        if job.unwinding:
            transaction.on_commit(partial(unwind, job.id))


def child_stopped(child: Job) -> None:
    """A child failed or was cancelled, so its pipeline cannot complete: begins to unwind it.

    Within the transaction that ends the child. What is left is done right after its commit, or by the next tick.
    """
    assert child.parent_id
    how = f"failed: {child.error}" if child.status == Status.FAILED else "was cancelled."
    transitions.start_parent(child.parent_id)
    parent = Job.objects.filter(id=child.parent_id, status=Status.RUNNING)
    parent.filter(error="", cancel_requested_at=None).update(
        error=f"The child {child.name!r} {how}"[:MAX_ERROR_CHARACTERS], updated_at=Now()
    )
    parent.update(unwinding=True, ready=False, blocked_by=None)
    child_stopping()
    transaction.on_commit(partial(unwind, child.parent_id))


@begun_again
def unwind(parent_id: UUID) -> None:
    """Cancels what has not started of a pipeline that failed or was cancelled, and ends the parent when nothing runs.

    May be called at any time by anyone: it does what is still to be done. It never waits for a child's row: one that
    is locked is about to start or to end, and is seen to when it has ended, or by the next tick. So is what is left of
    many children whose `on_failure` is called.
    """
    stops_at = time.monotonic() + UNWIND_SECONDS
    while _unwind(parent_id) and time.monotonic() < stops_at:
        pass


def _unwind(parent_id: UUID) -> bool:
    """Returns whether there may be more to cancel that was left."""
    with transaction.atomic():
        parent = Job.objects.select_for_update().filter(id=parent_id, unwinding=True).first()
        if parent is None:
            return False
        children = Job.objects.filter(parent=parent_id)
        cancelled = _cancel_unstarted(parent_id)
        if parent.cancel_requested_at:
            running = children.filter(status=Status.RUNNING, cancel_requested_at=None)
            Job.objects.filter(id__in=running.select_for_update(skip_locked=True).values("id")).update(
                cancel_requested_at=Now(), updated_at=Now()
            )
        if not children.filter(status__in=UNFINISHED).exists():
            _end(parent)
        unwinding()
        return cancelled == FOLLOWED_UP_AT_ONCE


def _cancel_unstarted(parent_id: UUID) -> int:
    """Cancels what has not started, but only so many children that have an `on_failure`; returns how many had one."""
    followed_up = [kind.name for kind in all_kinds() if kind.on_failure is not None]
    others = Job.objects.filter(parent=parent_id, status=Status.CREATED).exclude(kind__in=followed_up)
    reported = list(others.select_for_update(skip_locked=True)[:MAX_REPORTED])
    transitions.cancel_unstarted_children(parent_id, but=followed_up)
    cancelled: list[Job] = []
    if followed_up:
        cancelled = transitions.cancel_some_unstarted_children(parent_id, of=followed_up, at_most=FOLLOWED_UP_AT_ONCE)
    transaction.on_commit(partial(attempts.cancelled, reported + cancelled))
    for child in cancelled:
        after_failure.follow_up(child)
    return len(cancelled)


def _end(parent: Job) -> None:
    if parent.cancel_requested_at:
        has_ended, parent.status = transitions.cancel_pipeline(parent.id), Status.CANCELLED
        transaction.on_commit(partial(attempts.cancelled, [parent]))
    elif has_ended := transitions.fail_pipeline(parent.id):
        parent.status = Status.FAILED
        transaction.on_commit(partial(attempts.pipeline_failed, parent, parent.error))
    if has_ended:
        after_failure.follow_up(parent)
