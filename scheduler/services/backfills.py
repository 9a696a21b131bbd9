"""Backfills: occurrences that are past are submitted afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction

from access import audit
from scheduler.services.occurrences import Occurrence, database_now, existing_occurrences, submit_occurrences
from scheduler.services.schedules import MAX_MISSED, locked_schedule


class BadBackfill(ValueError):
    """The time to be filled holds what cannot be."""

    def __init__(self, message: str) -> None:
        self.fields = ("to",)
        super().__init__(message)


@dataclass(frozen=True)
class Backfill:
    """How many occurrences there are, how many of them were submitted already, and how many of the others are now."""

    occurrences: int
    already_submitted: int
    created: int


def backfill(
    schedule_id: UUID, begin: datetime, end: datetime, *, dry_run: bool = False, now: datetime | None = None
) -> Backfill:
    """Submits the schedule's occurrences from one time to another, both included, that were not yet; outside its
    count, and whatever its policies. A dry run only counts.

    Raises TaskSchedule.DoesNotExist, BadRecurrence, BadBackfill for what is still to come, or too much, or what else
    keeps its jobs from being submitted; then nothing was written.
    """
    with transaction.atomic():
        schedule = locked_schedule(schedule_id)
        now = now or database_now()
        if end > now:
            raise BadBackfill("Only past occurrences can be backfilled; future ones run by themselves.")
        occurrences = schedule.recurrence.between(begin, end, limit=MAX_MISSED + 1)
        if len(occurrences) > MAX_MISSED:
            raise BadBackfill(f"More than {MAX_MISSED:,} occurrences lie in between; backfill shorter ranges.")
        existing = existing_occurrences((schedule.id, at) for at in occurrences)
        missing = [at for at in occurrences if (schedule.id, at) not in existing]
        if missing and not dry_run:
            refused = submit_occurrences([Occurrence(schedule, at) for at in missing], now)
            if refused:
                raise BadBackfill(f"{len(refused):,} of {len(missing):,} cannot be submitted now. {refused[0].reason}")
            after = {"from": begin, "to": end, "jobs": len(missing)}
            audit.record("schedule.backfill", schedule_id, schedule, after=after)
    return Backfill(len(occurrences), len(existing), len(missing))
