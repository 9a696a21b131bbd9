"""The checks of `manage.py doctor` on schedules. They only read."""

from __future__ import annotations

from orchestrator.diagnostics.checks import Finding, check, fail, ok, warn
from scheduler import queries
from scheduler.models import TaskSchedule
from scheduler.recurrence.rules import BadRecurrence, make_rule

MAX_NAMED = 5
MAX_RULES = 10_000


@check("schedules")
def schedules() -> Finding:
    """What is due fires."""
    overdue = queries.overdue_schedules()
    if late := [str(id) for id in overdue.values_list("id", flat=True)[:MAX_NAMED]]:
        return fail(
            f"Due for more than a minute, but not fired by the tick: {', '.join(late)}.",
            "See the check `tick`, and the log of the control worker.",
        )
    return ok("None is overdue.")


@check("stopped schedules")
def stopped_schedules() -> Finding:
    """None has stopped because of an error."""
    stopped = queries.stopped_schedules()
    if listed := [f"{id} ({error})" for id, error in stopped.values_list("id", "last_error")[:MAX_NAMED]]:
        return warn(f"Stopped by an error: {', '.join(listed)}.", "Change the schedule, or pause and resume it.")
    return ok("None was stopped by an error.")


@check("schedule rules")
def schedule_rules() -> Finding:
    """Every stored rule is still accepted; one that is not stops its schedule when it is due."""
    firing = TaskSchedule.objects.filter(enabled=True, next_run_at__isnull=False, interval=None, every_x_days=None)
    rules = firing.filter(every_x_hours=None).order_by("cron", "rrule", "id").distinct("cron", "rrule")
    refused = []
    for id, cron, rrule in rules.values_list("id", "cron", "rrule")[:MAX_RULES]:
        try:
            make_rule(cron=cron, rrule=rrule)
        except BadRecurrence as error:
            refused.append(f"{id} ({error})")
    if refused:
        named = ", ".join(refused[:MAX_NAMED])
        return warn(
            f"These will stop when due, because their rules are no longer accepted: {named}.", "Change the rules."
        )
    return ok("All rules are still accepted.")
