"""Cancelling jobs."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now

from access import audit
from orchestrator.attempt.callbacks import begun_again
from orchestrator.failpoints import Failpoint
from orchestrator.models import Job
from orchestrator.queue import after_failure, pipelines, transitions, unblocking
from orchestrator.states import FINAL, Status
from orchestrator.telemetry import attempts

cancelling = Failpoint("cancelling")


class NotCancellable(Exception):
    """The job has already completed or failed."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"The job is already {job.status}; only a CREATED or RUNNING job can be cancelled.")


@begun_again
def cancel(job_id: UUID, *, action: str = "job.cancel", of: UUID | None = None) -> Job:
    """Requests the cancellation of a job and its children. Returns the job as it is then: CANCELLED at once if nothing
    of it runs, else still RUNNING until its handler reaches a checkpoint.

    action, of: for the audit log, if something else is cancelled together with its job.

    Raises Job.DoesNotExist, or NotCancellable if it has completed or failed. Calling it again is harmless.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(id=job_id)
        if job.status == Status.CANCELLED:
            return job
        if job.status in FINAL:
            raise NotCancellable(job)
        if job.cancel_requested_at is None:
            audit.record(action, of or job_id, job.kind, before={"status": job.status})
        _cancel(job)
        cancelling()
    return Job.objects.get(id=job_id)


def _cancel(job: Job) -> None:
    """Cancels what does not run, and requests it for what runs. The job's row is locked."""
    this = Job.objects.filter(id=job.id)
    if job.worker_id is not None:
        this.filter(cancel_requested_at=None).update(cancel_requested_at=Now(), updated_at=Now())
    elif job.children.exists():
        this.update(cancel_requested_at=Now(), unwinding=True, ready=False, blocked_by=None, updated_at=Now())
        pipelines.unwind(job.id)
    else:
        transitions.cancel(job.id)
        job.status = Status.CANCELLED
        unblocking.released_after_commit([job])
        transaction.on_commit(partial(attempts.cancelled, [job]))
        if job.parent_id:
            pipelines.child_stopped(job)
        after_failure.follow_up(job)
