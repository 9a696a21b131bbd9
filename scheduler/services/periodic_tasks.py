"""Follows what others change of the schedules' PeriodicTasks in the admin of django-celery-beat."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import F
from django_celery_beat.models import PeriodicTasks

from orchestrator.pg_values import as_text
from scheduler.models import TaskSchedule
from scheduler.recurrence.rules import BadRecurrence
from scheduler.services.schedules import locked_schedule, set_enabled


class Follower:
    """Pauses and resumes the schedules whose PeriodicTasks were disabled or enabled in Beat's own admin.

    Asks only after something changed there, so that it costs nothing however many schedules there are. A schedule and
    its PeriodicTask are always written together, so where they differ it was someone else who wrote.
    """

    def __init__(self) -> None:
        self.followed_until: datetime | None = None

    def follow(self) -> None:
        changed_at = PeriodicTasks.last_change()
        if changed_at == self.followed_until:
            return
        changed = TaskSchedule.objects.exclude(enabled=F("periodic_task__enabled")).exclude(periodic_task=None)
        for schedule_id, enabled in changed.values_list("id", "periodic_task__enabled"):
            _follow(schedule_id, enabled)
        self.followed_until = changed_at


follower = Follower()


def _follow(schedule_id: UUID, enabled: bool) -> None:
    try:
        set_enabled(schedule_id, enabled)
    except TaskSchedule.DoesNotExist:
        pass
    except BadRecurrence as error:
        # It cannot be resumed as it is: it stays paused, and so its PeriodicTask shows.
        with transaction.atomic():
            schedule = locked_schedule(schedule_id)
            schedule.last_error = as_text(str(error), at_most=2_000)
            schedule.update_celery_beat_task()
            schedule.save()
