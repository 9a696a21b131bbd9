"""What is said of jobs that ended, as a webhook, Slack or a mail has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from django.conf import settings
from django.urls import reverse

from orchestrator.models import Delivery

# Jobs that a message for people lists, and characters of an error in it.
MAX_LISTED, MAX_ERROR_CHARACTERS = 20, 200

MARKS = {"COMPLETED": "✓", "FAILED": "✗", "CANCELLED": "–"}


class Mail(NamedTuple):
    subject: str
    text: str


def webhook_body(delivery: Delivery) -> bytes:
    """The same for each attempt at the delivery."""
    return _body(delivery.type, delivery.created_at, delivery.data)


def digest_body(deliveries: Sequence[Delivery]) -> bytes:
    return _body("jobs.ended", deliveries[-1].created_at, {"jobs": [delivery.data for delivery in deliveries]})


def _body(type: str, timestamp: Any, data: Any) -> bytes:
    return msgspec.json.encode({"type": type, "timestamp": timestamp, "data": data})


def slack_body(deliveries: Sequence[Delivery]) -> bytes:
    """Slack reads &, < and > as markup."""
    text = "\n".join(_lines(deliveries))
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return msgspec.json.encode({"text": escaped})


def mail(deliveries: Sequence[Delivery]) -> Mail:
    return Mail(f"[Muster] {_summary(deliveries)}", "\n".join(_lines(deliveries)) + "\n")


def _lines(deliveries: Sequence[Delivery]) -> list[str]:
    """The failed ones first, since of many not all are listed."""
    shown = sorted(deliveries, key=lambda delivery: delivery.type != "job.failed")[:MAX_LISTED]
    lines = [_line(delivery) for delivery in shown]
    if len(deliveries) > 1:
        lines.insert(0, f"{_summary(deliveries)}:")
    if more := len(deliveries) - len(shown):
        lines.append(f"… and {more:,} more.")
    return lines


def _summary(deliveries: Sequence[Delivery]) -> str:
    if len(deliveries) == 1:
        return _heading(deliveries[0])
    counts = Counter(_status(delivery).lower() for delivery in deliveries)
    return f"{len(deliveries):,} jobs ended: " + ", ".join(f"{count:,} {status}" for status, count in counts.items())


def _line(delivery: Delivery) -> str:
    error = str(delivery.data.get("error") or "").splitlines()
    parts = [f"{MARKS.get(_status(delivery), '·')} {_heading(delivery)}"]
    if error:
        parts.append(error[0][:MAX_ERROR_CHARACTERS])
    if delivery.job_id and settings.ENV.PUBLIC_URL:
        parts.append(f"{settings.ENV.PUBLIC_URL.rstrip('/')}{reverse('job', args=[delivery.job_id])}")
    return " – ".join(parts)


def _heading(delivery: Delivery) -> str:
    if delivery.job_id is None:
        return "This is a test message."
    return f"{delivery.kind} {delivery.job_id} {_status(delivery).lower()}"


def _status(delivery: Delivery) -> str:
    return str(delivery.data.get("status", "TEST"))
