"""What `manage.py doctor` asks of the schedules."""

from __future__ import annotations

from datetime import timedelta

from django.db.models.functions import Now

from orchestrator.diagnosis import Finding, check, fail, ok, warn
from scheduler.models import TaskSchedule

# Due schedules are fired by the next tick, and a great many of them within some more.
OVERDUE = timedelta(minutes=1)
MOST_NAMED = 5


@check("schedules")
def schedules() -> Finding:
    """What is due fires."""
    overdue = TaskSchedule.objects.filter(enabled=True, next_run_at__lt=Now() - OVERDUE).order_by("next_run_at")
    if late := [str(id) for id in overdue.values_list("id", flat=True)[:MOST_NAMED]]:
        return fail(
            f"Due for more than a minute, and not fired by the tick: {', '.join(late)}.",
            "See the check `tick`, and the log of the control worker.",
        )
    return ok("None is overdue.")


@check("stopped schedules")
def stopped_schedules() -> Finding:
    """None has stopped because of an error."""
    stopped = TaskSchedule.objects.filter(enabled=True, next_run_at=None).exclude(last_error="").order_by("id")
    if told := [f"{id} ({error})" for id, error in stopped.values_list("id", "last_error")[:MOST_NAMED]]:
        return warn(f"Stopped by an error: {', '.join(told)}.", "Change the schedule, or pause and resume it.")
    return ok("None was stopped by an error.")
