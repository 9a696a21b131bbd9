"""The admin of schedules."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import NON_FIELD_ERRORS
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from access.permissions import owner_of
from orchestrator.admin.base import BoundedAdmin
from orchestrator.admin.rendering import cut, label, list_link, page_link, with_id
from orchestrator.shown.lists import column
from orchestrator.shown.words import age
from scheduler.admin.base import IdOrOwnerSearch, act_on_rows
from scheduler.jobs import shown
from scheduler.models import TaskSchedule
from scheduler.recurrence.rules import BadRecurrence
from scheduler.services.occurrences import database_now
from scheduler.services.schedules import (
    change_schedule,
    checked,
    create_schedule,
    delete_schedule,
    next_runs,
    run_now,
    set_enabled,
)

RUNS_SHOWN = 5


class ScheduleForm(forms.ModelForm):  # type: ignore[type-arg]
    """A schedule, checked as the API checks it."""

    class Meta:
        model = TaskSchedule
        fields = (
            "a", "b", "priority", "scheduled_at", "ends_at", "timezone", "interval", "every_x_days", "every_x_hours",
            "cron", "rrule", "schedule_x_times", "misfire_policy", "overlap", "enabled",
        )  # fmt: skip

    def _post_clean(self) -> None:
        """The database's constraints would say the same as these checks, but without a field's name."""
        super()._post_clean()  # type: ignore[misc]
        without_field = self.errors.pop(NON_FIELD_ERRORS, None)
        if self.errors:
            return
        try:
            checked(self.instance)
        except BadRecurrence as refusal:
            for name in refusal.fields:
                self.add_error(name, str(refusal))
        else:
            if without_field:
                self.errors[NON_FIELD_ERRORS] = without_field


@admin.register(TaskSchedule)
class TaskScheduleAdmin(IdOrOwnerSearch, BoundedAdmin):
    form = ScheduleForm
    list_display = ("sum", "state", "owner", "rule", "next_run", "last_run", "runs", "missed", "error_in_line")
    list_display_links = ("sum",)
    list_filter = ("enabled",)
    ordering = ("-id",)
    actions = ("pause_selected", "resume_selected", "run_selected_now")
    readonly_fields = (
        "state", "owner", "next_runs", "last_run_at", "run_count", "missed_count", "error", "tasks",
        "periodic_task_link", "created_at", "updated_at",
    )  # fmt: skip
    fieldsets = (
        ("Operands", {"fields": (("a", "b", "priority"),)}),
        (
            "Recurrence",
            {
                "description": "Give exactly one recurrence: interval, days and/or hours, cron, or RRULE.",
                "fields": (
                    "scheduled_at",
                    "ends_at",
                    ("timezone", "schedule_x_times"),
                    ("interval", "every_x_days", "every_x_hours"),
                    ("cron", "rrule"),
                    ("misfire_policy", "overlap"),
                    "enabled",
                ),
            },
        ),
        (
            "Status",
            {
                "fields": (
                    ("state", "owner", "tasks"),
                    "next_runs",
                    ("last_run_at", "run_count", "missed_count"),
                    "periodic_task_link",
                    "error",
                    ("created_at", "updated_at"),
                )
            },
        ),
    )

    def get_fieldsets(self, request: HttpRequest, obj: TaskSchedule | None = None) -> Any:
        """A schedule that is not saved yet has no status."""
        return super().get_fieldsets(request, obj) if obj else self.fieldsets[:-1]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"scheduled_at": database_now().replace(microsecond=0)}

    def save_model(self, request: HttpRequest, obj: TaskSchedule, form: Any, change: bool) -> None:
        if not change:
            obj.owner = owner_of(request.user)
            create_schedule(obj)
            return
        changes = {name: form.cleaned_data[name] for name in form.changed_data}
        if {"a", "b"} & changes.keys():
            changes["operation"] = ""
        change_schedule(obj.id, changes)

    def delete_model(self, request: HttpRequest, obj: TaskSchedule) -> None:
        delete_schedule(obj.id)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[TaskSchedule]) -> None:
        for schedule_id in list(queryset.values_list("id", flat=True)):
            delete_schedule(schedule_id)

    @admin.action(description="Pause the selected schedules", permissions=["pause"])
    def pause_selected(self, request: HttpRequest, schedules: QuerySet[TaskSchedule]) -> TemplateResponse | None:
        return act_on_rows(self, request, schedules, lambda id: set_enabled(id, False), "Pause", "Paused")

    @admin.action(description="Resume the selected schedules", permissions=["pause"])
    def resume_selected(self, request: HttpRequest, schedules: QuerySet[TaskSchedule]) -> TemplateResponse | None:
        return act_on_rows(self, request, schedules, lambda id: set_enabled(id, True), "Resume", "Resumed")

    @admin.action(description="Run the selected schedules now", permissions=["run"])
    def run_selected_now(self, request: HttpRequest, schedules: QuerySet[TaskSchedule]) -> TemplateResponse | None:
        return act_on_rows(self, request, schedules, run_now, "Run", "Ran")

    @column("schedule")
    def sum(self, schedule: TaskSchedule) -> SafeString:
        return with_id(f"{shown(schedule.a)} + {shown(schedule.b)}", schedule.id)

    @column("next run")
    def next_run(self, schedule: TaskSchedule) -> SafeString | str:
        return age(schedule.next_run_at)

    @column("last run")
    def last_run(self, schedule: TaskSchedule) -> SafeString | str:
        return age(schedule.last_run_at)

    @column("runs", "m-number")
    def runs(self, schedule: TaskSchedule) -> str:
        return f"{schedule.run_count:,}"

    @column("missed", "m-number")
    def missed(self, schedule: TaskSchedule) -> str:
        return f"{schedule.missed_count:,}"

    @column("error", "m-wide m-cut")
    def error_in_line(self, schedule: TaskSchedule) -> SafeString | str:
        return cut(schedule.last_error) if schedule.last_error else ""

    @admin.display(description="rule")
    def rule(self, schedule: TaskSchedule) -> str:
        if schedule.interval:
            return f"every {schedule.interval:,} s"
        if text := schedule.cron or schedule.rrule:
            return f"{Truncator(text).chars(60)} ({schedule.timezone})"
        parts = [(schedule.every_x_days, "days"), (schedule.every_x_hours, "hours")]
        return "every " + " and ".join(f"{amount:,} {unit}" for amount, unit in parts if amount)

    @admin.display(description="state")
    def state(self, schedule: TaskSchedule) -> SafeString:
        if schedule.last_error:
            return label("FAILED")
        if not schedule.enabled:
            return label("PAUSED")
        return label("ACTIVE" if schedule.next_run_at else "ENDED")

    @admin.display(description="next runs")
    def next_runs(self, schedule: TaskSchedule) -> SafeString | str:
        try:
            runs = next_runs(schedule, RUNS_SHOWN)
            zone = schedule.recurrence.zone
        except BadRecurrence as refusal:
            return str(refusal)
        shown_runs = ((f"{run.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}",) for run in runs)
        return format_html_join("", '<span class="block whitespace-nowrap">{}</span>', shown_runs) or "-"

    @admin.display(description="error")
    def error(self, schedule: TaskSchedule) -> str:
        return schedule.last_error or "-"

    @admin.display(description="tasks")
    def tasks(self, schedule: TaskSchedule) -> SafeString:
        return list_link("admin:scheduler_task_changelist", "Tasks of this schedule", schedule=schedule.id)

    @admin.display(description="periodic task")
    def periodic_task_link(self, schedule: TaskSchedule) -> SafeString | str:
        pk = schedule.periodic_task_id
        return page_link("admin:django_celery_beat_periodictask_change", pk) if pk else "-"
