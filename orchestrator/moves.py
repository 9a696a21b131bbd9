"""The moves a worker makes with a job, each one guarded statement: claim it, complete it, or end an attempt at it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from orchestrator import bell, pipelines
from orchestrator.failpoints import Failpoint
from orchestrator.kinds import Kind, UnknownKind, kind_named
from orchestrator.models import Attempt, Job
from orchestrator.running import CLAIMED, Claimed, LeaseLost
from orchestrator.states import FINAL
from orchestrator.storable import as_json, as_text

attempt_ending = Failpoint("attempt-ending")
attempt_ended = Failpoint("attempt-ended")

# How many attempts at a job may end because the database was not available before they count.
MOST_UNAVAILABLE = 10

# How long a worker that was frozen within a batch may keep its jobs locked.
FROZEN_BATCH_SECONDS = 15
LIMIT_IDLENESS = f"SET LOCAL idle_in_transaction_session_timeout = '{FROZEN_BATCH_SECONDS}s';"

# A batch is read in the order of the index. By statistics of a quiet time, PostgreSQL would read and sort all that
# waits for each batch.
IN_ORDER = "SET LOCAL enable_sort = off;"
# What its handler asks is planned as usual.
AS_USUAL = "SET LOCAL enable_sort TO DEFAULT;"

# The most urgent ready job of a kind becomes this worker's, unless the kind is paused or the worker was given up.
# The worker's row is locked so that nobody gives it up meanwhile and overlooks the job.
LEASE = f"""
WITH me AS (
    SELECT id FROM orchestrator_worker WHERE id = %(worker)s AND ended_at IS NULL FOR KEY SHARE
), next AS (
    SELECT id FROM orchestrator_job
    WHERE ready AND kind = %(kind)s
      AND EXISTS (SELECT FROM me)
      AND NOT EXISTS (SELECT FROM orchestrator_kind WHERE name = %(kind)s AND paused_at IS NOT NULL)
    ORDER BY rank, id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE orchestrator_job job
SET status = 'RUNNING',
    ready = false,
    attempt = attempt + 1,
    worker_id = %(worker)s,
    worker_name = %(worker_name)s,
    celery_task_id = %(celery_task_id)s,
    deadline_at = clock_timestamp() + %(timeout)s,
    started_at = CASE WHEN status = 'RUNNING' THEN started_at ELSE clock_timestamp() END,
    updated_at = clock_timestamp()
FROM next
WHERE job.id = next.id
RETURNING {CLAIMED}
"""  # noqa: S608 It is made of constants.

# The most urgent ready jobs of a kind, locked for as long as this transaction lasts: the lock is the lease.
LOCK = f"""
SELECT {CLAIMED} FROM orchestrator_job job
WHERE ready AND kind = %(kind)s AND id <> ALL(%(left_out)s::uuid[])
  AND NOT EXISTS (SELECT FROM orchestrator_kind WHERE name = %(kind)s AND paused_at IS NOT NULL)
ORDER BY rank, id
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED
"""  # noqa: S608

# A row if any job of the kind is ready. In the order of the index: by old statistics a mere EXISTS would rather read
# the whole table. Each leased job asks, and the ORM would take longer to write this than PostgreSQL to answer.
NEXT_READY = "SELECT id FROM orchestrator_job WHERE ready AND kind = %s ORDER BY rank, id LIMIT 1"

# Which of these jobs, locked by now, another process has noted that it runs, after as many attempts: it has died of
# one of them, and nobody has counted that yet.
TRIED_BY_OTHERS = """
SELECT tried.id
FROM orchestrator_worker worker, jsonb_each_text(worker.trying) AS tried (id, attempts),
     unnest(%(ids)s, %(attempts)s) AS locked (id, attempts)
WHERE worker.id <> %(worker)s AND worker.trying ?| %(ids)s
  AND tried.id = locked.id AND tried.attempts::integer = locked.attempts
"""

# A leased job is done, if it is still this worker's.
COMPLETE = """
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
"""

# The jobs of a batch are done, in its order: a microsecond apart, since PostgreSQL may write them in any order. They
# pass RUNNING within this transaction, so nobody else sees them there. `ready` is disguised, or else the jobs would be
# looked up, by old statistics, in the index of all that wait.
COMPLETE_LOCKED = """
UPDATE orchestrator_job job
SET status = 'COMPLETED',
    ready = false,
    attempt = attempt + 1,
    result = done.result::jsonb,
    error = '',
    worker_name = %(worker_name)s,
    celery_task_id = %(celery_task_id)s,
    started_at = CASE WHEN status = 'RUNNING' THEN started_at ELSE %(started_at)s END,
    finished_at = statement_timestamp() + done.place * interval '1 microsecond',
    updated_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(results)s::text[]) WITH ORDINALITY AS done (id, result, place)
WHERE job.id = done.id AND job.id = ANY(%(ids)s::uuid[]) AND job.ready::integer <> 0
"""

# An attempt ended without completing the job, if the job is still as that attempt left it.
END_ATTEMPT = """
WITH held AS (
    SELECT id,
           CASE WHEN cancel_requested_at IS NOT NULL THEN 'CANCELLED'
                WHEN %(again)s THEN 'CREATED'
                ELSE 'FAILED'
           END AS next_status
    FROM orchestrator_job
    WHERE id = %(id)s AND attempt = %(attempt)s AND worker_id IS NOT DISTINCT FROM %(worker)s
      AND (status = 'RUNNING' AND worker_id IS NOT NULL OR ready)
    FOR UPDATE {skip_locked}
)
UPDATE orchestrator_job job
SET status = next_status,
    ready = next_status = 'CREATED' AND %(delay)s = interval '0',
    attempt = %(number)s,
    max_attempts = greatest(max_attempts, %(max_attempts)s),
    runs_alone = job.runs_alone OR %(runs_alone)s,
    run_at = CASE WHEN %(delay)s = interval '0' THEN run_at ELSE clock_timestamp() + %(delay)s END,
    rank = CASE WHEN %(delay)s = interval '0' THEN rank
                ELSE clock_timestamp() + %(delay)s + priority * %(priority_step)s END,
    worker_id = NULL,
    deadline_at = NULL,
    worker_name = %(worker_name)s,
    error = CASE next_status WHEN 'CANCELLED' THEN '' ELSE %(error)s END,
    finished_at = CASE WHEN next_status = 'CREATED' THEN NULL ELSE clock_timestamp() END,
    updated_at = clock_timestamp()
FROM held
WHERE job.id = held.id
RETURNING job.*
"""


def lease_next(kind: Kind, *, worker_id: int, worker_name: str, celery_task_id: str) -> Claimed | None:
    """Claims the kind's most urgent ready job for the worker and commits; None if there is none for it."""
    with transaction.atomic():
        claimed = _claimed(
            LEASE,
            {
                "kind": kind.name,
                "worker": worker_id,
                "worker_name": worker_name,
                "celery_task_id": celery_task_id,
                "timeout": kind.timeout,
            },
        )
        if not claimed:
            return None
        if claimed[0].parent_id:
            pipelines.mark_started(claimed[0].parent_id)
        return claimed[0]


def lock_ready(kind: Kind, *, worker_id: int) -> list[Claimed]:
    """The kind's most urgent ready jobs, at most a batch, in order, locked until the transaction ends. PostgreSQL ends
    it when it has been idle for FROZEN_BATCH_SECONDS.

    A job that runs alone is alone in its list. What a process has just died of waits until that is counted, or it
    would kill one process after the other.
    """
    left_out: set[str] = set()
    while True:
        held = transaction.savepoint()
        jobs = _claimed(
            LIMIT_IDLENESS + IN_ORDER + LOCK, {"kind": kind.name, "limit": kind.batch_size, "left_out": list(left_out)}
        )
        suspects = _tried_by_others(jobs, worker_id) if jobs else set()
        if not suspects:
            transaction.savepoint_commit(held)
            break
        # Let go of, so that whoever counts the attempts can.
        transaction.savepoint_rollback(held)
        left_out |= suspects
    if jobs and jobs[0].runs_alone:
        return jobs[:1]
    return [job for job in jobs if not job.runs_alone]


def _claimed(sql: str, parameters: dict[str, Any]) -> list[Claimed]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return [Claimed(*row) for row in cursor.fetchall()]


def _tried_by_others(jobs: Sequence[Claimed], worker_id: int) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            AS_USUAL + TRIED_BY_OTHERS,
            {
                "worker": worker_id,
                "ids": [str(job.id) for job in jobs],
                "attempts": [job.attempt for job in jobs],
            },
        )
        return {id for (id,) in cursor.fetchall()}


def has_ready(kind: Kind) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(NEXT_READY, [kind.name])
        return cursor.fetchone() is not None


def complete(job: Claimed, result: Any) -> None:
    """Completes a leased job within the caller's transaction; raises LeaseLost if it is not its worker's any more."""
    with connection.cursor() as cursor:
        cursor.execute(
            COMPLETE,
            {
                "id": job.id,
                "attempt": job.attempt,
                "result": as_json(result, at_most=settings.ENV.MAX_RESULT_BYTES),
                "progress_done": job.progress_done,
                "progress_total": job.progress_total,
                "progress_message": job.progress_message,
            },
        )
        if cursor.rowcount != 1:
            raise LeaseLost
    count_down([job])


def complete_locked(jobs: Sequence[Claimed], results: Sequence[Any], *, worker_name: str, celery_task_id: str) -> None:
    """Completes jobs this transaction has locked. What waits for them is told by `count_down`, once for all."""
    with connection.cursor() as cursor:
        cursor.execute(
            COMPLETE_LOCKED,
            {
                "ids": [str(job.id) for job in jobs],
                "results": [as_json(result, at_most=settings.ENV.MAX_RESULT_BYTES) for result in results],
                "started_at": jobs[0].claimed_at,
                "worker_name": worker_name,
                "celery_task_id": celery_task_id,
            },
        )


def count_down(jobs: Sequence[Claimed]) -> None:
    """Tells what waits for these completed jobs. Only children are waited for."""
    if children := [job.id for job in jobs if job.parent_id]:
        pipelines.count_down(children)


def end_attempt(
    job: Job | Claimed,
    outcome: Attempt.Outcome | None,
    *,
    error: str = "",
    traceback: str = "",
    mendable: bool = True,
    worker_name: str | None = None,
    in_company: bool = False,
    skip_locked: bool = False,
) -> Job | None:
    """Ends an attempt that did not complete the job: back to the queue, FAILED or CANCELLED, as the job's row demands.

    job: as it was claimed. None is answered, and nothing changed, if it has moved on since.
    outcome: kept as an Attempt; None, for one that was cancelled, keeps nothing.
    mendable: whether another attempt could end better.
    in_company: a batch was running and any of its jobs may be to blame: it runs alone from now on, and is left at
        least one attempt to do so.
    skip_locked: rather than wait for whoever is about to move it, do nothing.

    The numbers of attempts only rise. One that the job is not charged for raises the most it may have.
    """
    kind = _kind_or_none(job.kind)
    number = job.attempt + 1 if job.worker_id is None else job.attempt
    max_attempts = job.max_attempts
    if outcome and _is_free(job, outcome):
        max_attempts += 1
    if in_company:
        max_attempts = max(max_attempts, number + 1)
    again = mendable and number < max_attempts
    delay = retry_delay(kind, number) if kind and outcome != Attempt.Outcome.INTERRUPTED else timedelta(0)
    with transaction.atomic():
        ended = list(
            Job.objects.raw(
                END_ATTEMPT.format(skip_locked="SKIP LOCKED" if skip_locked else ""),
                {
                    "id": job.id,
                    "attempt": job.attempt,
                    "worker": job.worker_id,
                    "again": again,
                    "delay": delay,
                    "priority_step": timedelta(seconds=settings.ENV.PRIORITY_STEP_SECONDS),
                    "number": number,
                    "max_attempts": max_attempts,
                    "runs_alone": in_company,
                    "worker_name": job.worker_name if worker_name is None else worker_name,
                    "error": as_text(error, at_most=2_000),
                },
            )
        )
        if not ended:
            return None
        if outcome:
            Attempt.objects.create(
                job_id=job.id,
                number=number,
                outcome=outcome,
                error=as_text(error, at_most=2_000),
                traceback=as_text(traceback, at_most=20_000),
                worker_name=ended[0].worker_name,
                started_at=job.claimed_at if isinstance(job, Claimed) else job.started_at,
            )
        transaction.on_commit(attempt_ended)
        if ended[0].status in FINAL and job.parent_id:
            pipelines.child_stopped(ended[0])
        if ended[0].ready and kind:
            bell.ring_after_commit(kind)
        attempt_ending()
        return ended[0]


def _is_free(job: Job | Claimed, outcome: Attempt.Outcome) -> bool:
    """Whether the job is not charged for the attempt: its worker was told to stop, or the database was not available.

    The latter has a bound, in case that it is the job which brings the database down.
    """
    if outcome == Attempt.Outcome.UNAVAILABLE:
        return Attempt.objects.filter(job=job.id, outcome=outcome).count() < MOST_UNAVAILABLE
    return outcome == Attempt.Outcome.INTERRUPTED


def retry_delay(kind: Kind, attempt: int) -> timedelta:
    """A random time up to backoff * 2^(attempt - 1) or the kind's ceiling: exponential backoff with full jitter.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    span = min(kind.backoff_ceiling.total_seconds(), kind.backoff.total_seconds() * 2 ** min(attempt - 1, 30))
    return timedelta(seconds=random.uniform(0, span))


def _kind_or_none(name: str) -> Kind | None:
    """None for a kind that other processes run but this one does not know, as during an upgrade."""
    try:
        return kind_named(name)
    except UnknownKind:
        return None
