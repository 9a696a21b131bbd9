"""What can be done with notifications: create, change and delete them, renew their secrets, send again."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.db.models.functions import Now

from access import audit
from orchestrator.kind_problems import Problem
from orchestrator.kinds import kind_named
from orchestrator.models import Delivery, Notification
from orchestrator.notifications.addresses import BadUrl, checked_url, shown_url
from orchestrator.notifications.recording import submit_deliveries
from orchestrator.states import FINAL

MAX_ADDRESSES = 10
MAX_OF_OWNER = 100
# How long messages are signed with the old secret, too, after a new one was made.
OLD_SECRET_HOURS = 24
# People get digests: at least so many seconds pass between two messages.
MIN_DIGEST_SECONDS = {Notification.Via.WEBHOOK: 0, Notification.Via.SLACK: 1, Notification.Via.MAIL: 1}
DEFAULT_DIGEST_SECONDS = {Notification.Via.WEBHOOK: 0, Notification.Via.SLACK: 60, Notification.Via.MAIL: 60}

AUDITED = ("name", "owner", "via", "automatic", "kind", "statuses", "children", "digest_seconds", "enabled")


class BadNotification(Exception):
    """A notification that could not do what it says."""

    def __init__(self, field: str, detail: str) -> None:
        self.problems = [Problem(f"/{field}", "invalid", detail)]
        super().__init__(detail)


class NotRepeatable(Exception):
    """The message is still to be sent, so it cannot be sent again."""

    def __init__(self) -> None:
        super().__init__("The message is still to be sent; it is tried again by itself.")


def create(notification: Notification) -> str:
    """Writes a new notification; returns the secret that signs its messages, which is shown to nobody again, or "".

    Raises BadNotification.
    """
    check(notification)
    if notification.via == Notification.Via.WEBHOOK:
        notification.secret = _new_secret()
    with transaction.atomic():
        if Notification.objects.filter(owner=notification.owner).count() >= MAX_OF_OWNER:
            raise BadNotification("", f"There may be at most {MAX_OF_OWNER} notifications of one owner.")
        notification.save(force_insert=True)
        audit.record("notification.create", notification.id, notification, after=_audited(notification))
    notification.refresh_from_db()
    return notification.secret


def change(id: UUID, changes: Mapping[str, Any]) -> Notification:
    """Changes columns of a notification. Raises Notification.DoesNotExist or BadNotification."""
    with transaction.atomic():
        notification = Notification.objects.select_for_update().get(id=id)
        before = _audited(notification)
        for name, value in changes.items():
            setattr(notification, name, value)
        check(notification)
        if notification.via == Notification.Via.WEBHOOK and not notification.secret:
            raise BadNotification("via", "A notification cannot become a webhook; create one, which shows its secret.")
        if notification.enabled:
            notification.disabled_reason = ""
        notification.changed_at = Now()
        notification.save()
        differing = audit.changes(before, _audited(notification))
        if "target" in changes:
            differing["after"]["target"] = shown_target(notification)
        audit.record("notification.change", id, notification, before=differing["before"], after=differing["after"])
    return Notification.objects.get(id=id)


def delete(id: UUID) -> None:
    """Deletes a notification. Its log stays until it is old; what is pending is not sent.

    Raises Notification.DoesNotExist.
    """
    with transaction.atomic():
        notification = Notification.objects.select_for_update().get(id=id)
        audit.record("notification.delete", id, notification, before=_audited(notification))
        notification.delete()


def renew_secret(id: UUID) -> str:
    """Makes a new secret and returns it. The old one signs messages, too, for OLD_SECRET_HOURS."""
    with transaction.atomic():
        notification = Notification.objects.select_for_update().get(id=id)
        if notification.via != Notification.Via.WEBHOOK:
            raise BadNotification("via", "Only the messages of a webhook are signed.")
        notification.old_secret, notification.secret = notification.secret, _new_secret()
        notification.old_secret_until = Now() + timedelta(hours=OLD_SECRET_HOURS)
        notification.save(update_fields=["secret", "old_secret", "old_secret_until"])
        audit.record("notification.renew_secret", id, notification)
    return notification.secret


def send_test(id: UUID) -> Delivery:
    """Sends a message of type "test"."""
    with transaction.atomic():
        delivery = Delivery.objects.create(notification_id=id, type="test", data={"notification": str(id)})
        submit_deliveries([delivery])
    return Delivery.objects.get(id=delivery.id)


def send_again(delivery_id: int) -> Delivery:
    """Sends a message once more, with the id that it had, whether or not it was delivered. Raises NotRepeatable."""
    with transaction.atomic():
        delivery = Delivery.objects.select_for_update().get(id=delivery_id)
        if delivery.state == Delivery.State.PENDING:
            raise NotRepeatable
        delivery.state, delivery.error, delivery.digest_job = Delivery.State.PENDING, "", None
        delivery.delivered_at = None
        delivery.save(update_fields=["state", "error", "digest_job", "delivered_at"])
        audit.record("notification.send_again", delivery.notification_id, delivery)
        if not delivery.by_digest:
            submit_deliveries([delivery])
    return Delivery.objects.get(id=delivery_id)


def shown_target(notification: Notification) -> str:
    """Where it sends, without what lets anyone else send there: Slack's URLs are secrets."""
    if notification.via == Notification.Via.SLACK:
        return "/".join(notification.target.split("/")[:3]) + "/…"
    return shown_url(notification.target) if notification.via == Notification.Via.WEBHOOK else notification.target


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _audited(notification: Notification) -> dict[str, Any]:
    return {name: getattr(notification, name) for name in AUDITED} | {"target": shown_target(notification)}


def check(notification: Notification) -> None:
    """Raises BadNotification, with what would be right, or UnknownKind."""
    via = Notification.Via(notification.via)
    least = MIN_DIGEST_SECONDS[via]
    if notification.digest_seconds < least:
        raise BadNotification("digest_seconds", f"Must be at least {least} for {via.value}, which is sent to people.")
    if notification.kind:
        kind_named(notification.kind)
    if not notification.statuses or not set(notification.statuses) <= set(FINAL):
        raise BadNotification("statuses", f"Must be at least one of {', '.join(FINAL)}.")
    if via == Notification.Via.MAIL:
        _check_addresses(notification.target)
        return
    try:
        checked_url(notification.target)
    except BadUrl as error:
        raise BadNotification("target", str(error)) from None


def _check_addresses(target: str) -> None:
    addresses = [address.strip() for address in target.split(",")]
    if len(addresses) > MAX_ADDRESSES:
        raise BadNotification("target", f"Must be at most {MAX_ADDRESSES} mail addresses, separated by commas.")
    for address in addresses:
        try:
            validate_email(address)
        except ValidationError:
            detail = f"Must be mail addresses, separated by commas; {address[:100]!r} is none."
            raise BadNotification("target", detail) from None
