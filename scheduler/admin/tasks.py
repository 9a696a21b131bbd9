"""The admin of tasks."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString

from orchestrator.admin.base import ReadOnly, ReadOnlyAdmin
from orchestrator.admin.filters import CreatedFilter, ScheduleFilter
from orchestrator.admin.rendering import cut, label, page_link, with_id
from orchestrator.admin.unfold import TabularInline
from orchestrator.shown.lists import column
from orchestrator.shown.words import age
from orchestrator.states import Status
from scheduler import queries
from scheduler.admin.base import IdOrOwnerSearch, act_on_rows
from scheduler.jobs import shown
from scheduler.models import Task, TaskResult, TaskStatus
from scheduler.services.schedule_limits import check_run_again
from scheduler.services.tasks import cancel_task, run_again

if TYPE_CHECKING:
    from scheduler.queries import TaskDetail


class StatusFilter(admin.SimpleListFilter):
    """By status, which is the job's."""

    title = parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, status.label) for status in TaskStatus]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Task]) -> QuerySet[Task]:
        return queries.filtered_tasks(queryset, {"status": [self.value()]}) if self.value() else queryset


class ResultInline(ReadOnly, TabularInline):
    """The results of a task's runs, newest first."""

    model = TaskResult
    extra = 0
    per_page = 20
    fields: ClassVar = ("sum", "created_at")
    readonly_fields: ClassVar = ("sum", "created_at")

    @admin.display(description="result")
    def sum(self, result: TaskResult) -> str:
        return str(shown(result.result))


@admin.register(Task)
class TaskAdmin(IdOrOwnerSearch, ReadOnlyAdmin):
    list_display = ("sum", "status_shown", "latest", "owner", "priority", "created", "made_by", "error_in_line")
    list_display_links = ("sum",)
    list_filter = (StatusFilter, ScheduleFilter, "priority", CreatedFilter)
    ordering = ("-id",)
    actions = ("cancel_selected", "run_selected")
    inlines = (ResultInline,)
    fields = (
        ("operands", "status_shown", "latest"),
        ("operation", "priority", "owner"),
        ("made_by", "scheduled_for", "job_shown"),
        "error",
        ("created_at", "last_updated_at"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Task]:
        return queries.with_details(super().get_queryset(request))

    @admin.action(description="Cancel the selected tasks", permissions=["cancel"])
    def cancel_selected(self, request: HttpRequest, tasks: QuerySet[Task]) -> TemplateResponse | None:
        return act_on_rows(self, request, tasks, cancel_task, "Cancel", "Cancelled")

    @admin.action(description="Run the selected tasks again", permissions=["retry"])
    def run_selected(self, request: HttpRequest, tasks: QuerySet[Task]) -> TemplateResponse | None:
        def run(id: UUID) -> None:
            check_run_again(request.user, id)
            run_again(id)

        return act_on_rows(self, request, tasks, run, "Run", "Restarted")

    @column("task")
    def sum(self, task: Task) -> SafeString:
        return with_id(self.operands(task), task.id)

    @column("age", "m-number")
    def created(self, task: Task) -> SafeString | str:
        return age(task.created_at)

    @column("error", "m-wide m-cut")
    def error_in_line(self, task: Task) -> SafeString | str:
        return cut(task.job.error) if task.job.error else ""

    @admin.display(description="operands")
    def operands(self, task: Task) -> str:
        return f"{shown(task.a)} + {shown(task.b)}"

    @admin.display(description="status")
    def status_shown(self, task: Task) -> SafeString:
        """In the words of tasks, as the API has it."""
        return label(queries.STATUSES[Status(task.job.status)])

    @admin.display(description="latest result")
    def latest(self, task: TaskDetail) -> str:
        return "-" if task.latest_result is None else str(shown(task.latest_result))

    @admin.display(description="schedule")
    def made_by(self, task: Task) -> SafeString | str:
        return page_link("admin:scheduler_taskschedule_change", task.schedule_id) if task.schedule_id else "-"

    @admin.display(description="job")
    def job_shown(self, task: Task) -> SafeString:
        return page_link("admin:orchestrator_job_change", task.job_id)

    @admin.display(description="error")
    def error(self, task: Task) -> str:
        return task.job.error or "-"

    @admin.display(description="updated at")
    def last_updated_at(self, task: Task) -> datetime:
        return max(task.updated_at, task.job.updated_at)
