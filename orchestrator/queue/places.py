"""A job's place in the queue: its priority and its earliest start, as long as it waits."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection

from orchestrator.queue import bell, generations
from orchestrator.queue.transitions import priority_step

# Jobs move by what changes, wherever in the queue they were: each step of priority is a head start. What is to start
# at once, and was due already, keeps its earlier time. Locked jobs are about to start, or to end.
MOVE = """
WITH locked AS MATERIALIZED (
    SELECT id, run_at,
           coalesce(%(priority)s, priority) - priority AS steps,
           status = 'CREATED' AND unfinished_dependencies = 0 AND NOT unresolved AS could_start,
           CASE WHEN %(at_once)s THEN least(run_at, statement_timestamp())
                ELSE coalesce(%(run_at)s::timestamptz, run_at)
           END AS next_run_at
    FROM orchestrator_job
    WHERE id = ANY(%(ids)s::uuid[]) AND status IN ('CREATED', 'RUNNING') AND worker_id IS NULL
    ORDER BY id
    FOR UPDATE {skip_locked}
)
UPDATE orchestrator_job job
SET priority = priority + steps,
    run_at = next_run_at,
    rank = rank + (next_run_at - job.run_at) + steps * %(priority_step)s,
    ready = CASE WHEN next_run_at > statement_timestamp() THEN false
                 WHEN job.run_at > statement_timestamp() THEN could_start
                 ELSE ready
            END,
    blocked_by = CASE WHEN next_run_at > statement_timestamp() THEN NULL ELSE blocked_by END,
    updated_at = clock_timestamp()
FROM locked
WHERE job.id = locked.id AND job.id = ANY(%(ids)s::uuid[])
RETURNING job.id, job.kind, job.ready
"""


def move(
    ids: Collection[UUID],
    *,
    priority: int | None = None,
    run_at: datetime | None = None,
    at_once: bool = False,
    skip_locked: bool = False,
) -> set[UUID]:
    """Gives jobs that no worker runs another priority or earliest start, and wakes workers for those that are ready by
    that. Returns the ids of those that were moved.

    None: as it is. at_once: not to wait for a time any longer. skip_locked: leave those that others hold.
    """
    parameters: dict[str, Any] = {
        "ids": [str(id) for id in ids],
        "priority": priority,
        "run_at": run_at,
        "at_once": at_once,
        "priority_step": priority_step(),
    }
    with connection.cursor() as cursor:
        cursor.execute(MOVE.format(skip_locked="SKIP LOCKED" if skip_locked else ""), parameters)
        moved = cursor.fetchall()
    bell.ring_after_commit(*{kind for _, kind, is_ready in moved if is_ready})
    return {id for id, _, _ in moved}


def unstarted_children(parent_id: UUID) -> list[UUID]:
    """Those of all generations."""
    waiting = generations.family([parent_id]).filter(status="CREATED").exclude(id=parent_id)
    return list(waiting.order_by("id").values_list("id", flat=True))
