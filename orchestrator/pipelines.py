"""Pipelines: jobs that wait for other jobs, and what their end means for one another.

A job's `unfinished_dependencies` is at all times the number of jobs it waits for that have not completed.
Ids rise from a dependency to its dependents to the parent, and every transaction here that waits for row locks takes
them in that order, so none can wait for another in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from django.db import connection, transaction
from django.db.models.functions import Now

from orchestrator import bell
from orchestrator.failpoints import Failpoint
from orchestrator.kinds import all_kinds
from orchestrator.models import Job
from orchestrator.states import UNFINISHED, Status

counting_down = Failpoint("counting-down")
child_stopping = Failpoint("child-stopping")
unwinding = Failpoint("unwinding")

# Each job that waited for any of these counts them off, once for all of them; at zero it is ready.
# A parent waits for all its children; it counts as started at the latest when the first of them is done.
# What is joined to a row that is to be locked must be materialized: after waiting for the lock PostgreSQL looks at the
# row anew, and where it has planned a union as part of the join it finds no partner for it, and leaves it out.
# Jobs are found by an array of their ids: it is taken for a short one, so nobody plans to read the whole table.
COUNT_DOWN = """
WITH done AS (
    SELECT id, parent_id FROM orchestrator_job WHERE id = ANY(%(ids)s::uuid[]) AND status = 'COMPLETED'
), hits AS MATERIALIZED (
    SELECT job_id AS id, count(*) AS n, false AS is_parent
    FROM orchestrator_dependency JOIN done ON depends_on_id = done.id
    GROUP BY job_id
    UNION ALL
    SELECT parent_id, count(*), true FROM done WHERE parent_id IS NOT NULL GROUP BY parent_id
), locked AS MATERIALIZED (
    SELECT id FROM orchestrator_job WHERE id = ANY(ARRAY(SELECT id FROM hits)) ORDER BY id FOR UPDATE
)
UPDATE orchestrator_job job
SET unfinished_dependencies = unfinished_dependencies - n,
    status = CASE WHEN is_parent AND status = 'CREATED' THEN 'RUNNING' ELSE status END,
    started_at = CASE WHEN is_parent THEN coalesce(started_at, clock_timestamp()) ELSE started_at END,
    ready = unfinished_dependencies = n AND status IN ('CREATED', 'RUNNING') AND NOT unwinding
            AND (is_parent OR run_at <= clock_timestamp()),
    updated_at = clock_timestamp()
FROM hits
WHERE job.id = hits.id AND job.id = ANY(ARRAY(SELECT id FROM locked))
RETURNING job.id, job.kind, job.ready, job.unwinding
"""

# A pipeline runs from its first child's start. Nothing waits here: whoever holds the parent's row marks it, too.
MARK_STARTED = """
UPDATE orchestrator_job SET status = 'RUNNING', started_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE id IN (SELECT id FROM orchestrator_job WHERE id = %s AND status = 'CREATED' FOR UPDATE SKIP LOCKED)
"""


def count_down(done: Sequence[UUID]) -> None:
    """Tells all that waited for these jobs that they have completed, within the transaction that completes them."""
    with connection.cursor() as cursor:
        cursor.execute(COUNT_DOWN, {"ids": [str(id) for id in done]})
        touched = cursor.fetchall()
    if touched:
        counting_down()
    now_ready = {kind for _, kind, ready, _ in touched if ready}
    bell.ring_after_commit(*(kind for kind in all_kinds() if kind.name in now_ready))
    for id, _, _, is_unwinding in touched:
        if is_unwinding:
            transaction.on_commit(partial(unwind, id))


def mark_started(parent_id: UUID) -> None:
    with connection.cursor() as cursor:
        cursor.execute(MARK_STARTED, [parent_id])


def child_stopped(child: Job) -> None:
    """A child failed or was cancelled, so its pipeline cannot complete: begins to unwind it.

    Within the transaction that ends the child. What is left is done right after its commit, or by the next tick.
    """
    assert child.parent_id
    how = f"failed: {child.error}" if child.status == Status.FAILED else "was cancelled."
    Job.objects.filter(id=child.parent_id, status=Status.CREATED).update(status=Status.RUNNING, started_at=Now())
    Job.objects.filter(id=child.parent_id, status=Status.RUNNING, error="", cancel_requested_at=None).update(
        error=f"The child {child.name!r} {how}"[:2_000], updated_at=Now()
    )
    Job.objects.filter(id=child.parent_id, status=Status.RUNNING).update(unwinding=True, ready=False)
    child_stopping()
    transaction.on_commit(partial(unwind, child.parent_id))


def unwind(parent_id: UUID) -> None:
    """Cancels what has not started of a pipeline that failed or was cancelled, and ends the parent when nothing runs.

    May be called at any time by anyone: it does what is still to be done. It never waits for a child's row: one that
    is locked is about to start or to end, and is seen to when it has ended, or by the next tick.
    """
    with transaction.atomic():
        parent = Job.objects.select_for_update().filter(id=parent_id, unwinding=True).first()
        if parent is None:
            return
        children = Job.objects.filter(parent=parent_id)
        unstarted = children.filter(status=Status.CREATED).select_for_update(skip_locked=True)
        Job.objects.filter(id__in=unstarted.values("id")).update(
            status=Status.CANCELLED, ready=False, finished_at=Now(), updated_at=Now()
        )
        if parent.cancel_requested_at:
            running = children.filter(status=Status.RUNNING, cancel_requested_at=None)
            Job.objects.filter(id__in=running.select_for_update(skip_locked=True).values("id")).update(
                cancel_requested_at=Now(), updated_at=Now()
            )
        if not children.filter(status__in=UNFINISHED).exists():
            _end(parent)
        unwinding()


def _end(parent: Job) -> None:
    status, error = (Status.CANCELLED, "") if parent.cancel_requested_at else (Status.FAILED, parent.error)
    Job.objects.filter(id=parent.id, status__in=UNFINISHED).update(
        status=status, error=error, unwinding=False, ready=False, finished_at=Now(), updated_at=Now()
    )
