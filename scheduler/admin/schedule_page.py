"""What the page of a schedule shows above its form: a strip of days with past and future runs, and the last runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.urls import reverse
from django.utils import timezone

from orchestrator.admin.charts import Bar, bars
from orchestrator.admin.rendering import label
from orchestrator.models import Job
from orchestrator.states import FINAL, Status
from scheduler.models import TaskSchedule
from scheduler.recurrence.rules import BadRecurrence, Recurrence

DAYS_PAST, DAYS_AHEAD = 14, 14
# Past runs looked at, and future ones computed: a schedule of every second has a million in a day.
MAX_PAST, MAX_AHEAD = 5_000, 2_000
MAX_RUNS_SHOWN, MAX_WAITING_SHOWN = 15, 5

Counts = dict[date, Counter[str]]


def context(schedule: TaskSchedule) -> dict[str, Any]:
    now = timezone.now()
    try:
        recurrence: Recurrence | None = schedule.recurrence
    except BadRecurrence:
        recurrence = None
    zone = recurrence.zone if recurrence else ZoneInfo("UTC")
    past, is_cut = _past(schedule, now, zone)
    ahead, until = _ahead(schedule, recurrence, now) if recurrence else (Counter(), None)
    return {
        "strip": _strip(past, ahead, now.astimezone(zone).date()),
        "past_is_cut": is_cut,
        "until": until,
        "waiting": [_due(at, zone) for at in reversed(schedule.queued[-MAX_WAITING_SHOWN:])],
        "waiting_label": label("WAITING"),
        "more_waiting": max(0, len(schedule.queued) - MAX_WAITING_SHOWN),
        "why": schedule.last_error if schedule.held_since else "",
        "runs": [_run(job, zone) for job in _last_runs(schedule)],
        "zone": str(zone),
        "jobs_url": f"{reverse('admin:orchestrator_job_changelist')}?schedule={schedule.id}",
    }


def _past(schedule: TaskSchedule, now: datetime, zone: ZoneInfo) -> tuple[Counts, bool]:
    """How many of its jobs of each day ended how; and whether there are more than were looked at."""
    jobs = Job.objects.filter(schedule_id=schedule.id, scheduled_for__gt=now - timedelta(days=DAYS_PAST))
    found = list(jobs.order_by("-id").values_list("scheduled_for", "status")[:MAX_PAST])
    counts: Counts = defaultdict(Counter)
    for scheduled_for, status in found:
        assert scheduled_for  # As the filter has it.
        counts[scheduled_for.astimezone(zone).date()][status] += 1
    return counts, len(found) == MAX_PAST


def _ahead(schedule: TaskSchedule, recurrence: Recurrence, now: datetime) -> tuple[Counter[date], datetime | None]:
    """How many runs are to come on each day; and until when, if they are too many to be computed."""
    if not schedule.enabled or schedule.next_run_at is None:
        return Counter(), None
    limit = MAX_AHEAD
    if schedule.schedule_x_times is not None:
        limit = min(limit, max(0, schedule.schedule_x_times - schedule.run_count))
    runs = recurrence.between(schedule.next_run_at, now + timedelta(days=DAYS_AHEAD), limit=limit)
    days = Counter(run.astimezone(recurrence.zone).date() for run in runs)
    return days, runs[-1] if len(runs) == MAX_AHEAD else None


def _strip(past: Counts, ahead: Counter[date], today: date) -> dict[str, Any]:
    days = [today + timedelta(days=n) for n in range(-DAYS_PAST + 1, DAYS_AHEAD)]
    columns = [_day(day, past.get(day, Counter()), ahead[day], is_today=day == today) for day in days]
    busiest = max(column.total for column in columns)
    ended = sum((counts for counts in past.values()), Counter[str]())
    said = ", ".join(f"{count:,} {status}" for status, count in sorted(ended.items())) or "none yet"
    return {
        "svg": bars(columns, f"Runs by the day. Until today: {said}. To come: {ahead.total():,}."),
        "past": said,
        "ahead": ahead.total(),
        "is_empty": not busiest,
        "peak": int(busiest),
        "labels": [f"{day:%a %d %b}" for day in (days[0], today, days[-1])],
    }


def _day(day: date, counts: Counter[str], to_come: int, *, is_today: bool) -> Bar:
    parts = [(f"m-{status.lower()}", float(counts[status])) for status in Status]
    said = [f"{count:,} {status}" for status, count in counts.items()] + ([f"{to_come:,} to come"] if to_come else [])
    return Bar(
        [*parts, ("m-to-come", float(to_come))],
        f"{day:%A %d %B}{', today' if is_today else ''}: {', '.join(said) or 'none'}",
    )


def _last_runs(schedule: TaskSchedule) -> list[Job]:
    jobs = Job.objects.filter(schedule_id=schedule.id).order_by("-id")
    return list(jobs.defer("payload", "result")[:MAX_RUNS_SHOWN])


def _run(job: Job, zone: ZoneInfo) -> dict[str, Any]:
    ran = job.status in FINAL and job.started_at and job.finished_at
    late = (job.started_at - job.scheduled_for).total_seconds() if job.started_at and job.scheduled_for else None
    return {
        "job": job,
        "url": reverse("admin:orchestrator_job_change", args=[job.id]),
        "due": _due(job.scheduled_for, zone) if job.scheduled_for else "by hand",
        "state": label(job.status),
        "late": late,
        "took": (job.finished_at - job.started_at).total_seconds() if ran else None,  # type: ignore[operator]
    }


def _due(at: datetime, zone: ZoneInfo) -> str:
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S}"
