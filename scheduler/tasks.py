"""What Celery and the tick call of the scheduler."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from config.celery import CONTROL_QUEUE, app
from orchestrator import retention, upkeep
from orchestrator.queries import created_between
from scheduler import services
from scheduler.jobs import add
from scheduler.models import FIRE, TaskResult

# By then a task has long gone with its latest run, and its results with it.
RESULTS_KEPT_LONGER = timedelta(days=1)


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


@retention.pruning
def results_of_earlier_runs() -> bool:
    """Those of tasks that were run again since, and so are kept."""
    days = retention.kept_days(add.name, add.keep_days)
    if not days:
        return False
    before = timezone.now() - timedelta(days=days) - RESULTS_KEPT_LONGER
    return retention.delete_some(created_between(TaskResult.objects.order_by("id"), None, before))
