"""The scheduler of Beat: Beat's own, but for the doorbells of our schedules, which the tick fires all together."""

from __future__ import annotations

from typing import Any

from django_celery_beat.schedulers import DatabaseScheduler

from scheduler.models import FIRE


class Scheduler(DatabaseScheduler):  # type: ignore[misc]
    """Reading a hundred thousand doorbells would keep Beat from ticking for longer than the schedules may be late."""

    # A connection of Beat's own, for which it would wait without end, or end where the broker refuses it. Each message
    # takes one of the app's instead.
    producer = None

    def enabled_models_qs(self) -> Any:
        return super().enabled_models_qs().exclude(task=FIRE)
