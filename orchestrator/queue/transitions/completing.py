"""Jobs complete, one by one, in groups and in batches, or wait for children that they have added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from django.db import connection

from orchestrator.attempt import prepared
from orchestrator.attempt.session import BEGAN_AT, CLEAN, CLEAN_BUT_PREPARED, ConnectionMisused, transaction_began_at
from orchestrator.claimed import Claimed
from orchestrator.pg_values import as_array
from orchestrator.queue import ends
from orchestrator.queue.claims import LIMIT_IDLENESS
from orchestrator.queue.transitions.passing import COUNT_DOWN_DONE, Counted
from orchestrator.stops import Cancelled, RowMoved

# A leased job is done, if it is still this worker's, and if this is still the transaction that its handler was given;
# there is a row then. A function, whose plan the session keeps.
COMPLETE = """
WHERE orchestrator_complete(
    %(id)s, %(attempt)s, %(result)s, %(progress_done)s, %(progress_total)s, %(progress_message)s, %(began_at)s
)
"""

# A leased job waits for so many children, under the same conditions, unless it is to be cancelled. It stays RUNNING,
# as a pipeline is whose children run, and may have one attempt more: this one is not charged.
WAIT_FOR_CHILDREN = f"""
{CLEAN};
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

# Where a job is in the arrays of those that are done. A join with these would compare each with each.
PLACE = "array_position(%(ids)s::uuid[], job.id)"
# Leased jobs are done whose handlers used no transaction, each if it is still this worker's. Their ids are kept for
# the next statement of the same transaction. Status and worker are disguised, or else a plan from a quiet time would
# read all that the worker has run lately.
_COMPLETE_TOGETHER = f"""
WITH completed AS (
    UPDATE orchestrator_job job
    SET status = 'COMPLETED',
        error = '',
        worker_id = NULL,
        deadline_at = NULL,
        (result, progress_done, progress_total, progress_message, finished_at) = (
            SELECT (%(results)s::text[])[place]::jsonb,
                   (%(dones)s::bigint[])[place],
                   (%(totals)s::bigint[])[place],
                   (%(messages)s::text[])[place],
                   statement_timestamp() + place * interval '1 microsecond'
            FROM (SELECT {PLACE} AS place OFFSET 0) AS done
        ),
        updated_at = clock_timestamp()
    WHERE {{found}} AND job.attempt = (%(attempts)s::integer[])[{PLACE}]
      AND job.status || '' = 'RUNNING' AND coalesce(job.worker_id, 0) = %(worker)s
    RETURNING job.id
)
SELECT set_config('muster.completed', coalesce((SELECT array_agg(id) FROM completed), '{{{{}}}}')::text, true)
"""  # noqa: S608 It is made of constants.
# Where their claims have put them: by its id, PostgreSQL would look at each row in all states that it was in lately.
COMPLETE_TOGETHER = _COMPLETE_TOGETHER.format(found="job.ctid = ANY(%(ctids)s::tid[])")
# Wherever they are.
COMPLETE_MOVED = _COMPLETE_TOGETHER.format(found="job.id = ANY(%(ids)s::uuid[])")
COMPLETED = "current_setting('muster.completed')"
# Counts those down for what waits for them. The first row has their ids, too.
COUNT_DOWN_COMPLETED = f"""
WITH counted AS ({COUNT_DOWN_DONE.format(done=f"id = ANY({COMPLETED}::uuid[])")})
SELECT CASE WHEN row_number() OVER () = 1 THEN {COMPLETED} END, counted.*
FROM (SELECT) AS one LEFT JOIN counted ON true
"""  # noqa: S608 It is made of constants.
# In its place if nothing can wait for them.
READ_COMPLETED = f"SELECT {COMPLETED}, NULL"

# The jobs of a batch are done, in its order: a microsecond apart, since PostgreSQL may write them in any order. They
# pass RUNNING within this transaction, so nobody else sees them there. `ready` is disguised, or else the jobs would be
# looked up, by old statistics, in the index of all that wait.
COMPLETE_LOCKED = f"""
{CLEAN}; {LIMIT_IDLENESS}
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


def complete(job: Claimed, result: str, *, began_at: int | None = None) -> None:
    """Completes a leased job with its result as JSON, within the caller's transaction, and cleans the session.

    began_at: of the transaction that the handler has used; None if it used none.

    Raises RowMoved if the job is not as its claim left it, ConnectionMisused if it is another transaction by now.
    """
    are_kept = prepared.are_kept()
    if not are_kept:
        prepared.forget()
    with connection.cursor() as cursor:
        clean = CLEAN_BUT_PREPARED if are_kept else CLEAN
        cursor.execute(clean + COMPLETE, {**_as_left(job), "result": result, "began_at": began_at})
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


def complete_together(jobs: Sequence[Claimed], results: Sequence[str]) -> tuple[set[UUID], list[Counted]]:
    """Completes leased jobs of one worker whose handlers used no transaction, with their results as JSON, and counts
    them down for what waits for them, in one transaction. Those whose rows were written meanwhile, as by their
    progress, follow in another one.

    Returns the ids of those that were as their claims had left them, and what has waited for them; the other jobs are
    no longer this worker's.
    """
    completed, counted = _complete(COMPLETE_TOGETHER, jobs, results)
    if len(completed) < len(jobs):
        moved = [(job, result) for job, result in zip(jobs, results, strict=True) if job.id not in completed]
        more, counted_more = _complete(COMPLETE_MOVED, *zip(*moved, strict=True))
        completed |= more
        counted += counted_more
    ends.tell_completed([job for job in jobs if job.id in completed])
    return completed, counted


def _complete(sql: str, jobs: Sequence[Claimed], results: Sequence[str]) -> tuple[set[UUID], list[Counted]]:
    ids = [str(job.id) for job in jobs]
    parameters = {
        "ids": as_array(ids),
        "ctids": as_array(job.ctid for job in jobs if job.ctid),
        "attempts": as_array(str(job.attempt) for job in jobs),
        "results": as_array(results),
        "dones": _numbers_as_array(job.progress_done for job in jobs),
        "totals": _numbers_as_array(job.progress_total for job in jobs),
        "messages": as_array(job.progress_message for job in jobs),
        "worker": jobs[0].worker_id,
    }
    # Only children are waited for.
    follow = COUNT_DOWN_COMPLETED if any(job.parent_id for job in jobs) else READ_COMPLETED
    with connection.cursor() as cursor:
        prepared.execute(cursor, [sql, follow], parameters)
        rows = cursor.fetchall()
    completed = set(rows[0][0].strip("{}").split(","))
    counted = [Counted(*columns) for _, *columns in rows if columns[0]]
    return {job.id for job, id in zip(jobs, ids, strict=True) if id in completed}, counted


def _numbers_as_array(numbers: Iterable[int | None]) -> str:
    return "{" + ",".join("NULL" if number is None else str(number) for number in numbers) + "}"


def complete_locked(jobs: Sequence[Claimed], results: Sequence[str], *, worker_name: str) -> None:
    """Completes jobs this transaction has locked, with their results as JSON, and cleans the session. What waits for
    them is counted down by `pipelines.count_down`, once for all.

    Raises as `complete` does. A job that a handler of the batch has cancelled stays so.
    """
    ids = as_array(job.id.hex for job in jobs)
    prepared.forget()
    with connection.cursor() as cursor:
        cursor.execute(
            COMPLETE_LOCKED,
            {
                "ids": ids,
                "attempts": as_array(str(job.attempt) for job in jobs),
                "results": as_array(results),
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
