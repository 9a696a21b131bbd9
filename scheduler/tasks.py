"""What Celery and the tick call of the scheduler."""

from __future__ import annotations

from typing import Any

from config.celery import CONTROL_QUEUE, app
from orchestrator import upkeep
from scheduler import services
from scheduler.models import FIRE


@app.task(name=FIRE, answered_in=CONTROL_QUEUE)
def fire(schedule_id: str, *args: Any, **kwargs: Any) -> None:
    """The bell of one schedule: fires it if it is due."""
    services.fire_one(schedule_id)


@upkeep.part
def follow_beat() -> None:
    services.follow_beat()


@upkeep.part
def fire_due_schedules() -> None:
    services.fire_due()
