"""Jobs start: ready ones become a worker's, and pipelines run with the first of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection, transaction

from orchestrator.attempt import prepared
from orchestrator.claimed import WAITED_SINCE, Claimed, claimed
from orchestrator.kinds import Kind
from orchestrator.queue import admission, shares, turns, unblocking
from orchestrator.queue.claims import IN_ORDER

# What a claim writes, whoever admits it.
TAKEN = """attempt = attempt + 1, worker_id = %(worker)s, worker_name = %(worker_name)s, celery_task_id = job.id,
        deadline_at = clock_timestamp() + %(timeout)s"""

# What LEASE has found, in its order, and the place of a job there. Rows are updated where they were found: their ids
# would have to be looked up once more. One that was written between the beginning of the statement and its lock is not
# there any more, and is left to the next claim.
IDS = "ARRAY(SELECT id FROM next)"
PLACE = f"array_position({IDS}, job.id)"
# The most urgent ready jobs of the owners whose turn it is become this worker's, unless the kind is paused or the
# worker was declared dead. Its row is locked so that nobody declares it dead meanwhile and overlooks the jobs. If the
# first of them runs alone, it is taken alone. Arrays instead of a join, which would compare each with each. If all is
# left that was found, there is one row of nulls.
LEASE = f"""
WITH me AS (
    SELECT id FROM orchestrator_worker WHERE id = %(worker)s AND ended_at IS NULL FOR KEY SHARE
), now AS MATERIALIZED (
    SELECT clock_timestamp() AS at
), {{found}}, next AS MATERIALIZED (
    SELECT id, ctid, waited_since FROM ready
    WHERE EXISTS (SELECT FROM me)
      AND NOT EXISTS (SELECT FROM orchestrator_kind WHERE name = %(kind)s AND (paused_at IS NOT NULL OR limited))
), leased AS (
    UPDATE orchestrator_job job
    SET status = 'RUNNING',
        ready = false,
        {TAKEN},
        started_at = CASE WHEN status = 'RUNNING' THEN started_at
                          ELSE now.at + CASE WHEN %(apart)s THEN {PLACE} ELSE 0 END * interval '1 microsecond' END,
        updated_at = now.at
    FROM now
    WHERE job.ctid = ANY(ARRAY(SELECT ctid FROM next))
    RETURNING
        {claimed(f"(ARRAY(SELECT waited_since FROM next))[{PLACE}]")},
        job.ctid::text,
        rank,
        (SELECT parent.status = 'CREATED' FROM orchestrator_job parent WHERE parent.id = job.parent_id),
        EXISTS (
            SELECT FROM orchestrator_job
            WHERE ready AND kind = %(kind)s
            ORDER BY owner, rank, id
            OFFSET (SELECT count(*) FROM next)
            LIMIT 1
        )
)
SELECT leased.* FROM (SELECT FROM next LIMIT 1) AS found LEFT JOIN leased ON true
"""  # noqa: S608 It is made of constants.

# The jobs that may be leased: of the owners that were picked, or the one of an id.
OF_OWNERS = f"""
picked AS MATERIALIZED (
    SELECT owner, {{free}} AS free FROM {shares.PICKED} AS picked (owner)
), head AS MATERIALIZED (
    SELECT first.runs_alone FROM picked
    CROSS JOIN LATERAL (
        SELECT runs_alone FROM orchestrator_job
        WHERE ready AND kind = %(kind)s AND owner = picked.owner AND (%(isolated)s OR NOT runs_alone)
        ORDER BY rank, id
        LIMIT 1
    ) AS first
    WHERE free > 0
    LIMIT 1
), ready AS (
    SELECT job.id, job.ctid, waited_since FROM picked
    CROSS JOIN LATERAL (
        SELECT id, ctid, {WAITED_SINCE} AS waited_since FROM orchestrator_job job
        WHERE ready AND kind = %(kind)s AND owner = picked.owner AND (NOT runs_alone OR (SELECT runs_alone FROM head))
        ORDER BY rank, id
        LIMIT least(free, %(at_most)s)
        FOR UPDATE SKIP LOCKED
    ) AS job
    LIMIT CASE WHEN (SELECT runs_alone FROM head) THEN 1 ELSE %(at_most)s END
)
"""  # noqa: S608

BY_ID = f"""
ready AS (
    SELECT id, ctid, {WAITED_SINCE} AS waited_since FROM orchestrator_job job
    WHERE ready AND kind = %(kind)s AND id = %(id)s AND (%(isolated)s OR NOT runs_alone)
    FOR UPDATE SKIP LOCKED
)
"""  # noqa: S608

# The worker's row is locked before the gate of a kind with limits, as whoever declares it dead has locked it.
LOCK_WORKER = "SELECT FROM orchestrator_worker WHERE id = %(worker)s AND ended_at IS NULL FOR KEY SHARE"

# Since when they could have started, of the rows as they are before this statement.
WAITED_BEFORE = """(
    SELECT greatest(run_at, updated_at) FROM orchestrator_job before
    WHERE job.traceparent IS NOT NULL AND before.id = job.id
)"""

# Jobs for which the limits of their kind have room become this worker's. They are locked already.
LEASE_ADMITTED = f"""
UPDATE orchestrator_job job
SET status = 'RUNNING',
    ready = false,
    limited = true,
    blocked_by = NULL,
    {TAKEN},
    started_at = CASE WHEN status = 'RUNNING' THEN started_at ELSE statement_timestamp() END,
    updated_at = clock_timestamp()
WHERE id = ANY(%(ids)s::uuid[])
RETURNING
    {claimed(WAITED_BEFORE)},
    job.ctid::text,
    rank,
    (SELECT parent.status = 'CREATED' FROM orchestrator_job parent WHERE parent.id = job.parent_id),
    statement_timestamp()
"""  # noqa: S608 It is made of constants.

# Pipelines have begun, with those that they are steps of.
START_PARENT = """
WITH RECURSIVE above AS (
    SELECT id, parent_id FROM orchestrator_job WHERE id = ANY(%s::uuid[])
    UNION
    SELECT parent.id, parent.parent_id FROM above JOIN orchestrator_job parent ON parent.id = above.parent_id
)
UPDATE orchestrator_job SET status = 'RUNNING', started_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE id IN (
    SELECT id FROM orchestrator_job WHERE id = ANY(ARRAY(SELECT id FROM above)) AND status = 'CREATED'
    ORDER BY id FOR UPDATE {skip_locked}
)
"""

# Jobs that were claimed and never started are as they were before the claim, if they are still this worker's. Those
# that are to be cancelled are left.
HAND_BACK_UNSTARTED = """
UPDATE orchestrator_job job
SET status = 'CREATED',
    ready = true,
    attempt = job.attempt - 1,
    worker_id = NULL,
    deadline_at = NULL,
    updated_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(attempts)s::integer[]) AS claimed (id, attempt)
WHERE job.id = claimed.id AND job.id = ANY(%(ids)s::uuid[]) AND job.attempt = claimed.attempt
  AND job.status = 'RUNNING' AND job.worker_id = %(worker)s AND job.cancel_requested_at IS NULL
RETURNING job.id
"""


class Claim(NamedTuple):
    """The jobs that a worker has claimed, the most urgent first, and whether more of their kind are ready."""

    jobs: list[Claimed]
    has_more: bool


def claim(
    kind: Kind,
    *,
    worker_id: int,
    worker_name: str,
    isolated: bool = True,
    at_most: int = 1,
    apart: bool = False,
    id: UUID | None = None,
) -> Claim:
    """Claims the kind's most urgent ready jobs for the worker, by a statement that commits by itself.

    isolated: whether it may be one that runs alone, which is claimed alone. id: of the one job that may be claimed.
    apart: each job is for a slot of its own; of a kind with limits only one is claimed then. Otherwise one slot runs
    them all. What one slot runs has one `started_at`, see `shares`.
    """
    if apart and admission.is_limited(kind):
        at_most = 1
    if id is None:
        turns.absorb(kind.name)
        found = OF_OWNERS.format(free=shares.free(kind, "picked.owner", apart=apart))
        statements = [shares.pick(kind), LEASE.format(found=found)]
    else:
        statements = [LEASE.format(found=BY_ID)]
    parameters: dict[str, Any] = {
        "kind": kind.name,
        "worker": worker_id,
        "worker_name": worker_name,
        "timeout": kind.timeout,
        "isolated": isolated,
        "at_most": at_most,
        "apart": apart,
        "id": id,
        **shares.parameters(kind, at_most=at_most),
    }
    if admission.is_limited(kind):
        rows, has_more = _lease_admitted(kind, parameters)
    else:
        with connection.cursor() as cursor:
            prepared.execute(cursor, statements, parameters, before=IN_ORDER)
            rows = cursor.fetchall()
        # None where all that was found was written meanwhile: it may be claimed at once.
        has_more = bool(rows) and rows[0][-1] is not False
        rows = [row for row in rows if row[0]]
    # PostgreSQL returns them in any order.
    rows.sort(key=_rank_and_id)
    jobs = [Claimed(*columns) for *columns, _, _, _ in rows]
    if id is None:
        shares.claimed(kind, jobs, is_all=len(jobs) == at_most or not has_more)
    if pipelines := {job.parent_id for job, row in zip(jobs, rows, strict=True) if job.parent_id and row[-2]}:
        start_parent(*pipelines, skip_locked=True)
    return Claim(jobs, has_more)


def _lease_admitted(kind: Kind, parameters: dict[str, Any]) -> tuple[list[tuple[Any, ...]], bool]:
    """The rows of jobs for which the kind's limits have room, and whether there may be more."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(LOCK_WORKER, parameters)
        if cursor.fetchone() is None:
            return [], False
        unblocking.pass_gate(kind.name)
        choice = admission.admit_of_picked(kind, parameters)
        if not choice.chosen:
            return [], choice.has_more
        cursor.execute(LEASE_ADMITTED, parameters | {"ids": [str(each.id) for each in choice.chosen]})
        rows = cursor.fetchall()
        admission.started(kind, choice.chosen, rows[0][-1])
        return rows, choice.has_more


def _rank_and_id(row: tuple[Any, ...]) -> tuple[datetime, UUID]:
    return row[-3], row[0]


def start_parent(*parent_ids: UUID, skip_locked: bool = False) -> None:
    """A pipeline runs from its first child's start, or from the end of one that did not start; so do those that it is
    a step of.

    skip_locked: leave the parent's row instead of waiting for the process that holds it, which starts it, too.
    """
    ids = [str(id) for id in parent_ids]
    with connection.cursor() as cursor:
        cursor.execute(START_PARENT.format(skip_locked="SKIP LOCKED" if skip_locked else ""), [ids])


def hand_back_unstarted(jobs: Sequence[Claimed]) -> set[UUID]:
    """Returns to the queue, at their old places and as if they had never been claimed, jobs of one claim that were not
    started and never will be. Returns the ids of those that were still as claimed, and not to be cancelled.

    The number of an attempt that was never made is used again. So this may be called once for each claim, even if it
    fails: a second call might hand back what the next claim of that number has started.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            HAND_BACK_UNSTARTED,
            {
                "ids": [str(job.id) for job in jobs],
                "attempts": [job.attempt for job in jobs],
                "worker": jobs[0].worker_id,
            },
        )
        return {id for (id,) in cursor.fetchall()}
