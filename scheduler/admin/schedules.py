"""The admin of schedules."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin
from django.core.exceptions import NON_FIELD_ERRORS
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from unfold.widgets import UnfoldAdminSelectWidget

from access.permissions import User, owner_of
from orchestrator.admin.base import BoundedAdmin
from orchestrator.admin.rendering import cut, label, list_link, page_link, with_id
from orchestrator.client_limits import QuotaExceeded
from orchestrator.kind_problems import BadPayload, InternalKind, UnknownKind
from orchestrator.kinds import all_kinds
from orchestrator.shown.lists import column
from orchestrator.shown.words import age
from orchestrator.submission import BadSubmission
from scheduler.admin import schedule_page
from scheduler.admin.base import IdOrOwnerSearch, act_on_rows
from scheduler.models import ADD, TaskSchedule
from scheduler.recurrence.rules import BadRecurrence
from scheduler.services.occurrences import database_now
from scheduler.services.schedule_limits import check_count, check_jobs, check_schedule
from scheduler.services.schedules import (
    change_schedule,
    check_notifications,
    checked,
    create_schedule,
    delete_schedule,
    next_runs,
    run_now,
    set_enabled,
)
from scheduler.services.work import WORK, check_work

RUNS_SHOWN = 5


def _kinds_to_schedule() -> list[tuple[str, str]]:
    open_to_all = [(kind.name, kind.name) for kind in all_kinds() if not kind.internal]
    return [(ADD, "add a and b"), *open_to_all]


class ScheduleForm(forms.ModelForm):  # type: ignore[type-arg]
    """A schedule, checked as the API checks it."""

    class Meta:
        model = TaskSchedule
        fields = (
            "name", "description", "kind", "payload", "a", "b", "priority", "scheduled_at", "ends_at", "timezone",
            "interval", "every_x_days", "every_x_hours", "cron", "rrule", "schedule_x_times", "misfire_policy",
            "overlap", "max_running", "jitter_seconds", "exclude", "include", "calendars", "on_closed",
            "on_failure", "enabled",
        )  # fmt: skip

    # Whoever fills it in, whose limits hold.
    user: User

    kind = forms.ChoiceField(choices=_kinds_to_schedule, widget=UnfoldAdminSelectWidget, initial=ADD)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        kind: Any = self.fields.get("kind")
        if kind and self.instance.kind not in dict(kind.choices):
            # It stays what it is, whatever becomes of it.
            kind.choices = [*kind.choices, (self.instance.kind, self.instance.kind)]

    def _post_clean(self) -> None:
        """The database's constraints would say the same as these checks, but without a field's name."""
        super()._post_clean()  # type: ignore[misc]
        without_field = self.errors.pop(NON_FIELD_ERRORS, None)
        if self.errors:
            return
        try:
            if WORK & set(self.changed_data):
                check_work(self.instance)
            checked(self.instance)
            check_notifications(self.instance)
            self._check_limits()
        except BadRecurrence as refusal:
            for name in refusal.fields:
                self.add_error(name.partition("/")[0], str(refusal))
        except (UnknownKind, InternalKind, BadPayload, BadSubmission) as refusal:
            for problem in refusal.problems:
                _, field, *rest = problem.pointer.split("/")
                self.add_error(field, f"/{'/'.join(rest)}: {problem.detail}" if rest else problem.detail)
        except QuotaExceeded as refusal:
            self.add_error(None, str(refusal))
        else:
            if without_field:
                self.errors[NON_FIELD_ERRORS] = without_field

    def _check_limits(self) -> None:
        """Raises BeyondLimits or QuotaExceeded. What is there already may stay as it is."""
        if self.instance._state.adding:
            self.instance.owner = owner_of(self.user)
            check_count(self.user, self.instance.owner)
        if self.changed_data:
            check_schedule(self.user, self.instance)


@admin.register(TaskSchedule)
class TaskScheduleAdmin(IdOrOwnerSearch, BoundedAdmin):
    form = ScheduleForm
    change_form_before_template = "scheduler/admin/schedule_runs.html"
    list_display = ("schedule", "state", "owner", "rule", "next_run", "last_run", "runs", "missed", "error_in_line")
    list_display_links = ("schedule",)
    list_filter = ("enabled",)
    ordering = ("-id",)
    actions = ("pause_selected", "resume_selected", "run_selected_now")
    readonly_fields = (
        "state", "owner", "next_runs", "queue", "held_since", "last_run_at", "run_count", "missed_count", "error",
        "jobs", "tasks", "periodic_task_link", "created_at", "updated_at",
    )  # fmt: skip
    fieldsets = (
        (
            "Work",
            {
                "description": "A kind of job with its payload, in JSON; or two numbers to add.",
                "fields": (("name", "priority"), "description", "kind", "payload", ("a", "b")),
            },
        ),
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
                    ("misfire_policy", "jitter_seconds"),
                    ("overlap", "max_running"),
                    "on_failure",
                    "enabled",
                ),
            },
        ),
        (
            "Exceptions",
            {
                "description": 'Days and times in JSON: ["2030-12-24", "2030-12-24T09:00:00Z"]. Calendars by name.',
                "fields": (("exclude", "include"), ("calendars", "on_closed")),
            },
        ),
        (
            "Status",
            {
                "fields": (
                    ("state", "owner"),
                    ("jobs", "tasks"),
                    "next_runs",
                    ("queue", "held_since"),
                    ("last_run_at", "run_count", "missed_count"),
                    "periodic_task_link",
                    "error",
                    ("created_at", "updated_at"),
                )
            },
        ),
    )

    def shown_of(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return schedule_page.context(row)

    def get_form(self, request: HttpRequest, *args: Any, **options: Any) -> Any:
        """A form class for this request, which knows who fills it in."""
        form = super().get_form(request, *args, **options)
        form.user = request.user  # type: ignore[attr-defined]
        return form

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
        changes = {name: getattr(form.instance, name) for name in form.changed_data}
        if not obj.adds:
            changes |= {"a": None, "b": None, "operation": ""}
        if {"a", "b"} & changes.keys():
            changes["operation"] = ""
        change_schedule(obj.id, changes)

    def has_delete_permission(self, request: HttpRequest, obj: TaskSchedule | None = None) -> bool:
        """One that code declares would come back with the next deploy."""
        stays = obj is not None and obj.declared is not None and not obj.declared.get("removed")
        return super().has_delete_permission(request, obj) and not stays

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
        def run(id: UUID) -> None:
            check_jobs(request.user, TaskSchedule.objects.get(id=id), 1)
            run_now(id)

        return act_on_rows(self, request, schedules, run, "Run", "Ran")

    @column("schedule")
    def schedule(self, schedule: TaskSchedule) -> SafeString:
        return with_id(schedule.title, schedule.id)

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
        if schedule.last_error and not schedule.next_run_at:
            return label("FAILED")
        if not schedule.enabled:
            return label("PAUSED")
        if schedule.held_since:
            return label("HELD")
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

    @admin.display(description="waiting for earlier jobs, or for room among the owner's")
    def queue(self, schedule: TaskSchedule) -> str:
        first = ", ".join(f"{at:%Y-%m-%d %H:%M:%S} UTC" for at in schedule.queued[:RUNS_SHOWN])
        more = len(schedule.queued) - RUNS_SHOWN
        return f"{first} and {more:,} more" if more > 0 else first or "-"

    @admin.display(description="jobs")
    def jobs(self, schedule: TaskSchedule) -> SafeString:
        return list_link("admin:orchestrator_job_changelist", "Jobs of this schedule", schedule=schedule.id)

    @admin.display(description="tasks")
    def tasks(self, schedule: TaskSchedule) -> SafeString | str:
        if not schedule.adds:
            return "-"
        return list_link("admin:scheduler_task_changelist", "Tasks of this schedule", schedule=schedule.id)

    @admin.display(description="periodic task")
    def periodic_task_link(self, schedule: TaskSchedule) -> SafeString | str:
        pk = schedule.periodic_task_id
        return page_link("admin:django_celery_beat_periodictask_change", pk) if pk else "-"
