"""What Celery and the tick call of the scheduler."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import celery
from celery import shared_task
from django.conf import settings
from django.utils import timezone

from orchestrator.queries import CLOCKS_AGREE_WITHIN_SECONDS, created_between, least_id
from orchestrator.upkeep import retention, tick
from scheduler.jobs import add
from scheduler.models import FIRE, TaskResult
from scheduler.services import failures as failures
from scheduler.services import firing
from scheduler.services.periodic_tasks import follower

# By then a task has long gone with its latest run, and its results with it.
RESULTS_KEPT_LONGER = timedelta(days=1)


@shared_task(name=FIRE, base=celery.Task, bell_queue=settings.CONTROL_QUEUE)
def fire(schedule_id: str, *args: Any, **kwargs: Any) -> None:
    """The bell of one schedule: fires it if it is due."""
    firing.fire_one(UUID(schedule_id))


@tick.part
def follow_beat() -> None:
    follower.follow()


@tick.part
def release_queued_occurrences() -> None:
    """Before others are fired: what has waited goes first."""
    firing.release_queued()


@tick.part
def fire_due_schedules() -> None:
    firing.fire_due()


@retention.pruning
def results_of_earlier_runs() -> bool:
    """Those of tasks that were run again since, and so are kept."""
    days = retention.kept_days(add.name, add.keep_days)
    if not days:
        return False
    before = timezone.now() - timedelta(days=days) - RESULTS_KEPT_LONGER
    # A task is older than its results, so only the first of the key's index are read.
    of_old_tasks = TaskResult.objects.filter(task_id__lte=least_id(before.timestamp() + CLOCKS_AGREE_WITHIN_SECONDS))
    return retention.delete_some(created_between(of_old_tasks.order_by("task_id", "id"), None, before))
