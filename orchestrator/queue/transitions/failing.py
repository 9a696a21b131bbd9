"""Attempts end without completing their job, which fails, or runs again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from uuid import UUID

from orchestrator.claimed import Claimed
from orchestrator.models import Job
from orchestrator.queue import ends
from orchestrator.queue.transitions.reopening import priority_step
from orchestrator.states import FINAL, Status

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
