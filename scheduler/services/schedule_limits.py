"""How many schedules a client may have, how often they run, and how many jobs are made by hand of one, or of a
task: see `orchestrator.client_limits`.
"""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from uuid import UUID

from django.conf import settings

from access.permissions import User
from orchestrator.client_limits import (
    NO_LIMITS,
    OR_PERMISSION,
    BeyondLimits,
    QuotaExceeded,
    check,
    check_again,
    check_quotas,
    limits_of,
)
from orchestrator.kind_problems import Problem
from orchestrator.models import Job
from scheduler.models import Task, TaskSchedule
from scheduler.services.backfills import backfill
from scheduler.services.occurrences import database_now
from scheduler.services.schedules import MAX_MISSED, next_runs

# So many of the next runs are looked at: more than an RRULE can pick out of each period by BYSETPOS.
RUNS = 400
RECURRENCES = ("rrule", "cron", "interval", "every_x_hours", "every_x_days")


def check_count(user: User, owner: str) -> None:
    """Raises QuotaExceeded if the client may not have one schedule more."""
    if limits_of(user) is not NO_LIMITS:
        there, allowed = TaskSchedule.objects.filter(owner=owner).count(), settings.ENV.CLIENT_MAX_SCHEDULES
        if there >= allowed:
            raise QuotaExceeded(f"You have {there:,} schedules, of which you may have {allowed:,}; delete some.")


def check_jobs(user: User, schedule: TaskSchedule, count: int) -> None:
    """Raises QuotaExceeded if the client may not have so many unfinished jobs more of that schedule."""
    limits = limits_of(user)
    if limits is not NO_LIMITS:
        payload = len(json.dumps(schedule.payload)) if schedule.payload else 0
        check_quotas({schedule.owner: count}, limits, stored=count * payload)


def check_run_again(user: User, task_id: UUID) -> None:
    """Raises QuotaExceeded if the client may not have one unfinished job more that adds a task's numbers again."""
    check_again(Job.objects.filter(id__in=Task.objects.filter(id=task_id).values("job")), limits_of(user).quotas)


def check_backfill(user: User, schedule: TaskSchedule, begin: datetime, end: datetime) -> None:
    """Raises QuotaExceeded if the backfill would make more than that, and what `backfill` raises."""
    if limits_of(user) is not NO_LIMITS:
        counted = backfill(schedule.id, begin, end, dry_run=True)
        check_jobs(user, schedule, counted.occurrences - counted.already_submitted)


def check_schedule(user: User, schedule: TaskSchedule) -> None:
    """Raises BeyondLimits or QuotaExceeded for a schedule, as it was written, that a client may not have; roll it
    back.
    """
    limits = limits_of(user)
    if limits is NO_LIMITS:
        return
    check({"priority": schedule.priority}, limits)
    if missed := _missed(schedule):
        check_jobs(user, schedule, missed)
    least = settings.ENV.CLIENT_MIN_SCHEDULE_SECONDS
    gaps = [(after - before).total_seconds() for before, after in pairwise(next_runs(schedule, RUNS))]
    if gaps and min(gaps) < least:
        name = next(name for name in RECURRENCES if getattr(schedule, name) is not None)
        detail = f"Two runs must be at least {least:,} s apart, and these are {min(gaps):,g} s. {OR_PERMISSION}"
        raise BeyondLimits([Problem(f"/{name}", "client_limit", detail)])


def _missed(schedule: TaskSchedule) -> int:
    """How many runs it makes up for at once, as it is."""
    begin = schedule.scheduled_at if schedule._state.adding else schedule.next_run_at
    if begin is None or schedule.misfire_policy != TaskSchedule.MisfirePolicy.ALL:
        return 0
    missed = len(schedule.recurrence.between(begin, database_now(), limit=MAX_MISSED))
    return missed if schedule.schedule_x_times is None else min(missed, schedule.schedule_x_times)
