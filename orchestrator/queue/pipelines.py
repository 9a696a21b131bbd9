"""Pipelines: jobs that wait for other jobs, and what their end means for one another.

A child may have children of its own, and so on: then it is a pipeline, too, and all that is said here holds for it.

A job's `unfinished_dependencies` is at all times the number of jobs it waits for that have not completed.
Ids rise from a dependency to its dependents to the parent, and every transaction here that waits for row locks takes
them in that order, so none can wait for another in a circle.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now
from msgspec import UNSET
from typing_extensions import ParamSpec

from orchestrator.attempt.callbacks import begun_again
from orchestrator.failpoints import Failpoint
from orchestrator.failures import MAX_ERROR_CHARACTERS
from orchestrator.graphs import waits
from orchestrator.kinds import all_kinds
from orchestrator.models import Attempt, Job, Signal, Step
from orchestrator.queue import after_failure, bell, compensations, expansion, fan_out, steps, transitions
from orchestrator.queue.by_indexes import by_indexes
from orchestrator.queue.transitions import Counted
from orchestrator.states import FINAL, UNFINISHED, Status
from orchestrator.telemetry import attempts

Arguments = ParamSpec("Arguments")

counting_down = Failpoint("counting-down")
child_stopping = Failpoint("child-stopping")
unwinding = Failpoint("unwinding")
resolving = Failpoint("resolving")
passing_on = Failpoint("passing-on")
releasing = Failpoint("releasing")
ending_late = Failpoint("ending-late")

_in_this_thread = threading.local()

# Failed steps that one tick passes on.
MAX_LEFT = 1_000

# Of the unstarted children of a pipeline, those whose cancellation Flower is told of. It could not follow thousands.
MAX_REPORTED = 100
# Children whose `on_failure` one transaction calls, and how long whoever unwinds a pipeline goes on with more of them.
FOLLOWED_UP_AT_ONCE = 50
UNWIND_SECONDS = 1.0
# Children with children of their own that are unwound together with their pipeline. The tick does the others.
MAX_UNWOUND = 50
# Pipelines that one tick unwinds.
MAX_UNWINDING = 1_000

# Children that no worker runs, and that wait for children of their own or have waited for them: they unwind, too, as
# if each had been cancelled. One that is locked is about to start or to end.
UNWIND_CHILDREN = """
UPDATE orchestrator_job
SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp()),
    unwinding = true,
    ready = false,
    blocked_by = NULL,
    updated_at = clock_timestamp()
WHERE id = ANY(ARRAY(
    SELECT id FROM orchestrator_job child
    WHERE parent_id = %s AND worker_id IS NULL AND NOT unwinding
      AND (status = 'RUNNING' OR status = 'CREATED' AND EXISTS (
          SELECT FROM orchestrator_job own WHERE own.parent_id = child.id AND own.status IN ('CREATED', 'RUNNING')
      ))
    FOR UPDATE SKIP LOCKED
))
RETURNING id
"""


def count_down(done: Sequence[UUID]) -> None:
    """Counts completed jobs off for all that waited for them, within the transaction that completes them."""
    touched = transitions.count_down(done)
    if touched:
        counting_down()
    counted_down(touched)


def counted_down(touched: Sequence[Counted]) -> None:
    """What these have waited for has ended: what is ready now is rung for after the commit, and the rest seen to."""
    bell.ring_after_commit(*{job.kind for job in touched if job.ready})
    _follow_up(touched)


def take_over(earlier: Mapping[UUID, UUID], skipped: Sequence[UUID]) -> None:
    """Completes steps that this transaction has inserted as they have ended in another pipeline.

    earlier: the ids of the others by the ids of the new ones. skipped: those of the new ones that were not to run.
    """
    transitions.take_over(earlier)
    steps.note([id for id in earlier if id not in set(skipped)], Step.Outcome.REUSED)
    steps.note(skipped, Step.Outcome.SKIPPED)
    count_down(list(earlier))


def _follow_up(touched: Sequence[Counted]) -> None:
    """Sees, after the commit, to pipelines that unwind, and to those of which steps are to be resolved."""
    for job in touched:
        if job.unwinding:
            _after_commit(unwind, job.id)
    for parent_id in {job.parent_id for job in touched if job.resolvable}:
        _after_commit(resolve, parent_id)
    for job in touched:
        if job.holds_items:
            _after_commit(release, job.id)
        if job.starts_above:
            _after_commit(transitions.start_parent, job.id)


def release(step_id: UUID) -> None:
    """Lets items of a step start that were held back, as others have ended. May be called at any time by anyone."""
    with transaction.atomic():
        released = fan_out.release(step_id)
        if released and released.resolvable:
            _after_commit(resolve, released.pipeline_id)
        elif released:
            bell.ring_after_commit(released.kind)
        releasing()


def _after_commit(work: Callable[Arguments, None], *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
    """Does it after the commit: what leads to more of it comes after, not within it, however long the chain is."""
    transaction.on_commit(partial(in_turn, work, *args, **kwargs))


def in_turn(work: Callable[Arguments, None], *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
    """Does it once what this thread is doing so is done; what waits for its turn already is done once.

    So a pipeline of which many children end is looked at after them, not after each.
    """
    waiting: dict[Any, Callable[[], None]] | None = getattr(_in_this_thread, "waiting", None)
    is_first = waiting is None
    if waiting is None:
        _in_this_thread.waiting = waiting = {}
    waiting.setdefault((work, args), partial(work, *args, **kwargs))
    if not is_first:
        return
    try:
        while waiting:
            waiting.pop(next(iter(waiting)))()
    finally:
        del _in_this_thread.waiting


def child_stopped(child: Job) -> None:
    """A child failed or was cancelled, so its pipeline cannot complete: begins to unwind it.

    Within the transaction that ends the child. What is left is done right after its commit, or by the next tick.
    """
    assert child.parent_id
    if steps.let_pass(child.id, child.status):
        _after_commit(pass_on, child.id)
        return
    how = f"failed: {child.error}" if child.status == Status.FAILED else "was cancelled."
    transitions.start_parent(child.parent_id)
    parent = Job.objects.filter(id=child.parent_id, status=Status.RUNNING)
    parent.filter(error="", cancel_requested_at=None).update(
        error=f"The child {child.name!r} {how}"[:MAX_ERROR_CHARACTERS], updated_at=Now()
    )
    parent.update(unwinding=True, ready=False, blocked_by=None)
    child_stopping()
    _after_commit(unwind, child.parent_id)


def pass_on(child_id: UUID) -> None:
    """Lets go on what comes after a step that failed and may, or after a compensation. In a transaction of its own,
    since it locks what the one that ended the step may have locked in part. May be called at any time by anyone.
    """
    with transaction.atomic():
        if steps.passed(child_id):
            counted_down(transitions.count_down([child_id], Status.FAILED, Status.CANCELLED))
            passing_on()


def resolve_left() -> None:
    """Does what processes that died have left to do for graphs."""
    for child_id in Step.objects.filter(outcome=Step.Outcome.PASSING).values_list("job", flat=True)[:MAX_LEFT]:
        pass_on(child_id)
    waits = Step.objects.filter(waits_until__lt=Now()).order_by("waits_until")
    for step_id in waits.values_list("job", flat=True)[:MAX_LEFT]:
        _end_wait(step_id)
    for pipeline_id in (
        Step.objects.filter(deadline_at__lt=Now()).order_by("deadline_at").values_list("job")[:MAX_LEFT]
    ):
        _end_late(*pipeline_id)
    resolve(None)
    for step_id in fan_out.left():
        release(step_id)


def wake(ids: Sequence[UUID]) -> None:
    """Signals have come that steps, locked by this transaction, may wait for."""
    for id, parent_id in Job.objects.filter(id__in=steps.end_waits(ids)).values_list("id", "parent_id"):
        _after_commit(resolve, parent_id or id)


def _end_late(pipeline_id: UUID) -> None:
    """The pipeline's deadline has passed: it fails, what has not started is cancelled, and what runs is asked to stop.

    One whose own last step runs is left, since it is about to end.
    """
    with transaction.atomic():
        late = Job.objects.filter(id=pipeline_id, step__deadline_at__lt=Now())
        pipeline = late.select_for_update(skip_locked=True, of=("self",)).first()
        if pipeline is None or pipeline.worker_id is not None:
            return
        Step.objects.filter(job=pipeline_id).update(deadline_at=None)
        if pipeline.status in FINAL:
            return
        transitions.start_parent(pipeline_id)
        unfinished = Job.objects.filter(id=pipeline_id)
        unfinished.filter(error="", cancel_requested_at=None).update(
            error=f"It did not end within its deadline of {pipeline.step.deadline_seconds:g} s.", updated_at=Now()
        )
        unfinished.update(unwinding=True, ready=False, blocked_by=None, updated_at=Now())
        ending_late()
        _after_commit(unwind, pipeline_id)


def _is_late(pipeline: Job) -> bool:
    """Whether its deadline has passed."""
    return Step.objects.filter(job=pipeline, deadline_seconds__isnull=False, deadline_at=None).exists()


def _end_wait(step_id: UUID) -> None:
    """The time for a step's signal is over: its default is taken, or it fails."""
    with transaction.atomic():
        job = Job.objects.select_for_update(skip_locked=True).filter(id=step_id, step__waits_until__lt=Now()).first()
        if job is None:
            return
        wait = waits.read(job.step.wait)
        if wait.default is not UNSET:
            body = {"body": wait.default, "is_default": True}
            Signal.objects.get_or_create(job=job, name=wait.signal, defaults=body)
            wake([step_id])
        elif steps.end_waits([step_id]):
            _fail(step_id, f"The signal {wait.signal!r} did not come within {wait.within_seconds:g} s.")


@begun_again
def resolve(parent_id: UUID | None) -> None:
    """Starts, skips or fails the steps of a pipeline, or of all, of which nothing is awaited any more.

    May be called at any time by anyone: what others are just resolving is left to them.
    """
    while failed := _resolve(parent_id):
        for step, error in failed:
            _fail(step.id, error)


def _resolve(parent_id: UUID | None) -> list[tuple[steps.Waiting, str]]:
    """Resolves steps until none are left, or some must fail, which are returned."""
    while True:
        with transaction.atomic():
            waiting = steps.lock(parent_id, expandable=expansion.kinds())
            decided = steps.decide(waiting)
            if decided.ready:
                steps.make_ready(decided.ready)
                bell.ring_after_commit(*{step.kind for step, _ in decided.ready})
            if decided.waiting:
                steps.begin_waits(decided.waiting)
            if decided.skipped:
                skipped = [step.id for step in decided.skipped]
                transitions.skip(skipped)
                steps.note(skipped, Step.Outcome.SKIPPED)
                count_down(skipped)
            for step, payloads in decided.fanning:
                _fan_out(step, payloads, decided)
            if decided.nested:
                _expand(decided)
            resolving()
        if decided.failed or not waiting:
            return decided.failed


def _fan_out(step: steps.Waiting, payloads: Sequence[steps.Payload], decided: steps.Resolved) -> None:
    try:
        if kind := fan_out.fan_out(step, payloads):
            bell.ring_after_commit(kind)
    except fan_out.TooManyChildren as error:
        decided.failed.append((step, f"It could not start. {error}"))


def _expand(decided: steps.Resolved) -> None:
    expanded = expansion.expand(decided.nested)
    decided.failed += expanded.failed
    bell.ring_after_commit(*expanded.kinds)
    for pipeline_id in expanded.families:
        _after_commit(resolve, pipeline_id)


def _fail(step_id: UUID, error: str) -> None:
    """Each in a transaction of its own, which locks the pipeline's row last."""
    with transaction.atomic():
        moved = transitions.fail_unresolved(step_id, error)
        if moved is None:
            return
        attempt = Attempt(job=moved, number=moved.attempt, outcome=Attempt.Outcome.RAISED, error=error)
        attempt.save(force_insert=True)
        transaction.on_commit(partial(attempts.pipeline_failed, moved, error))
        if moved.parent_id:
            child_stopped(moved)
        after_failure.follow_up(moved)


def unwind_left() -> None:
    """Goes on with pipelines that unwind, of which processes that died, or were in a hurry, have left some."""
    in_turn(_unwind_all)


def _unwind_all() -> None:
    with by_indexes():
        left = list(Job.objects.filter(unwinding=True).values_list("id", flat=True)[:MAX_UNWINDING])
    for parent_id in left:
        unwind(parent_id)


@begun_again
def unwind(parent_id: UUID) -> None:
    """Cancels what has not started of a pipeline that failed or was cancelled, and ends the parent when nothing runs.

    A child that waits for children of its own counts as not started: its pipeline is unwound in turn.

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
        is_undone = compensations.are_begun(parent_id)
        cancelled = 0 if is_undone else _stop_children(parent)
        is_over = not Job.objects.filter(parent=parent_id, status__in=UNFINISHED).exists()
        if is_over and (is_undone or not _compensate(parent)):
            _end(parent, is_undone=is_undone)
        unwinding()
        return cancelled == FOLLOWED_UP_AT_ONCE


def _stop_children(parent: Job) -> int:
    """Cancels what has not started, and asks what runs to stop if that is to be. Returns as `_cancel_unstarted`."""
    _unwind_children(parent.id)
    cancelled = _cancel_unstarted(parent.id)
    if parent.cancel_requested_at or _is_late(parent):
        running = Job.objects.filter(
            parent=parent.id, status=Status.RUNNING, worker__isnull=False, cancel_requested_at=None
        )
        Job.objects.filter(id__in=running.select_for_update(skip_locked=True).values("id")).update(
            cancel_requested_at=Now(), updated_at=Now()
        )
    return cancelled


def _unwind_children(parent_id: UUID) -> None:
    with connection.cursor() as cursor:
        cursor.execute(UNWIND_CHILDREN, [str(parent_id)])
        for (child_id,) in cursor.fetchmany(MAX_UNWOUND):
            _after_commit(unwind, child_id)


def _compensate(parent: Job) -> bool:
    """Has what its steps have done undone before it ends, if that is to be; whether it is."""
    always = parent.cancel_requested_at is not None or _is_late(parent)
    if not compensations.begin(parent, always=always):
        return False
    _after_commit(resolve, parent.id)
    return True


def _cancel_unstarted(parent_id: UUID) -> int:
    """Cancels what has not started, but only so many children that have an `on_failure`; returns how many had one."""
    followed_up = [kind.name for kind in all_kinds() if kind.on_failure is not None]
    reported = list(transitions.unstarted_children(parent_id).exclude(kind__in=followed_up)[:MAX_REPORTED])
    transitions.cancel_unstarted_children(parent_id, but=followed_up)
    cancelled: list[Job] = []
    if followed_up:
        cancelled = transitions.cancel_some_unstarted_children(parent_id, of=followed_up, at_most=FOLLOWED_UP_AT_ONCE)
    transaction.on_commit(partial(attempts.cancelled, reported + cancelled))
    for child in cancelled:
        after_failure.follow_up(child)
    return len(cancelled)


def _end(parent: Job, *, is_undone: bool) -> None:
    parent.error = compensations.error_of(parent, is_undone=is_undone)
    if parent.cancel_requested_at:
        has_ended, parent.status = transitions.cancel_pipeline(parent.id, parent.error), Status.CANCELLED
        transaction.on_commit(partial(attempts.cancelled, [parent]))
    elif has_ended := transitions.fail_pipeline(parent.id, parent.error):
        parent.status = Status.FAILED
        transaction.on_commit(partial(attempts.pipeline_failed, parent, parent.error))
    if has_ended:
        if parent.parent_id:
            child_stopped(parent)
        after_failure.follow_up(parent)
