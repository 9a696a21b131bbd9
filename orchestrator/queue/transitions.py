"""The moves of `states.MOVES`: every statement that writes a job's status, a verb for each move.

Each statement is guarded by what it moves from, so of two who would move a job at once one finds nothing to move. What
else a move means, for its attempt and its pipeline, is the business of `endings` and `pipelines`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Greatest, Now

from orchestrator.attempt import prepared
from orchestrator.attempt.session import BEGAN_AT, CLEAN, ConnectionMisused, transaction_began_at
from orchestrator.claimed import WAITED_SINCE, Claimed, claimed
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.queue import admission, ends, generations, shares, steps, turns, unblocking
from orchestrator.queue.claims import IN_ORDER, LIMIT_IDLENESS
from orchestrator.states import FINAL, UNFINISHED, Status
from orchestrator.stops import Cancelled, RowMoved

# The most urgent ready jobs of the owners whose turn it is become this worker's, unless the kind is paused or the
# worker was declared dead. Its row is locked so that nobody declares it dead meanwhile and overlooks the jobs. If the
# first of them runs alone, it is taken alone. Jobs are found by an array of their ids: it is taken for a short one, so
# nobody plans to read the whole table.
LEASE = f"""
WITH me AS (
    SELECT id FROM orchestrator_worker WHERE id = %(worker)s AND ended_at IS NULL FOR KEY SHARE
), now AS MATERIALIZED (
    SELECT clock_timestamp() AS at
), {{found}}, next AS MATERIALIZED (
    SELECT id, waited_since,
           CASE WHEN %(apart)s THEN row_number() OVER () ELSE 0 END * interval '1 microsecond' AS later
    FROM ready
    WHERE EXISTS (SELECT FROM me)
      AND NOT EXISTS (SELECT FROM orchestrator_kind WHERE name = %(kind)s AND (paused_at IS NOT NULL OR limited))
), leased AS (
    UPDATE orchestrator_job job
    SET status = 'RUNNING',
        ready = false,
        attempt = attempt + 1,
        worker_id = %(worker)s,
        worker_name = %(worker_name)s,
        celery_task_id = job.id,
        deadline_at = clock_timestamp() + %(timeout)s,
        started_at = CASE WHEN status = 'RUNNING' THEN started_at ELSE now.at + next.later END,
        updated_at = now.at
    FROM now, next
    WHERE job.id = next.id AND job.id = ANY(ARRAY(SELECT id FROM next))
    RETURNING
        {claimed("next.waited_since")},
        rank,
        EXISTS (SELECT FROM orchestrator_job parent WHERE parent.id = job.parent_id AND parent.status = 'CREATED'),
        EXISTS (
            SELECT FROM orchestrator_job
            WHERE ready AND kind = %(kind)s
            ORDER BY owner, rank, id
            OFFSET (SELECT count(*) FROM next)
            LIMIT 1
        )
)
SELECT * FROM leased
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
    SELECT job.id, waited_since FROM picked
    CROSS JOIN LATERAL (
        SELECT id, {WAITED_SINCE} AS waited_since FROM orchestrator_job job
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
    SELECT id, {WAITED_SINCE} AS waited_since FROM orchestrator_job job
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
    attempt = attempt + 1,
    worker_id = %(worker)s,
    worker_name = %(worker_name)s,
    celery_task_id = job.id,
    deadline_at = clock_timestamp() + %(timeout)s,
    started_at = CASE WHEN status = 'RUNNING' THEN started_at ELSE statement_timestamp() END,
    updated_at = clock_timestamp()
WHERE id = ANY(%(ids)s::uuid[])
RETURNING
    {claimed(WAITED_BEFORE)},
    rank,
    EXISTS (SELECT FROM orchestrator_job parent WHERE parent.id = job.parent_id AND parent.status = 'CREATED'),
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

# A leased job is done, if it is still this worker's, and if this is still the transaction that its handler was given.
COMPLETE = f"""
{CLEAN}
UPDATE orchestrator_job
SET status = 'COMPLETED',
    result = %(result)s,
    error = '',
    worker_id = NULL,
    deadline_at = NULL,
    progress_done = %(progress_done)s,
    progress_total = %(progress_total)s,
    progress_message = %(progress_message)s,
    finished_at = clock_timestamp(),
    updated_at = clock_timestamp()
WHERE id = %(id)s AND status = 'RUNNING' AND attempt = %(attempt)s
  AND (%(began_at)s::bigint IS NULL OR %(began_at)s = {BEGAN_AT})
"""  # noqa: S608 It is made of constants.

# A leased job waits for so many children, under the same conditions, unless it is to be cancelled. It stays RUNNING,
# as a pipeline is whose children run, and may have one attempt more: this one is not charged.
WAIT_FOR_CHILDREN = f"""
{CLEAN}
UPDATE orchestrator_job
SET unfinished_dependencies = %(count)s,
    ready = %(count)s = 0,
    error = '',
    max_attempts = max_attempts + 1,
    worker_id = NULL,
    deadline_at = NULL,
    progress_done = %(progress_done)s,
    progress_total = %(progress_total)s,
    progress_message = %(progress_message)s,
    updated_at = clock_timestamp()
WHERE id = %(id)s AND status = 'RUNNING' AND attempt = %(attempt)s AND cancel_requested_at IS NULL
  AND (%(began_at)s::bigint IS NULL OR %(began_at)s = {BEGAN_AT})
"""  # noqa: S608 It is made of constants.
TO_BE_CANCELLED = """
SELECT FROM orchestrator_job
WHERE id = %(id)s AND status = 'RUNNING' AND attempt = %(attempt)s AND cancel_requested_at IS NOT NULL
"""

# Leased jobs are done whose handlers used no transaction, each if it is still this worker's.
COMPLETE_TOGETHER = """
UPDATE orchestrator_job job
SET status = 'COMPLETED',
    result = done.result::jsonb,
    error = '',
    worker_id = NULL,
    deadline_at = NULL,
    progress_done = done.progress_done,
    progress_total = done.progress_total,
    progress_message = done.progress_message,
    finished_at = statement_timestamp() + done.place * interval '1 microsecond',
    updated_at = clock_timestamp()
FROM unnest(
    %(ids)s::uuid[], %(attempts)s::integer[], %(results)s::text[],
    %(dones)s::bigint[], %(totals)s::bigint[], %(messages)s::text[]
) WITH ORDINALITY AS done (id, attempt, result, progress_done, progress_total, progress_message, place)
WHERE job.id = done.id AND job.id = ANY(%(ids)s::uuid[]) AND job.attempt = done.attempt
  AND job.status = 'RUNNING' AND job.worker_id = %(worker)s
RETURNING job.id
"""

# The jobs of a batch are done, in its order: a microsecond apart, since PostgreSQL may write them in any order. They
# pass RUNNING within this transaction, so nobody else sees them there. `ready` is disguised, or else the jobs would be
# looked up, by old statistics, in the index of all that wait.
COMPLETE_LOCKED = f"""
{CLEAN} {LIMIT_IDLENESS}
UPDATE orchestrator_job job
SET status = 'COMPLETED',
    ready = false,
    attempt = job.attempt + 1,
    result = done.result::jsonb,
    error = '',
    worker_name = %(worker_name)s,
    celery_task_id = job.id,
    started_at = CASE WHEN status = 'RUNNING' THEN started_at ELSE %(started_at)s END,
    finished_at = statement_timestamp() + done.place * interval '1 microsecond',
    updated_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(attempts)s::integer[], %(results)s::text[])
     WITH ORDINALITY AS done (id, attempt, result, place)
WHERE job.id = done.id AND job.id = ANY(%(ids)s::uuid[]) AND job.ready::integer <> 0
  AND job.attempt = done.attempt AND {BEGAN_AT} = %(began_at)s
"""  # noqa: S608 It is made of constants.

# Of jobs that this transaction has locked, those that it has cancelled itself.
CANCELLED_MEANWHILE = "SELECT count(*) FROM orchestrator_job WHERE id = ANY(%s::uuid[]) AND status = 'CANCELLED'"

# Each job that waited for any of these counts them off, once for all of them; at zero it is ready.
# A parent waits for all its children; it counts as started at the latest when the first of them is done.
# What is joined to a row that is to be locked must be materialized: after waiting for the lock PostgreSQL looks at the
# row anew, and where it has planned a union as part of the join it finds no partner for it, and leaves it out.
# Jobs are found by an array of their ids: it is taken for a short one, so nobody plans to read the whole table.
COUNT_DOWN = """
WITH done AS (
    SELECT id, parent_id FROM orchestrator_job WHERE id = ANY(%(ids)s::uuid[]) AND status = ANY(%(statuses)s)
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
            AND NOT unresolved AND (is_parent OR run_at <= clock_timestamp()),
    updated_at = clock_timestamp()
FROM hits
WHERE job.id = hits.id AND job.id = ANY(ARRAY(SELECT id FROM locked))
RETURNING job.id, job.kind, job.ready, job.unwinding, job.parent_id,
          job.unresolved AND job.unfinished_dependencies = 0 AND job.status = 'CREATED',
          job.unfinished_dependencies > 0 AND job.kind = 'pipeline.each'
            AND EXISTS (SELECT FROM orchestrator_step WHERE job_id = job.id AND released IS NOT NULL),
          is_parent AND EXISTS (
              SELECT FROM orchestrator_job above WHERE above.id = job.parent_id AND above.status = 'CREATED'
          )
"""

# Steps that are not to run are done. They pass what every job passes within this transaction, where nobody sees it.
SKIP = """
UPDATE orchestrator_job SET ready = true, unresolved = false
WHERE id = ANY(%(ids)s::uuid[]) AND status = 'CREATED' AND unresolved AND unfinished_dependencies = 0;
UPDATE orchestrator_job
SET status = 'COMPLETED',
    ready = false,
    attempt = attempt + 1,
    started_at = clock_timestamp(),
    finished_at = clock_timestamp(),
    updated_at = clock_timestamp()
WHERE id = ANY(%(ids)s::uuid[]) AND status = 'CREATED' AND ready
"""

# Steps of a new pipeline have completed in another one. They pass what every job passes, as skipped ones do.
TAKE_OVER = """
UPDATE orchestrator_job SET ready = true, unresolved = false, unfinished_dependencies = 0
WHERE id = ANY(%(ids)s::uuid[]) AND status = 'CREATED';
UPDATE orchestrator_job job
SET status = 'COMPLETED',
    ready = false,
    attempt = job.attempt + 1,
    unfinished_dependencies = (SELECT count(*) FROM orchestrator_dependency WHERE job_id = job.id),
    payload = earlier.payload,
    result = earlier.result,
    started_at = clock_timestamp(),
    finished_at = clock_timestamp(),
    updated_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(earlier)s::uuid[]) AS pair (id, earlier_id)
JOIN orchestrator_job earlier ON earlier.id = earlier_id
WHERE job.id = pair.id AND job.status = 'CREATED' AND job.ready
"""

# An attempt ended without completing the job, if the job is still as that attempt left it. A pipeline whose steps have
# compensations does not end by it, but unwinds: `queue.compensations` says which.
END = """
WITH held AS (
    SELECT id,
           CASE WHEN cancel_requested_at IS NOT NULL THEN 'CANCELLED'
                ELSE %(status)s
           END AS next_status
    FROM orchestrator_job
    WHERE id = %(id)s AND attempt = %(attempt)s AND worker_id IS NOT DISTINCT FROM %(worker)s
      AND (status = 'RUNNING' AND worker_id IS NOT NULL OR ready OR blocked_by IS NOT NULL)
    FOR UPDATE {skip_locked}
), decided AS MATERIALIZED (
    SELECT id, next_status, next_status <> 'CREATED' AND EXISTS (
        SELECT FROM orchestrator_job child JOIN orchestrator_step step ON step.job_id = child.id
        WHERE child.parent_id = held.id AND child.status = 'COMPLETED'
          AND step.compensate IS NOT NULL AND step.outcome = ''
    ) AS unwinds
    FROM held
)
UPDATE orchestrator_job job
SET status = CASE WHEN unwinds THEN 'RUNNING' ELSE next_status END,
    unwinding = unwinding OR unwinds,
    ready = next_status = 'CREATED' AND %(delay)s = interval '0',
    blocked_by = NULL,
    attempt = %(number)s,
    max_attempts = greatest(max_attempts, %(max_attempts)s),
    runs_alone = job.runs_alone OR %(runs_alone)s,
    run_at = CASE WHEN %(delay)s = interval '0' THEN run_at ELSE clock_timestamp() + %(delay)s END,
    rank = CASE WHEN %(delay)s = interval '0' THEN rank
                ELSE clock_timestamp() + %(delay)s + priority * %(priority_step)s END,
    worker_id = NULL,
    deadline_at = NULL,
    worker_name = %(worker_name)s,
    celery_task_id = job.id,
    error = CASE next_status WHEN 'CANCELLED' THEN '' ELSE %(error)s END,
    finished_at = CASE WHEN next_status = 'CREATED' OR unwinds THEN NULL ELSE clock_timestamp() END,
    updated_at = clock_timestamp()
FROM decided
WHERE job.id = decided.id
RETURNING job.*
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
        has_more = bool(rows) and rows[0][-1]
    # PostgreSQL returns them in any order.
    rows.sort(key=_rank_and_id)
    jobs = [Claimed(*columns) for *columns, _, _, _ in rows]
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


def complete(job: Claimed, result: str, *, began_at: int | None = None) -> None:
    """Completes a leased job with its result as JSON, within the caller's transaction, and cleans the session.

    began_at: of the transaction that the handler has used; None if it used none.

    Raises RowMoved if the job is not as its claim left it, ConnectionMisused if it is another transaction by now.
    """
    prepared.forget()
    with connection.cursor() as cursor:
        cursor.execute(COMPLETE, {**_as_left(job), "result": result, "began_at": began_at})
        if cursor.rowcount != 1:
            _check_transaction(began_at)
            raise RowMoved
    ends.tell_completed([job])


def wait_for_children(job: Claimed, count: int, *, began_at: int | None = None) -> None:
    """A leased job waits for so many children, which the caller's transaction adds; the session is cleaned.

    Raises as `complete` does, and Cancelled if it is to be cancelled.
    """
    parameters = {**_as_left(job), "count": count, "began_at": began_at}
    prepared.forget()
    with connection.cursor() as cursor:
        cursor.execute(WAIT_FOR_CHILDREN, parameters)
        if cursor.rowcount == 1:
            return
        _check_transaction(began_at)
        cursor.execute(TO_BE_CANCELLED, parameters)
        raise Cancelled if cursor.rowcount else RowMoved


def _as_left(job: Claimed) -> dict[str, Any]:
    """The job's row as its handler leaves it."""
    return {
        "id": job.id,
        "attempt": job.attempt,
        "progress_done": job.progress_done,
        "progress_total": job.progress_total,
        "progress_message": job.progress_message,
    }


def complete_together(jobs: Sequence[Claimed], results: Sequence[str]) -> set[UUID]:
    """Completes leased jobs of one worker whose handlers used no transaction, with their results as JSON.

    Returns the ids of those that were as their claims had left them; the others are no longer this worker's.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            COMPLETE_TOGETHER,
            {
                "ids": [str(job.id) for job in jobs],
                "attempts": [job.attempt for job in jobs],
                "results": list(results),
                "dones": [job.progress_done for job in jobs],
                "totals": [job.progress_total for job in jobs],
                "messages": [job.progress_message for job in jobs],
                "worker": jobs[0].worker_id,
            },
        )
        completed = {id for (id,) in cursor.fetchall()}
    ends.tell_completed([job for job in jobs if job.id in completed])
    return completed


def complete_locked(jobs: Sequence[Claimed], results: Sequence[str], *, worker_name: str) -> None:
    """Completes jobs this transaction has locked, with their results as JSON, and cleans the session. What waits for
    them is counted down by `pipelines.count_down`, once for all.

    Raises as `complete` does. A job that a handler of the batch has cancelled stays so.
    """
    ids = [str(job.id) for job in jobs]
    prepared.forget()
    with connection.cursor() as cursor:
        cursor.execute(
            COMPLETE_LOCKED,
            {
                "ids": ids,
                "attempts": [job.attempt for job in jobs],
                "results": list(results),
                "began_at": jobs[0].began_at,
                "started_at": jobs[0].claimed_at,
                "worker_name": worker_name,
            },
        )
        if cursor.rowcount != len(jobs):
            _check_transaction(jobs[0].began_at)
            completed = cursor.rowcount
            cursor.execute(CANCELLED_MEANWHILE, [ids])
            if completed + cursor.fetchone()[0] != len(jobs):
                raise RowMoved
    ends.tell_completed(jobs)


def _check_transaction(began_at: int | None) -> None:
    if began_at and began_at != transaction_began_at(connection):
        raise ConnectionMisused("ended its transaction and began another")


class Counted(NamedTuple):
    """A job that waited for others of which some have completed."""

    id: UUID
    kind: str
    ready: bool
    unwinding: bool
    parent_id: UUID | None
    resolvable: bool
    holds_items: bool
    starts_above: bool


def count_down(done: Sequence[UUID], *statuses: Status) -> list[Counted]:
    """Counts completed jobs off for all that waited for them, and starts their parents.

    statuses: that the jobs must be in, if not COMPLETED; others for steps after which a pipeline goes on.
    """
    with connection.cursor() as cursor:
        ended = [str(status) for status in statuses or (Status.COMPLETED,)]
        cursor.execute(COUNT_DOWN, {"ids": [str(id) for id in done], "statuses": ended})
        return [Counted(*row) for row in cursor.fetchall()]


def skip(ids: Sequence[UUID]) -> None:
    """Completes steps, locked by this transaction, that are not to run."""
    with connection.cursor() as cursor:
        cursor.execute(SKIP, {"ids": [str(id) for id in ids]})
    if ends.is_anybody_told():
        ends.tell(ids, Status.COMPLETED)


def take_over(earlier: Mapping[UUID, UUID]) -> None:
    """Completes steps that this transaction has inserted with the results of completed ones of another pipeline.

    earlier: the ids of those by the ids of the new ones.
    """
    with connection.cursor() as cursor:
        cursor.execute(TAKE_OVER, {"ids": [*map(str, earlier)], "earlier": [*map(str, earlier.values())]})
    if ends.is_anybody_told():
        ends.tell(list(earlier), Status.COMPLETED)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What the end of an attempt writes to its job's row, whatever becomes of the job."""

    number: int
    max_attempts: int
    error: str
    worker_name: str
    runs_alone: bool


def fail(job: Job | Claimed, ending: Ending, *, skip_locked: bool = False) -> Job | None:
    """The job has failed for good. Returns it as it is then; None, and nothing is changed, if it has moved on.

    A cancellation that was asked for prevails, here and in the two moves below.
    skip_locked: do nothing instead of waiting for a process that is about to move it.
    """
    return _end(job, ending, Status.FAILED, timedelta(0), skip_locked)


def retry_later(job: Job | Claimed, ending: Ending, delay: timedelta, *, skip_locked: bool = False) -> Job | None:
    """The job is to run again after the delay. Returns as `fail` does."""
    return _end(job, ending, Status.CREATED, delay, skip_locked)


def hand_back(job: Job | Claimed, ending: Ending, *, skip_locked: bool = False) -> Job | None:
    """The job is ready again at once, at its old place in the queue. Returns as `fail` does."""
    return _end(job, ending, Status.CREATED, timedelta(0), skip_locked)


def _end(job: Job | Claimed, ending: Ending, status: Status, delay: timedelta, skip_locked: bool) -> Job | None:
    ended = Job.objects.raw(
        END.format(skip_locked="SKIP LOCKED" if skip_locked else ""),
        {
            **asdict(ending),
            "id": job.id,
            "attempt": job.attempt,
            "worker": job.worker_id,
            "status": status,
            "delay": delay,
            "priority_step": priority_step(),
        },
    )
    moved = next(iter(ended), None)
    if moved and moved.status in FINAL:
        ends.tell([moved.id], moved.status)
    return moved


def fail_unresolved(step_id: UUID, error: str) -> Job | None:
    """Fails a step that cannot start, as if an attempt had failed. Returns as `fail` does."""
    made_ready = Job.objects.filter(
        id=step_id, status=Status.CREATED, unresolved=True, unfinished_dependencies=0
    ).update(ready=True)
    if not made_ready:
        return None
    job = Job.objects.get(id=step_id)
    number = job.attempt + 1
    return fail(
        job, Ending(number=number, max_attempts=job.max_attempts, error=error, worker_name="", runs_alone=False)
    )


def cancel(job_id: UUID) -> None:
    """Cancels a job that no worker runs."""
    _cancel(Job.objects.filter(id=job_id, status__in=UNFINISHED, worker=None), cancel_requested_at=Now())


def cancel_unstarted(job_ids: Collection[UUID]) -> None:
    """Cancels those of the jobs that have not started, or wait for another attempt. Their rows are locked."""
    unstarted = Job.objects.filter(id__in=job_ids, status=Status.CREATED)
    _cancel(unstarted, cancel_requested_at=Now())


def cancel_unstarted_children(parent_id: UUID, *, but: Collection[str] = ()) -> None:
    """Cancels what has not started of a pipeline, but for what is about to: its rows are locked.

    but: kinds that are left.
    """
    _cancel(Job.objects.filter(id__in=unstarted_children(parent_id).exclude(kind__in=but).values("id")))


def cancel_some_unstarted_children(parent_id: UUID, *, of: Collection[str], at_most: int) -> list[Job]:
    """Does so with so many of these kinds, and returns them as they are then."""
    children = list(unstarted_children(parent_id).filter(kind__in=of).order_by("id")[:at_most])
    _cancel(Job.objects.filter(id__in=[child.id for child in children]))
    for child in children:
        child.status, child.ready, child.blocked_by = Status.CANCELLED, False, None
    return children


def unstarted_children(parent_id: UUID) -> QuerySet[Job]:
    """Those that have not started and are not about to, locked; not those that wait for children of their own."""
    own = Job.objects.filter(parent=OuterRef("id"), status__in=UNFINISHED)
    unstarted = Job.objects.filter(parent=parent_id, status=Status.CREATED, unwinding=False)
    return unstarted.exclude(Exists(own)).select_for_update(skip_locked=True)


def _cancel(jobs: QuerySet[Job], **columns: Any) -> int:
    told: list[UUID] = []
    if ends.is_anybody_told():
        # Locked, so that those which are told of are those which are cancelled.
        told = list(jobs.select_for_update().values_list("id", flat=True))
        jobs = Job.objects.filter(id__in=told)
    count = jobs.update(
        status=Status.CANCELLED, ready=False, blocked_by=None, finished_at=Now(), updated_at=Now(), **columns
    )
    ends.tell(told, Status.CANCELLED)
    return count


def cancel_pipeline(parent_id: UUID, error: str = "") -> bool:
    """Cancels the parent of a pipeline of which nothing runs any more; whether it moved.

    error: what went wrong when its steps were compensated.
    """
    parent = Job.objects.filter(id=parent_id, status__in=UNFINISHED, unwinding=True)
    return _cancel(parent, error=error, unwinding=False) == 1


def fail_pipeline(parent_id: UUID, error: str) -> bool:
    """Fails the parent of a pipeline of which nothing runs any more; whether it moved."""
    failed = Job.objects.filter(id=parent_id, status=Status.RUNNING, unwinding=True).update(
        error=error,
        status=Status.FAILED,
        unwinding=False,
        ready=False,
        blocked_by=None,
        finished_at=Now(),
        updated_at=Now(),
    )
    if failed == 1:
        ends.tell([parent_id], Status.FAILED)
    return failed == 1


def reopen(*job_ids: UUID) -> set[str]:
    """Lets jobs that failed or were cancelled, and of their children those that did not complete, run again, with the
    children of those.

    They have at least one attempt from now on. Returns the names of their kinds. What has failed and was passed stays.
    """
    ended = generations.ended_family(job_ids)
    steps.end_waits(ended.filter(step__waits_since__isnull=False).values_list("id", flat=True))
    kinds = set(ended.values_list("kind", flat=True))
    steps.begin_deadlines(job_ids)
    _reopen(ended, ready=Q(unfinished_dependencies=0, unresolved=False), error="", cancel_requested_at=None)
    return kinds


def reopen_compensations(parent: Job, ids: Collection[UUID], passed: int) -> set[str]:
    """Lets these compensations of a pipeline that has ended run again, and the pipeline unwind until they have.

    passed: how many of them it has counted as done. What they have been resolved to stays. Returns their kinds.
    """
    failed = Job.objects.filter(id__in=ids, status__in=(Status.FAILED, Status.CANCELLED))
    kinds = set(failed.values_list("kind", flat=True))
    first = min(ids)
    _reopen(failed, ready=Q(id=first, unresolved=False), error="", cancel_requested_at=None)
    _reopen(
        Job.objects.filter(id=parent.id, status__in=(Status.FAILED, Status.CANCELLED)),
        ready=False,
        unwinding=True,
        unfinished_dependencies=F("unfinished_dependencies") + passed,
    )
    return kinds


def _reopen(ended: QuerySet[Job], **columns: Any) -> None:
    ended.update(
        status=Status.CREATED,
        max_attempts=Greatest("max_attempts", F("attempt") + 1),
        run_at=Now(),
        rank=Now() + F("priority") * Value(priority_step()),
        finished_at=None,
        started_at=None,
        progress_message="",
        updated_at=Now(),
        **columns,
    )


def priority_step() -> timedelta:
    """How much head start a step of priority gives."""
    return timedelta(seconds=settings.ENV.PRIORITY_STEP_SECONDS)
