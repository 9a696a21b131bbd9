"""What becomes of an occurrence while earlier jobs of its schedule have not ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from orchestrator import submission
from orchestrator.models import Job
from orchestrator.states import UNFINISHED, Status
from scheduler.models import TaskSchedule

# Occurrences of a schedule that may wait at once; what comes then is missed.
MAX_QUEUED = 1_000

# Of schedules, how many of their jobs have not ended.
UNFINISHED_JOBS = """
SELECT schedule_id, count(*) FROM orchestrator_job
WHERE schedule_id = ANY(%s) AND status IN ('CREATED', 'RUNNING')
GROUP BY schedule_id
"""


class Verdict(NamedTuple):
    """The occurrences that are run, those that wait, and how many are left out."""

    run: list[datetime]
    queued: list[datetime]
    missed: int = 0


def unfinished_jobs(schedule_ids: Collection[UUID]) -> dict[UUID, int]:
    """How many jobs of the schedules have not ended, however they were begun; those with none are left out."""
    if not schedule_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(UNFINISHED_JOBS, [list(schedule_ids)])
        return dict(cursor.fetchall())


def judge(schedule: TaskSchedule, waiting: Sequence[datetime], unfinished: int) -> Verdict:
    """What becomes of the occurrences that want to run, oldest first. The schedule is locked."""
    if schedule.overlap == TaskSchedule.Overlap.CANCEL_RUNNING:
        verdict = _make_room(schedule, waiting, unfinished)
    else:
        verdict = _within(schedule, waiting, schedule.max_running - unfinished)
    return _within_count(schedule, verdict)


def _within(schedule: TaskSchedule, waiting: Sequence[datetime], free: int) -> Verdict:
    if schedule.overlap == TaskSchedule.Overlap.ALLOW:
        return Verdict(list(waiting), [])
    run, others = list(waiting[: max(0, free)]), list(waiting[max(0, free) :])
    if schedule.overlap == TaskSchedule.Overlap.SKIP:
        return Verdict(run, [], missed=len(others))
    return Verdict(run, others[:MAX_QUEUED], missed=len(others[MAX_QUEUED:]))


def _make_room(schedule: TaskSchedule, waiting: Sequence[datetime], unfinished: int) -> Verdict:
    """Only the latest matter. Those for which there is no room until a running job has stopped wait for that."""
    wanted = list(waiting[-schedule.max_running :])
    surplus = unfinished + len(wanted) - schedule.max_running
    free = schedule.max_running - unfinished
    if surplus > 0:
        free += cancel_oldest(schedule.id, surplus)
    run, queued = wanted[: max(0, free)], wanted[max(0, free) :]
    return Verdict(run, queued, missed=len(waiting) - len(wanted))


def cancel_oldest(schedule_id: UUID, count: int) -> int:
    """Cancels so many of the schedule's oldest unfinished jobs, unless it was done before; returns how many have ended
    by that. One that a worker holds within a transaction, which cannot be stopped, is left alone: it ends soon.
    """
    unfinished = Job.objects.filter(schedule_id=schedule_id, status__in=UNFINISHED).order_by("id")
    oldest = list(unfinished.values_list("id", "cancel_requested_at")[:count])
    to_cancel = [id for id, requested_at in oldest if requested_at is None]
    locked = Job.objects.filter(id__in=to_cancel, status__in=UNFINISHED).select_for_update(skip_locked=True)
    return sum(
        submission.cancel(id, action="schedule.cancel").status == Status.CANCELLED
        for id in locked.order_by("id").values_list("id", flat=True)
    )


def _within_count(schedule: TaskSchedule, verdict: Verdict) -> Verdict:
    """Cut to what schedule_x_times still allows."""
    if schedule.schedule_x_times is None:
        return verdict
    left = max(0, schedule.schedule_x_times - schedule.run_count)
    run = verdict.run[:left]
    return verdict._replace(run=run, queued=verdict.queued[: left - len(run)])
