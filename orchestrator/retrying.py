"""Letting failed and cancelled jobs run again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from django.db import IntegrityError, transaction

from access import audit
from orchestrator.failpoints import Failpoint
from orchestrator.kinds import kind_named
from orchestrator.models import Job
from orchestrator.queue import bell, compensations, duplicates, generations, pipelines, transitions
from orchestrator.queue.caps import check_cap
from orchestrator.states import Status

retrying = Failpoint("retrying")


class NotRetryable(Exception):
    """Only a job that failed or was cancelled, and is not a child, can be retried."""

    def __init__(self, job: Job) -> None:
        if job.parent_id:
            message = f"The job is the child {job.name!r} of a pipeline: retry its parent, {job.parent_id}."
        elif job.pruning:
            message = "The job is being deleted, since it ended long ago; submit it again."
        else:
            message = f"The job is {job.status}; only a FAILED or CANCELLED job can be retried."
        super().__init__(message)


class Compensated(NotRetryable):
    """A pipeline of which what was done was undone.

    step: the step of it of which that is so, if it is not the pipeline itself.
    """

    def __init__(self, job: Job, step: Job | None = None) -> None:
        whose = "its steps" if step is None else f"the steps of {step.name!r}"
        detail = f"What {whose} had done was compensated: fork it, or submit it again."
        Exception.__init__(self, f"The pipeline is {job.status}. {detail}")


class Superseded(NotRetryable):
    """A unique job of which another one is unfinished now."""

    def __init__(self, job: Job) -> None:
        detail = "Another unfinished job of the same owner has its unique key; wait for that one's end, or cancel it."
        Exception.__init__(self, f"The job is {job.status}. {detail}")


def retry(job_id: UUID) -> Job:
    """Lets a failed or cancelled job run again; of a pipeline, only the children that did not complete do, or, if its
    steps were compensated, the compensations that did not.

    The job has at least one more attempt, and its earlier ones stay on record.

    Raises Job.DoesNotExist, NotRetryable, or TooManyUnfinished as `submit` does.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(id=job_id)
        if job.parent_id or job.pruning or job.status not in (Status.FAILED, Status.CANCELLED):
            raise NotRetryable(job)
        is_compensated = compensations.are_begun(job.id)
        if is_compensated and not compensations.failed(job.id):
            raise Compensated(job)
        if not is_compensated and (undone := compensations.undone_within(job.id)):
            raise Compensated(job, undone)
        check_cap(kind_named(job.kind), job.owner)
        kinds = _reopen(job, compensations.failed(job.id)) if is_compensated else _reopen(job)
        audit.record("job.retry", job_id, job.kind, before={"status": job.status})
        bell.ring_after_commit(*kinds)
        for family_id in generations.unresolved_within(job_id):
            transaction.on_commit(partial(pipelines.resolve, family_id))
        retrying()
    return Job.objects.get(id=job_id)


def _reopen(job: Job, failed: Sequence[Job] | None = None) -> set[str]:
    """As `transitions.reopen`; raises Superseded. failed: the compensations that run again, and nothing else."""
    reopen = partial(transitions.reopen, job.id)
    if failed is not None:
        reopen = partial(compensations.again, job, failed)
    if job.unique_key is None:
        return reopen()
    try:
        with transaction.atomic():
            return reopen()
    except IntegrityError as error:
        if not duplicates.is_duplicate(error):
            raise
    raise Superseded(job)
