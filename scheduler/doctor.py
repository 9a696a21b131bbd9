"""The checks of `manage.py doctor` on schedules. They only read."""

from __future__ import annotations

from django_celery_beat.models import PeriodicTask

from orchestrator.diagnostics.checks import Finding, check, fail, ok, warn
from orchestrator.kind_problems import BadPayload, InternalKind
from orchestrator.kinds import all_kinds, kind_open_to_clients
from orchestrator.submission import BadSubmission
from scheduler import queries
from scheduler.models import TaskSchedule
from scheduler.recurrence.rules import BadRecurrence, make_rule
from scheduler.services.periodic_jobs import payload_of

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


@check("held schedules")
def held_schedules() -> Finding:
    """The limits of owners leave room for what is due."""
    held = queries.held_schedules()
    if listed := [f"{id} of {owner!r}" for id, owner in held.values_list("id", "owner")[:MAX_NAMED]]:
        return warn(
            f"Held back for more than a minute, since their owners have too much unfinished: {', '.join(listed)}.",
            "It goes on by itself. Cancel some of the owner's jobs, or raise CLIENT_MAX_UNFINISHED, "
            "CLIENT_MAX_STORED_BYTES, or the kind's max_unfinished_per_owner.",
        )
    return ok("None is held back by the limits of its owner.")


@check("periodic tasks of kinds")
def periodic_tasks() -> Finding:
    """Beat can submit a job of each row that names a kind."""
    refused = []
    rows = PeriodicTask.objects.filter(enabled=True, task__in=[kind.name for kind in all_kinds()]).order_by("pk")
    for row in rows[:MAX_RULES]:
        try:
            kind_open_to_clients(row.task).read_payload(payload_of(row))
        except (InternalKind, BadPayload, BadSubmission, ValueError) as error:
            refused.append(f"{row.name} ({error})")
    if refused:
        return warn(
            f"No job can be submitted of: {', '.join(refused[:MAX_NAMED])}.", "Change their kwargs in the admin."
        )
    return ok("All can be submitted.")


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
