"""Backfills: occurrences that are past become tasks afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db import transaction

from access import audit
from scheduler.services.occurrences import database_now, existing_occurrences, task_of
from scheduler.services.schedules import MAX_MISSED, locked_schedule
from scheduler.services.tasks import create_tasks


class BadBackfill(ValueError):
    """The time to be filled holds what cannot be."""

    def __init__(self, message: str) -> None:
        self.fields = ("to",)
        super().__init__(message)


@dataclass(frozen=True)
class Backfill:
    """How many occurrences there are, how many of them were tasks already, and the tasks made of the others."""

    occurrences: int
    already_tasks: int
    task_ids: list[UUID] = field(default_factory=list)


def backfill(
    schedule_id: UUID, begin: datetime, end: datetime, *, dry_run: bool = False, now: datetime | None = None
) -> Backfill:
    """Makes tasks of the schedule's occurrences from one time to another, both included, that are none yet; outside
    its count, and whatever its policies. A dry run only counts.

    Raises TaskSchedule.DoesNotExist, BadRecurrence, or BadBackfill for what is still to come or too much.
    """
    with transaction.atomic():
        schedule = locked_schedule(schedule_id)
        if end > (now or database_now()):
            raise BadBackfill("Only past occurrences can be backfilled; future ones run by themselves.")
        occurrences = schedule.recurrence.between(begin, end, limit=MAX_MISSED + 1)
        if len(occurrences) > MAX_MISSED:
            raise BadBackfill(f"More than {MAX_MISSED:,} occurrences lie in between; backfill shorter ranges.")
        existing = existing_occurrences((schedule.id, at) for at in occurrences)
        missing = [at for at in occurrences if (schedule.id, at) not in existing]
        ids = [] if dry_run else create_tasks([task_of(schedule, at) for at in missing])
        if ids:
            after = {"from": begin, "to": end, "tasks": len(ids)}
            audit.record("schedule.backfill", schedule_id, schedule, after=after)
    return Backfill(len(occurrences), len(existing), ids)
