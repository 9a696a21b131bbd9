"""Sends deliveries: those of one job to one receiver in order, those of a digest together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.models import F, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from orchestrator.failpoints import Failpoint
from orchestrator.models import Delivery, Notification
from orchestrator.notifications import messages, sending
from orchestrator.notifications.sending import GONE, NotSent, Sent

sent_unrecorded = Failpoint("notifications-sent")

State = Delivery.State
Via = Notification.Via

# Longer than the timeout of the kind: if its process has died, others may try again then.
SENDING_SECONDS = 150
# Deliveries that one attempt sends in a row, and that one digest holds.
MAX_IN_ROW, MAX_IN_DIGEST = 100, 1_000

SWITCHED_OFF = "The notification was switched off or deleted."


class BeingSent(Exception):
    """Another attempt is sending an earlier message about the same job; this one follows."""

    def __init__(self) -> None:
        super().__init__(" ".join((BeingSent.__doc__ or "").split()))


class Attempt(NamedTuple):
    """Deliveries that are sent as one message, to whom, and by which id the receiver knows the message."""

    notification: Notification
    deliveries: Sequence[Delivery]
    message_id: UUID


async def send_in_order(delivery_id: int) -> int:
    """Sends what is pending about the delivery's job to its receiver, the oldest first; returns how many were sent.

    So no message overtakes an earlier one about the same job, whichever of their jobs runs first. Raises NotSent, or
    BeingSent.
    """
    for count in range(MAX_IN_ROW):
        attempt = await sync_to_async(_next_of)(delivery_id)
        if attempt is None:
            return count
        await _send(attempt)
    return MAX_IN_ROW


async def send_digest(notification_id: UUID, job_id: UUID) -> int:
    """Sends all that is pending of a notification as one message; returns how many deliveries were in it.

    job_id: of the job that does so: what it has once taken it sends again if that was not accepted, and nothing else.
    """
    attempt = await sync_to_async(_digest_of)(notification_id, job_id)
    if attempt is None:
        return 0
    await _send(attempt)
    return len(attempt.deliveries)


def _next_of(delivery_id: int) -> Attempt | None:
    asked = Delivery.objects.filter(id=delivery_id).first()
    if asked is None:
        return None
    if not (notification := _in_use(asked.notification_id)):
        give_up(Q(id=delivery_id), SWITCHED_OFF)
        return None
    # A test message is about no job, so it is alone.
    about = Q(job_id=asked.job_id, by_digest=False) if asked.job_id else Q(id=asked.id)
    pending = Delivery.objects.filter(about, notification_id=notification.id, state=State.PENDING)
    first = pending.order_by("id").first()
    if first is None:
        return None
    is_free = Q(sending_until=None) | Q(sending_until__lt=Now())
    until = Now() + timedelta(seconds=SENDING_SECONDS)
    if not Delivery.objects.filter(is_free, id=first.id, state=State.PENDING).update(sending_until=until):
        raise BeingSent
    return Attempt(notification, [first], first.message_id)


def _digest_of(notification_id: UUID, job_id: UUID) -> Attempt | None:
    if not (notification := _in_use(notification_id)):
        give_up(Q(notification_id=notification_id, by_digest=True), SWITCHED_OFF)
        return None
    mine = Delivery.objects.filter(digest_job=job_id, state=State.PENDING)
    if not mine.exists():
        waiting = Delivery.objects.filter(notification_id=notification_id, by_digest=True, state=State.PENDING)
        first = waiting.filter(digest_job=None).order_by("id").values("id")[:MAX_IN_DIGEST]
        Delivery.objects.filter(id__in=list(first.values_list("id", flat=True)), digest_job=None).update(
            digest_job=job_id
        )
    deliveries = list(mine.order_by("id"))
    return Attempt(notification, deliveries, job_id) if deliveries else None


def _in_use(notification_id: UUID) -> Notification | None:
    return Notification.objects.filter(id=notification_id, enabled=True).first()


async def _send(attempt: Attempt) -> None:
    try:
        sent = await _message_sent(attempt)
    except NotSent as error:
        await sync_to_async(_record_failure)(attempt, error)
        raise
    except BaseException:
        # The job has to end; whoever tries again need not wait.
        await asyncio.shield(sync_to_async(_release)(attempt))
        raise
    sent_unrecorded()
    await sync_to_async(_record_success)(attempt, sent)


async def _message_sent(attempt: Attempt) -> Sent:
    notification, deliveries, message_id = attempt
    if notification.via == Via.MAIL:
        addresses = [address.strip() for address in notification.target.split(",")]
        return await asyncio.to_thread(sending.mail, addresses, *messages.mail(deliveries))
    if notification.via == Via.SLACK:
        return await sending.post(notification.target, messages.slack_body(deliveries), {})
    is_digest = bool(deliveries[0].by_digest)
    body = messages.digest_body(deliveries) if is_digest else messages.webhook_body(deliveries[0])
    headers = sending.signed_headers(_secrets(notification), f"msg_{message_id.hex}", body)
    return await sending.post(notification.target, body, headers)


def _secrets(notification: Notification) -> list[str]:
    """The old one, too, until a receiver has had the time to learn the new one."""
    until = notification.old_secret_until
    is_in_use = notification.old_secret and until and until > timezone.now()
    return [notification.secret, *([notification.old_secret] if is_in_use else [])]


def _record_success(attempt: Attempt, sent: Sent) -> None:
    _rows(attempt).filter(state=State.PENDING).update(
        state=State.DELIVERED,
        attempts=F("attempts") + 1,
        response_status=sent.status,
        response=sent.response,
        error="",
        sending_until=None,
        delivered_at=Now(),
    )


def _record_failure(attempt: Attempt, error: NotSent) -> None:
    _rows(attempt).update(
        attempts=F("attempts") + 1,
        response_status=error.sent.status,
        response=error.sent.response,
        error=str(error)[:1_000],
        sending_until=None,
    )
    if error.sent.status == GONE:
        Notification.objects.filter(id=attempt.notification.id).update(
            enabled=False, disabled_reason="The receiver answered 410 Gone.", changed_at=Now()
        )


def _release(attempt: Attempt) -> None:
    _rows(attempt).update(sending_until=None)


def _rows(attempt: Attempt) -> QuerySet[Delivery]:
    return Delivery.objects.filter(id__in=[delivery.id for delivery in attempt.deliveries])


def give_up(which: Q, why: str) -> None:
    """Pending deliveries will not be sent any more, unless somebody asks for it."""
    Delivery.objects.filter(which, state=State.PENDING).update(
        state=State.GAVE_UP, sending_until=None, error=why[:1_000]
    )
