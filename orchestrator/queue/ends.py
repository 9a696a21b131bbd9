"""Who wants to know that jobs have ended: asked in the transaction that ends them, so that it cannot be forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db.models import Max

from orchestrator.claimed import Claimed
from orchestrator.models import Notification
from orchestrator.states import Status

# How long a process relies on the notifications that it has read. For jobs that were claimed later than the last one
# was changed it does not: their claim says so.
REREAD_SECONDS = 2.0
# Kinds whose jobs tell of others' ends; nobody is told of theirs.
TELLING_KINDS = "notifications."

Listener = Callable[[Sequence[UUID], str], None]

listeners: list[Listener] = []


class _Watch(NamedTuple):
    """Which completed jobs a notification is about."""

    kind: str
    owner: str
    children: bool

    def wants(self, job: Claimed) -> bool:
        return (
            self.kind in ("", job.kind)
            and self.owner in ("", job.owner)
            and (self.children or not job.parent_id)
            and not job.kind.startswith(TELLING_KINDS)
        )


class _Watches(NamedTuple):
    """What one process knows of the notifications that jobs need not name."""

    since: datetime | None
    read_at: float
    found: list[_Watch]


_known = _Watches(None, -REREAD_SECONDS, [])


def listener(function: Listener) -> Listener:
    """Registers a function that is called with the ids of jobs and the final state to which they have just come."""
    listeners.append(function)
    return function


def are_watched(jobs: Sequence[Claimed]) -> bool:
    """Whether anybody may want to know that one of these jobs completes."""
    if any(job.notify for job in jobs):
        return True
    watches = _watches_as_of(max((job.watched_since for job in jobs if job.watched_since), default=None))
    return bool(watches) and any(watch.wants(job) for job in jobs for watch in watches)


def is_anybody_told() -> bool:
    """Whether there are notifications at all."""
    return Notification.objects.filter(enabled=True).exists()


def tell_completed(jobs: Sequence[Claimed]) -> None:
    """Jobs are completed by this transaction."""
    if are_watched(jobs):
        tell([job.id for job in jobs], Status.COMPLETED)


def unknown_among(ids: Sequence[UUID]) -> list[UUID]:
    """Those of the ids that are no notification's."""
    known = set(Notification.objects.filter(id__in=ids).values_list("id", flat=True))
    return [id for id in ids if id not in known]


def tell(ids: Sequence[UUID], status: str) -> None:
    """Jobs have come to that final state by this transaction, in which some others may have been before."""
    if ids:
        for each in listeners:
            each(ids, status)


def _watches_as_of(since: datetime | None) -> list[_Watch]:
    """The notifications as they were then, or later. Threads that find them too old at the same moment read twice."""
    global _known
    known, now = _known, time.monotonic()
    if now - known.read_at >= REREAD_SECONDS or (since and (known.since is None or known.since < since)):
        rows = Notification.objects.filter(automatic=True, enabled=True)
        latest = rows.aggregate(at=Max("changed_at"))["at"]
        completed = rows.filter(statuses__contains=[Status.COMPLETED])
        found = [_Watch(*row) for row in completed.values_list("kind", "owner", "children")]
        _known = known = _Watches(latest, now, found)
    return known.found
