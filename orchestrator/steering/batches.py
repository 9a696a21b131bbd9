"""What a bulk action does to a batch of jobs: the simple ones together, and the others one by one.

Together are those that nobody holds and that nothing else hangs on. To wait for the others while rows are locked could
be to wait in a circle, so each of them is seen to in a transaction of its own, by the function for a single job.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Literal
from uuid import UUID

import msgspec
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Now

from access import audit
from orchestrator.client_limits import NO_QUOTAS, QuotaExceeded, Quotas, check_again, check_retry
from orchestrator.kind_problems import UnknownKind
from orchestrator.kinds import all_kinds
from orchestrator.models import Dependency, Job
from orchestrator.queue import bell, kind_limits, places, transitions
from orchestrator.states import UNFINISHED, Status
from orchestrator.steering.changing import Change, NotChangeable, change
from orchestrator.submission import NotCancellable, NotRetryable, TooManyUnfinished, cancel, retry
from orchestrator.telemetry import attempts

Verb = Literal["cancel", "retry", "change"]

# Of the jobs cancelled together, those that Flower is told of. It could not follow thousands.
MAX_REPORTED = 100
REFUSALS = (
    NotCancellable,
    NotRetryable,
    NotChangeable,
    QuotaExceeded,
    TooManyUnfinished,
    UnknownKind,
    Job.DoesNotExist,
)


class BulkAction(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is done to all jobs that matched."""

    action: Verb
    filter: dict[str, Any]
    change: dict[str, Any] | None = None
    # Of a retry by somebody who may not exceed them.
    quotas: Quotas = NO_QUOTAS


Outcome = tuple[Counter[str], dict[str, str]]


def act(asked: BulkAction, ids: Collection[UUID], found_at: datetime, check: Callable[[], None]) -> Outcome:
    """Does it to each of the jobs that is still as it must be for that. Returns what became of how many, and why some
    were refused, by their ids. Doing it twice does no more than once.

    found_at: when the jobs were found. check: called between jobs; what it raises ends the work.
    """
    if asked.action == "cancel":
        return _cancel(ids, check)
    if asked.action == "retry":
        return _retry(ids, found_at, asked.quotas, check)
    return _change(ids, Change.from_json(asked.change or {}), check)


def _one_by_one(ids: Collection[UUID], act_on: Callable[[UUID], object], check: Callable[[], None]) -> dict[str, str]:
    """Returns why some were refused."""
    refused = {}
    for id in ids:
        check()
        try:
            act_on(id)
        except REFUSALS as refusal:
            refused[str(id)] = str(refusal)
    return refused


def _alone(jobs: QuerySet[Job]) -> QuerySet[Job]:
    """Those without a parent, children, or others that wait for them."""
    return jobs.filter(parent=None).exclude(
        Exists(Job.objects.filter(parent=OuterRef("id")))
        | Exists(Dependency.objects.filter(depends_on=OuterRef("id")))
    )


def _hold(jobs: QuerySet[Job]) -> list[Job]:
    """Locks those that nobody else holds."""
    small = jobs.only("id", "kind", "status", "worker_name")
    return list(small.order_by("id").select_for_update(skip_locked=True, of=("self",)))


# Cancel


def _cancel(ids: Collection[UUID], check: Callable[[], None]) -> Outcome:
    seen_to = _cancel_together(ids)
    left = Job.objects.filter(id__in=set(ids) - seen_to, status__in=UNFINISHED, cancel_requested_at=None)
    refused = _one_by_one(list(left.order_by("id").values_list("id", flat=True)), cancel, check)
    statuses = Counter(Job.objects.filter(id__in=ids).values_list("status", flat=True))
    outcome = {
        "cancelled": statuses[Status.CANCELLED],
        "stopping": sum(statuses[status] for status in UNFINISHED),
        "ended_before": statuses[Status.COMPLETED] + statuses[Status.FAILED],
        "gone": len(ids) - statuses.total(),
    }
    return Counter(outcome), refused


def _cancel_together(ids: Collection[UUID]) -> set[UUID]:
    """Cancels what waits, and requests it for what a worker runs; returns whom it did that to."""
    followed_up = [kind.name for kind in all_kinds() if kind.on_failure is not None]
    with transaction.atomic():
        unstarted = Job.objects.filter(id__in=ids, status=Status.CREATED, unfinished_dependencies=0)
        waiting = _hold(_alone(unstarted).exclude(kind__in=followed_up))
        transitions.cancel_unstarted([job.id for job in waiting])
        running = _hold(Job.objects.filter(id__in=ids, worker__isnull=False, cancel_requested_at=None))
        Job.objects.filter(id__in=[job.id for job in running]).update(cancel_requested_at=Now(), updated_at=Now())
        audit.record_many("job.cancel", [(job.id, job.kind, {"status": job.status}) for job in [*waiting, *running]])
    for job in waiting:
        job.status = Status.CANCELLED
    attempts.cancelled(waiting[:MAX_REPORTED])
    return {job.id for job in [*waiting, *running]}


# Retry


def _retry(ids: Collection[UUID], found_at: datetime, quotas: Quotas, check: Callable[[], None]) -> Outcome:
    # What ended later has been retried, by this action or another, and has failed again.
    ended = Job.objects.filter(
        id__in=ids, status__in=(Status.FAILED, Status.CANCELLED), finished_at__lte=found_at, parent=None
    )
    with suppress(QuotaExceeded):  # Some of them may fit nevertheless.
        check_again(ended, quotas)
        _retry_together(ended)
    left = list(ended.order_by("id").values_list("id", flat=True))
    refused = _one_by_one(left, partial(retry_within, quotas=quotas), check)
    there = Job.objects.filter(id__in=ids).count()
    outcome = {"retried": there - len(refused), "refused": len(refused), "gone": len(ids) - there}
    return Counter(outcome), refused


def retry_within(id: UUID, quotas: Quotas) -> Job:
    """Retries a job if its owner has room for it. Raises QuotaExceeded, or as `retry` does."""
    check_retry(id, quotas)
    return retry(id)


def _retry_together(ended: QuerySet[Job]) -> None:
    uncapped = [kind.name for kind in all_kinds() if not kind_limits.limits_of(kind).max_unfinished_per_owner]
    with transaction.atomic():
        # Of a unique job another one may be unfinished by now, which would fail all of them.
        jobs = _hold(_alone(ended).filter(kind__in=uncapped, pruning=False, unique_key=None))
        bell.ring_after_commit(*transitions.reopen(*[job.id for job in jobs]))
        audit.record_many("job.retry", [(job.id, job.kind, {"status": job.status}) for job in jobs])


# Change


def _change(ids: Collection[UUID], wanted: Change, check: Callable[[], None]) -> Outcome:
    changed = _change_together(ids, wanted)
    left = Job.objects.filter(id__in=set(ids) - changed, status__in=UNFINISHED)
    others = list(left.order_by("id").values_list("id", flat=True))
    refused = _one_by_one(others, partial(change, wanted=wanted), check)
    done = len(changed) + len(others) - len(refused)
    return Counter({"changed": done, "too_late": len(ids) - done}), refused


def _change_together(ids: Collection[UUID], wanted: Change) -> set[UUID]:
    with transaction.atomic():
        waiting = _hold(_alone(Job.objects.filter(id__in=ids, status=Status.CREATED)))
        before = dict(Job.objects.filter(id__in=[job.id for job in waiting]).values_list("id", "priority"))
        moved = places.move(before, **wanted.columns)
        audit.record_many("job.change", [(job.id, job.kind, {"priority": before[job.id]}) for job in waiting])
    return moved
