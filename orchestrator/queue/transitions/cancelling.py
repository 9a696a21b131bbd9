"""Jobs that no worker runs are cancelled, and pipelines of which nothing runs any more end."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Now

from orchestrator.models import Job
from orchestrator.queue import ends
from orchestrator.states import UNFINISHED, Status


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
