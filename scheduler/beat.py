"""Beat, and its scheduler: Celery's own, but for the doorbells of our schedules, which the tick fires all together,
and for rows that name a kind, of which it submits jobs.
"""

from __future__ import annotations

from typing import Any

from celery import platforms
from celery.apps import beat as apps_beat
from celery.beat import Service
from django_celery_beat.schedulers import DatabaseScheduler

from orchestrator.kinds import known_kind
from scheduler.models import FIRE
from scheduler.services.periodic_jobs import submit_if_due


class Beat(apps_beat.Beat):
    """Celery's, but for how it ends."""

    def install_sync_handler(self, service: Service) -> None:
        """Celery's handler of the signal writes the schedule amid whatever it interrupts, and raises SystemExit there.
        What the writing fails of while the schedule is read, and SystemExit in a callback of the garbage collector,
        are lost. So the loop is told first, and writes the schedule when it ends.
        """

        def end(*_: Any) -> None:
            service.stop()
            raise SystemExit

        platforms.signals.update(SIGTERM=end, SIGINT=end)


class Scheduler(DatabaseScheduler):  # type: ignore[misc]
    """Reading a hundred thousand doorbells would keep Beat from ticking for longer than the schedules may be late."""

    # A connection of Beat's own, for which it would wait without end, or end where the broker refuses it. Each message
    # takes one of the app's instead.
    producer = None

    def enabled_models_qs(self) -> Any:
        return super().enabled_models_qs().exclude(task=FIRE)

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **options: Any) -> Any:
        if known_kind(entry.task) is None:
            return super().apply_async(entry, producer=producer, advance=advance, **options)
        # As Beat does, first of all: what cannot be submitted is not tried again in the same second.
        reserved = self.reserve(entry) if advance else entry
        return submit_if_due(reserved.model.pk, reserved.model.last_run_at, self.app)
