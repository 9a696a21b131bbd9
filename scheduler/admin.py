"""The admin: tasks with their results to look at, schedules to look after, and their rows in Beat's own admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import NON_FIELD_ERRORS
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from unfold.admin import TabularInline
from unfold.decorators import display

from orchestrator.admin import (
    MOST_AT_ONCE,
    BoundedAdmin,
    CreatedFilter,
    DressedPeriodicTaskAdmin,
    DressedPeriodicTaskInline,
    DressedScheduleAdmin,
    WatchedAdmin,
    label,
    two_lines,
    when,
)
from scheduler import queries, services
from scheduler.jobs import shown
from scheduler.models import FIRE, Task, TaskResult, TaskSchedule, TaskStatus
from scheduler.recurrence import BadRecurrence
from scheduler.services import NotEnded, NotPending

RUNS_SHOWN = 5
REFUSALS = (NotPending, NotEnded, BadRecurrence, Task.DoesNotExist, TaskSchedule.DoesNotExist)


def do_to_each(
    request: HttpRequest, model_admin: Any, rows: QuerySet[Any], do: Callable[[UUID], Any], done: str
) -> None:
    """Does it to each row on its own, and tells what came of it."""
    refusals = []
    ids = list(rows.order_by("pk").values_list("pk", flat=True)[:MOST_AT_ONCE])
    for id in ids:
        try:
            do(id)
        except REFUSALS as refusal:
            refusals.append(f"{id}: {refusal}")
    if len(ids) > len(refusals):
        model_admin.message_user(request, f"{done} {len(ids) - len(refusals):,}.", messages.SUCCESS)
    for refusal in refusals[:10]:
        model_admin.message_user(request, refusal, messages.WARNING)
    if len(refusals) > 10:
        model_admin.message_user(request, f"Likewise refused: {len(refusals) - 10:,} more.", messages.WARNING)


class StatusFilter(admin.SimpleListFilter):
    """By status, which is the job's."""

    title = parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, status.label) for status in TaskStatus]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        return queries.filtered_tasks(queryset, {"status": [self.value()]}) if self.value() else queryset


class ScheduleFilter(admin.SimpleListFilter):
    """By the schedule that made it, which a link names: there are too many to offer."""

    title = parameter_name = "schedule"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(self.value(), self.value())] if self.value() else []

    def has_output(self) -> bool:
        return bool(self.value())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        try:
            return queryset.filter(schedule=UUID(self.value())) if self.value() else queryset
        except ValueError:
            return queryset.none()


class IdOrOwnerSearch:
    """A search that an index leads to."""

    search_fields = ("id",)
    search_help_text = "An id, or an owner"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not search_term:
            return queryset, False
        try:
            return queryset.filter(id=UUID(search_term.strip())), False
        except ValueError:
            return queryset.filter(owner=search_term.strip()), False


class ResultInline(TabularInline):
    """What the runs of a task came to, newest first."""

    model = TaskResult
    extra = 0
    per_page = 20
    can_delete = False
    fields: ClassVar = ("sum", "created")
    readonly_fields: ClassVar = ("sum", "created")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description="result")
    def sum(self, result: TaskResult) -> Any:
        return str(shown(result.result))

    @display(description="created")
    def created(self, result: TaskResult) -> str:
        return when(result.created_at)


@admin.register(Task)
class TaskAdmin(IdOrOwnerSearch, WatchedAdmin):
    list_display = (
        "numbers_and_id",
        "status_shown",
        "latest",
        "priority",
        "owner",
        "made_by",
        "occurrence",
        "created",
    )
    list_display_links = ("numbers_and_id",)
    list_filter = (StatusFilter, ScheduleFilter, "priority", CreatedFilter)
    ordering = ("-id",)
    actions = ("cancel_selected", "run_selected")
    inlines = (ResultInline,)
    fields = (
        ("numbers", "status_shown", "latest"),
        ("operation", "priority", "owner"),
        ("made_by", "occurrence", "job_shown"),
        "error",
        ("created", "updated"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Task]:
        return queries.shown_tasks(super().get_queryset(request))

    @admin.action(description="Cancel the selected tasks", permissions=["operate"])
    def cancel_selected(self, request: HttpRequest, tasks: QuerySet[Task]) -> None:
        do_to_each(request, self, tasks, services.cancel_task, "Cancelled")

    @admin.action(description="Run the selected tasks again", permissions=["operate"])
    def run_selected(self, request: HttpRequest, tasks: QuerySet[Task]) -> None:
        do_to_each(request, self, tasks, services.run_again, "Asked for another run of")

    @display(description="task")
    def numbers_and_id(self, task: Task) -> SafeString:
        return two_lines(self.numbers(task), task.id)

    @display(description="numbers")
    def numbers(self, task: Task) -> str:
        return f"{shown(task.a)} + {shown(task.b)}"

    @display(description="status")
    def status_shown(self, task: Task) -> SafeString:
        return label(task.job.status)

    @display(description="latest result")
    def latest(self, task: Task) -> str:
        return "-" if task.latest_result is None else str(shown(task.latest_result))

    @display(description="schedule")
    def made_by(self, task: Task) -> SafeString | str:
        return link("admin:scheduler_taskschedule_change", task.schedule_id) if task.schedule_id else "-"

    @display(description="occurrence")
    def occurrence(self, task: Task) -> str:
        return when(task.scheduled_for)

    @display(description="job")
    def job_shown(self, task: Task) -> SafeString:
        return link("admin:orchestrator_job_change", task.job_id)

    @display(description="error")
    def error(self, task: Task) -> str:
        return task.job.error or "-"

    @display(description="created")
    def created(self, task: Task) -> str:
        return when(task.created_at)

    @display(description="updated")
    def updated(self, task: Task) -> str:
        return when(max(task.updated_at, task.job.updated_at))


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
        super()._post_clean()
        without_field = self.errors.pop(NON_FIELD_ERRORS, None)
        if self.errors:
            return
        try:
            services.checked(self.instance)
        except BadRecurrence as refusal:
            for name in refusal.fields:
                self.add_error(name, str(refusal))
        else:
            if without_field:
                self.errors[NON_FIELD_ERRORS] = without_field


@admin.register(TaskSchedule)
class TaskScheduleAdmin(IdOrOwnerSearch, BoundedAdmin):
    form = ScheduleForm
    list_display = ("numbers_and_id", "rule", "state", "owner", "next_run", "last_run", "run_count", "missed_count")
    list_display_links = ("numbers_and_id",)
    list_filter = ("enabled",)
    ordering = ("-id",)
    actions = ("pause_selected", "resume_selected", "run_selected_now")
    readonly_fields = (
        "state", "owner", "next_runs", "last_run", "run_count", "missed_count", "error", "tasks", "in_beat", "created",
        "updated",
    )  # fmt: skip
    fieldsets = (
        ("What", {"fields": (("a", "b", "priority"),)}),
        (
            "When",
            {
                "description": "Exactly one recurrence: interval, days and/or hours, cron, or RRULE.",
                "fields": (
                    ("scheduled_at", "ends_at", "timezone"),
                    ("interval", "every_x_days", "every_x_hours"),
                    ("cron", "rrule"),
                    ("schedule_x_times", "misfire_policy", "overlap"),
                    "enabled",
                ),
            },
        ),
        (
            "How it is doing",
            {
                "fields": (
                    ("state", "owner", "tasks"),
                    ("next_runs", "last_run", "in_beat"),
                    ("run_count", "missed_count"),
                    "error",
                    ("created", "updated"),
                )
            },
        ),
    )

    def get_fieldsets(self, request: HttpRequest, obj: TaskSchedule | None = None) -> Any:
        """A schedule that is still to be made has nothing to tell."""
        return super().get_fieldsets(request, obj) if obj else self.fieldsets[:-1]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"scheduled_at": services.database_now().replace(microsecond=0)}

    def save_model(self, request: HttpRequest, obj: TaskSchedule, form: Any, change: bool) -> None:
        if not change:
            obj.owner = request.user.get_username()
            services.create_schedule(obj)
            return
        changes = {name: form.cleaned_data[name] for name in form.changed_data}
        if {"a", "b"} & changes.keys():
            changes["operation"] = ""
        services.change_schedule(obj.id, changes)

    def delete_model(self, request: HttpRequest, obj: TaskSchedule) -> None:
        services.delete_schedule(obj.id)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[TaskSchedule]) -> None:
        for schedule_id in list(queryset.values_list("id", flat=True)):
            services.delete_schedule(schedule_id)

    @admin.action(description="Pause the selected schedules", permissions=["change"])
    def pause_selected(self, request: HttpRequest, schedules: QuerySet[TaskSchedule]) -> None:
        do_to_each(request, self, schedules, lambda id: services.set_enabled(id, False), "Paused")

    @admin.action(description="Resume the selected schedules", permissions=["change"])
    def resume_selected(self, request: HttpRequest, schedules: QuerySet[TaskSchedule]) -> None:
        do_to_each(request, self, schedules, lambda id: services.set_enabled(id, True), "Resumed")

    @admin.action(description="Run the selected schedules now", permissions=["change"])
    def run_selected_now(self, request: HttpRequest, schedules: QuerySet[TaskSchedule]) -> None:
        do_to_each(request, self, schedules, services.run_now, "Made tasks of")

    @display(description="schedule")
    def numbers_and_id(self, schedule: TaskSchedule) -> SafeString:
        return two_lines(f"{shown(schedule.a)} + {shown(schedule.b)}", schedule.id)

    @display(description="rule")
    def rule(self, schedule: TaskSchedule) -> str:
        if schedule.interval:
            return f"every {schedule.interval:,} s"
        if text := schedule.cron or schedule.rrule:
            return f"{Truncator(text).chars(60)} ({schedule.timezone})"
        parts = [(schedule.every_x_days, "days"), (schedule.every_x_hours, "hours")]
        return "every " + " and ".join(f"{amount:,} {unit}" for amount, unit in parts if amount)

    @display(description="state")
    def state(self, schedule: TaskSchedule) -> SafeString:
        if schedule.last_error:
            return label("FAILED")
        if not schedule.enabled:
            return label("PAUSED")
        return label("ALIVE" if schedule.next_run_at else "ENDED")

    @display(description="next run")
    def next_run(self, schedule: TaskSchedule) -> str:
        return when(schedule.next_run_at)

    @display(description="next runs")
    def next_runs(self, schedule: TaskSchedule) -> SafeString | str:
        try:
            runs = services.next_runs(schedule, RUNS_SHOWN)
            zone = schedule.recurrence.zone
        except BadRecurrence as refusal:
            return str(refusal)
        shown_runs = ((f"{run.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}",) for run in runs)
        return format_html_join("", '<span class="block whitespace-nowrap">{}</span>', shown_runs) or "-"

    @display(description="last run")
    def last_run(self, schedule: TaskSchedule) -> str:
        return when(schedule.last_run_at)

    @display(description="error")
    def error(self, schedule: TaskSchedule) -> str:
        return schedule.last_error or "-"

    @display(description="tasks")
    def tasks(self, schedule: TaskSchedule) -> SafeString:
        url = f"{reverse('admin:scheduler_task_changelist')}?schedule={schedule.id}"
        return format_html('<a href="{}" class="text-link">its tasks</a>', url)

    @display(description="in Beat")
    def in_beat(self, schedule: TaskSchedule) -> SafeString | str:
        pk = schedule.periodic_task_id
        return link("admin:django_celery_beat_periodictask_change", pk) if pk else "-"

    @display(description="created")
    def created(self, schedule: TaskSchedule) -> str:
        return when(schedule.created_at)

    @display(description="updated")
    def updated(self, schedule: TaskSchedule) -> str:
        return when(schedule.updated_at)


def link(page: str, pk: Any) -> SafeString:
    return format_html('<a href="{}" class="text-link">{}</a>', reverse(page, args=[pk]), pk)


# Beat's own admin, where each schedule has a row too.

admin.site.unregister(PeriodicTask)
admin.site.unregister(IntervalSchedule)


@admin.register(PeriodicTask)
class BeatTaskAdmin(DressedPeriodicTaskAdmin):
    """Enabling and disabling reach a schedule with the next tick; running it is done here, at once."""

    actions = ("enable_tasks", "disable_tasks", "toggle_tasks", "run_tasks")

    @admin.action(description="Run selected tasks")
    def run_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        ours, others = queryset.filter(task=FIRE), queryset.exclude(task=FIRE)
        if others.exists():
            super().run_tasks(request, others)
        do_to_each(
            request, self, TaskSchedule.objects.filter(periodic_task__in=ours), services.run_now, "Made tasks of"
        )


class PagedPeriodicTaskInline(DressedPeriodicTaskInline):
    """The rows that share an interval, which can be very many, page by page."""

    per_page = 20


@admin.register(IntervalSchedule)
class SharedIntervalAdmin(DressedScheduleAdmin):
    inlines = (PagedPeriodicTaskInline,)
