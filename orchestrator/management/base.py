"""What the commands share that operators type."""

from __future__ import annotations

from django.core.management.base import BaseCommand


class OperatorCommand(BaseCommand):
    """Runs without Django's system checks: they take twice the time of the rest, and the servers have passed them."""

    requires_system_checks: list[str] = []
