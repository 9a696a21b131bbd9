"""What a kind declares for a job that fails: called in the transaction that ends the job, or the attempt at it."""

from __future__ import annotations

import logging
from functools import partial

from django.db.models import TextField
from django.db.models.functions import Cast

from orchestrator.attempt import callbacks
from orchestrator.ended import EndedJob
from orchestrator.kind import P
from orchestrator.kinds import Kind, known_kind
from orchestrator.models import Job
from orchestrator.states import FINAL, Status

logger = logging.getLogger(__name__)

CANCELLED = "It was cancelled."


class RowChanged(Exception):
    """A callback wrote where only the worker does."""

    def __init__(self) -> None:
        super().__init__(
            "It deleted or changed the row of its own job, or asked for another try of it. What it wrote was rolled "
            "back; to do the work again, submit another job."
        )


def follow_up(job: Job, *, outcome: str = "", exception: BaseException | None = None) -> None:
    """Calls the kind's `on_failure` if the job has ended without completing, or `on_retry` if it is tried again.

    Last in the transaction that moved it: a callback that commits it nonetheless has not kept half of it.

    job: as it is now. outcome, exception: as in EndedJob.
    """
    kind = known_kind(job.kind)
    if kind is None:
        logger.warning(
            "%s is %s now. Its kind is not known in this process, so an on_failure or on_retry of it was not called.",
            job, job.status, extra={"job_id": str(job.id)},
        )  # fmt: skip
        return
    has_ended = job.status in FINAL
    name, callback = ("on_failure", kind.on_failure) if has_ended else ("on_retry", kind.on_retry)
    if callback is not None:
        error = CANCELLED if job.status == Status.CANCELLED else job.error
        ended = _ended_job(kind, job, outcome, exception)
        callbacks.call(
            partial(callback, ended, error),
            f"{name} of {job}",
            key=(job.id, job.attempt, name),
            verify=partial(_check_row, job),
        )


def _ended_job(kind: Kind[P], job: Job, outcome: str, exception: BaseException | None) -> EndedJob[P]:
    return EndedJob(
        id=str(job.id),
        kind=job.kind,
        owner=job.owner,
        name=job.name,
        parent_id=str(job.parent_id) if job.parent_id else None,
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        status=str(job.status),
        outcome=str(outcome),
        exception=exception,
        read_payload=partial(_payload, kind, job),
    )


def _payload(kind: Kind[P], job: Job) -> P:
    """Read as a handler's is: from the text, since Python's floats would round what a Decimal keeps."""
    text = Job.objects.filter(id=job.id).values_list(Cast("payload", TextField()), flat=True).get()
    return kind.decode_payload(text)


def _check_row(job: Job) -> None:
    """A callback may cancel a job that would be tried again, which has called `on_failure` for it."""
    row = Job.objects.filter(id=job.id, attempt=job.attempt).values_list("status", flat=True).first()
    if row not in ({job.status} if job.status in FINAL else {job.status, Status.CANCELLED}):
        raise RowChanged
