"""Upkeep of notifications: digests whose time has come, and deliveries that are old enough to be forgotten."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils import timezone

from orchestrator import submission
from orchestrator.models import Delivery, Job, Notification
from orchestrator.notifications.recording import DIGEST
from orchestrator.states import UNFINISHED
from orchestrator.upkeep import retention, tick


@tick.part
def submit_digests() -> None:
    """A job for each notification that has gathered something, but not while an earlier one still tries."""
    gathered = Delivery.objects.filter(
        notification_id=OuterRef("id"), state=Delivery.State.PENDING, by_digest=True, digest_job=None
    )
    wait = Q(digest_job__in=Job.objects.filter(status__in=UNFINISHED, id=OuterRef("digest_job")).values("id"))
    waiting = Notification.objects.filter(Exists(gathered)).exclude(wait)
    now = timezone.now()
    for id, digest_seconds, digested_at in waiting.values_list("id", "digest_seconds", "digested_at"):
        if digested_at is None or digested_at + timedelta(seconds=digest_seconds) <= now:
            _submit(id, digested_at)


def _submit(id: UUID, digested_at: datetime | None) -> None:
    """Of several ticks at once, one does."""
    with transaction.atomic():
        if Notification.objects.filter(id=id, digested_at=digested_at).update(digested_at=Now()):
            job = submission.submit(DIGEST, {"notification": str(id)})
            Notification.objects.filter(id=id).update(digest_job=job.id)


@retention.pruning
def deliveries() -> bool:
    kept = timedelta(days=settings.ENV.DELIVERY_DAYS)
    old = Delivery.objects.filter(created_at__lt=Now() - kept).exclude(state=Delivery.State.PENDING)
    return bool(kept) and retention.delete_some(old.order_by("created_at"))
