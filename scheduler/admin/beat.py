"""django-celery-beat's own admin, where each schedule has a row too."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from orchestrator.admin.base import MAX_AT_ONCE, act_on_each
from orchestrator.admin.third_party import UnfoldPeriodicTaskAdmin, UnfoldPeriodicTaskInline, UnfoldScheduleAdmin
from orchestrator.kinds import all_kinds
from scheduler.admin.base import REFUSALS
from scheduler.models import FIRE, TaskSchedule
from scheduler.services.periodic_jobs import submit_job_of
from scheduler.services.schedules import run_now

admin.site.unregister(PeriodicTask)
admin.site.unregister(IntervalSchedule)


@admin.register(PeriodicTask)
class BeatTaskAdmin(UnfoldPeriodicTaskAdmin):
    """Enabling and disabling reach a schedule with the next tick; running it is done here, at once.

    django-celery-beat lets everyone with view permission use its actions, and keeps no history of them.
    """

    actions = ("enable_tasks", "disable_tasks", "toggle_tasks", "run_tasks")

    @admin.action(description="Enable selected tasks", permissions=["change"])
    def enable_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self.record_each(queryset.filter(enabled=False), "enable")
        super().enable_tasks(request, queryset)

    @admin.action(description="Disable selected tasks", permissions=["change"])
    def disable_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self.record_each(queryset.filter(enabled=True), "disable")
        super().disable_tasks(request, queryset)

    @admin.action(description="Toggle activity of selected tasks", permissions=["change"])
    def toggle_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self.record_each(queryset.filter(enabled=True), "disable")
        self.record_each(queryset.filter(enabled=False), "enable")
        super().toggle_tasks(request, queryset)

    @admin.action(description="Run selected tasks", permissions=["change"])
    def run_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        kinds = [kind.name for kind in all_kinds()]
        ours, of_kinds = queryset.filter(task=FIRE), queryset.filter(task__in=kinds)
        others = queryset.exclude(task=FIRE).exclude(task__in=kinds)
        if others.exists():
            self.record_each(others, "run")
            super().run_tasks(request, others)
        self.record_each(of_kinds, "run")
        rows = PeriodicTask.objects.in_bulk(list(of_kinds.values_list("pk", flat=True)[:MAX_AT_ONCE]))
        if rows:
            act_on_each(self, request, list(rows), lambda pk: submit_job_of(rows[pk]), "Ran", REFUSALS)
        schedules = TaskSchedule.objects.filter(periodic_task__in=ours).order_by("pk")
        act_on_each(
            self, request, list(schedules.values_list("pk", flat=True)[:MAX_AT_ONCE]), run_now, "Ran", REFUSALS
        )


class PagedPeriodicTaskInline(UnfoldPeriodicTaskInline):
    """The rows that share an interval, which can be very many, page by page."""

    per_page = 20


@admin.register(IntervalSchedule)
class SharedIntervalAdmin(UnfoldScheduleAdmin):
    inlines = (PagedPeriodicTaskInline,)
