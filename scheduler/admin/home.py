"""The home page's panel on schedules."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from orchestrator.admin.home import Alert, Shown, panel
from scheduler import queries
from scheduler.models import TaskSchedule

MAX_NEXT, MAX_STOPPED, MAX_HELD = 6, 6, 6
# As `manage.py doctor` has it.
OVERDUE = timedelta(minutes=1)


def next_ones() -> QuerySet[TaskSchedule]:
    """The schedules that fire next, the overdue ones first, those that have stopped because of an error, and those
    that limits hold back, which may be among the first.
    """
    enabled = TaskSchedule.objects.filter(enabled=True)
    stopped = enabled.filter(next_run_at=None).exclude(last_error="")
    due = enabled.filter(next_run_at__isnull=False).order_by("next_run_at")
    held = queries.held_schedules()[:MAX_HELD]
    return due[:MAX_NEXT].union(stopped.order_by("id")[:MAX_STOPPED], held, all=True)


@panel("scheduler/admin/home.html", permission="scheduler.view_taskschedule", place=30)
def schedules(request: HttpRequest) -> Shown:
    overdue_before = timezone.now() - OVERDUE
    found: list[dict[str, Any]] = [
        {
            "url": reverse("admin:scheduler_taskschedule_change", args=[each.id]),
            "name": each.title,
            "row": each,
            "is_overdue": bool(each.next_run_at and each.next_run_at < overdue_before),
        }
        for each in {each.id: each for each in next_ones()}.values()
    ]
    alerts = [Alert(f"The schedule {each['name']} is overdue.", each["url"]) for each in found if each["is_overdue"]]
    alerts += [
        Alert(f"The schedule {each['name']} has stopped: {each['row'].last_error}", each["url"])
        for each in found
        if each["row"].next_run_at is None and not each["row"].held_since
    ]
    alerts += [
        Alert(f"The schedule {each['name']} is held back: its owner has too much unfinished.", each["url"])
        for each in found
        if each["row"].held_since and each["row"].held_since < overdue_before
    ]
    return Shown({"schedules": found}, alerts)
