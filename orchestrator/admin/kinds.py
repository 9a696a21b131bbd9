"""The admin of kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.db.models.expressions import RawSQL
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from orchestrator.admin.base import MAX_COUNTED, ReadOnlyAdmin
from orchestrator.admin.charts import Bar, sparkline
from orchestrator.admin.rendering import counted, label, list_link
from orchestrator.models import Kind
from orchestrator.queue.pausing import pause_kind, resume_kind
from orchestrator.rollups import reading
from orchestrator.rollups.reading import MINUTE, NO_TIMES, Counts, Times, summed
from orchestrator.shown.lists import NumberedList, column
from orchestrator.shown.words import duration
from orchestrator.states import Status

# A kind's jobs that could start now, and those running: each read from an index that holds few others, and counted
# up to a limit.
READY_JOBS = """(
    SELECT count(*) FROM (
        SELECT FROM orchestrator_job WHERE ready AND kind = orchestrator_kind.name LIMIT %s
    ) AS counted
)"""
RUNNING_JOBS = """(
    SELECT count(*) FROM (
        SELECT FROM orchestrator_job WHERE status = 'RUNNING' AND kind = orchestrator_kind.name LIMIT %s
    ) AS counted
)"""


if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList

    class ListedKind(Kind):
        """A kind with what the list counts."""

        ready: int
        running: int
        hour: Counts
        day: list[Counts]
        run_times: Times


class KindList(NumberedList):
    """A list of kinds, each with its figures."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        now = timezone.now()
        ended, times, hours = reading.ended(now), reading.times(now), reading.by_hour(now)
        self.result_list = list(self.result_list)
        for kind in self.result_list:
            kind.hour, kind.day = ended.by_kind[MINUTE][kind.name], hours[kind.name]
            _, kind.run_times = times.get(kind.name, (NO_TIMES, NO_TIMES))


class StateFilter(admin.SimpleListFilter):
    """By whether a kind is paused."""

    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "Active"), ("paused", "Paused")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Kind]) -> QuerySet[Kind]:
        return queryset.filter(paused_at__isnull=self.value() == "active") if self.value() else queryset


def jobs_link(kind: Kind, count: int, status: Status) -> SafeString:
    return list_link("admin:orchestrator_job_changelist", counted(count), kind=kind.name, status__exact=status.value)


@admin.register(Kind)
class KindAdmin(ReadOnlyAdmin):
    list_display = (
        "name", "state", "queue", "ready_jobs", "running_jobs", "done", "failed", "run_time", "last_day", "first_line",
    )  # fmt: skip
    list_filter = ("queue", StateFilter)
    ordering = ("name",)
    search_fields = ("name",)
    actions = ("pause_selected", "resume_selected")
    fields = (("name", "state"), ("queue", "paused_at"), ("ready_jobs", "running_jobs"), "description")

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        return KindList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Kind]:
        kinds: QuerySet[Kind] = super().get_queryset(request)
        return kinds.annotate(
            ready=RawSQL(READY_JOBS, [MAX_COUNTED]),  # noqa: S611 - a constant
            running=RawSQL(RUNNING_JOBS, [MAX_COUNTED]),  # noqa: S611 - a constant
        )

    @admin.action(description="Pause the selected kinds", permissions=["pause"])
    def pause_selected(self, request: HttpRequest, kinds: QuerySet[Kind]) -> None:
        self._act(request, kinds, pause_kind, "Paused")

    @admin.action(description="Resume the selected kinds", permissions=["pause"])
    def resume_selected(self, request: HttpRequest, kinds: QuerySet[Kind]) -> None:
        self._act(request, kinds, resume_kind, "Resumed")

    def _act(self, request: HttpRequest, kinds: QuerySet[Kind], act: Callable[[str], None], done: str) -> None:
        for kind in kinds:
            act(kind.name)
            self.log_change(request, kind, f"{done} the kind.")
        self.message_user(request, f"{done} {', '.join(kind.name for kind in kinds)}.", messages.SUCCESS)

    @admin.display(description="state")
    def state(self, kind: Kind) -> SafeString:
        return label("PAUSED" if kind.paused_at else "ACTIVE")

    @column("ready jobs", "m-number")
    def ready_jobs(self, kind: ListedKind) -> SafeString:
        return list_link(
            "admin:orchestrator_job_changelist", counted(kind.ready), kind=kind.name, status__exact="CREATED"
        )

    @column("running jobs", "m-number")
    def running_jobs(self, kind: ListedKind) -> SafeString:
        return list_link(
            "admin:orchestrator_job_changelist", counted(kind.running), kind=kind.name, status__exact="RUNNING"
        )

    @column("done in an hour", "m-number")
    def done(self, kind: ListedKind) -> str:
        return f"{kind.hour.ended:,}"

    @column("failed", "m-number")
    def failed(self, kind: ListedKind) -> SafeString:
        css = "m-bad-text" if kind.hour.failed else ""
        return format_html('<span class="{}">{}</span>', css, f"{kind.hour.failed:,}")

    @column("run time", "m-number")
    def run_time(self, kind: ListedKind) -> SafeString:
        within = f"95 % within {duration(kind.run_times.p95)}"
        return format_html('<span title="{}">{}</span>', within, duration(kind.run_times.median))

    @column("last day")
    def last_day(self, kind: ListedKind) -> SafeString:
        columns = [
            Bar(
                [("m-completed", each.completed), ("m-failed", each.failed)],
                f"{each.completed:,} completed, {each.failed:,} failed",
            )
            for each in kind.day
        ]
        total = summed(kind.day)
        return sparkline(columns, f"Last day: {total.completed:,} completed, {total.failed:,} failed")

    @column("description", "m-wide m-cut")
    def first_line(self, kind: Kind) -> str:
        return kind.description.partition("\n")[0]
