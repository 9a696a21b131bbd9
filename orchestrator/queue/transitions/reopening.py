"""Jobs that have ended run again."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Greatest, Now

from orchestrator.models import Job
from orchestrator.queue import generations, steps
from orchestrator.states import Status


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
