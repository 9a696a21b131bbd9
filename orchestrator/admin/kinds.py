"""The admin of kinds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.db.models import QuerySet
from django.db.models.expressions import RawSQL
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import action

from orchestrator.admin import kind_page
from orchestrator.admin.base import MAX_COUNTED, ReadOnlyAdmin, dialog
from orchestrator.admin.change_limits import ChangeLimitsForm
from orchestrator.admin.charts import Bar, sparkline
from orchestrator.admin.figures import run_times_sparkline
from orchestrator.admin.rendering import counted, label, list_link
from orchestrator.models import Kind
from orchestrator.queue.limiting import change_limits
from orchestrator.queue.pausing import pause_kind, resume_kind
from orchestrator.rollups import reading
from orchestrator.rollups.reading import MINUTE, NO_TIMES, Counts, Times, TimesAt, summed
from orchestrator.shown.lists import NumberedList, column
from orchestrator.shown.words import duration, for_how_long
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
        run_times_by_hour: list[TimesAt]
        oldest_since: datetime | None


class KindList(NumberedList):
    """A list of kinds, each with its figures."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        now = timezone.now()
        ended, times, read = reading.ended(now), reading.times(now), reading.hours_of_day(now)
        hours, run_times = reading.by_hour(now, read), reading.run_times_by_hour(now, read)
        waiting = {each.name: each for each in reading.kinds()}
        self.result_list = list(self.result_list)
        for kind in self.result_list:
            kind.hour, kind.day = ended.by_kind[MINUTE][kind.name], hours[kind.name]
            _, kind.run_times = times.get(kind.name, (NO_TIMES, NO_TIMES))
            kind.run_times_by_hour = run_times[kind.name]
            kind.oldest_since = waiting[kind.name].oldest_since if kind.name in waiting else None


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
        "name", "state", "queue", "ready_jobs", "oldest", "running_jobs", "done", "failed", "last_day", "run_time",
        "first_line",
    )  # fmt: skip
    list_filter = ("queue", StateFilter)
    ordering = ("name",)
    search_fields = ("name",)
    actions = ("pause_selected", "resume_selected")
    actions_detail = ("pause_this", "resume_this", "change_limits_of_this")
    change_form_template = "orchestrator/admin/kind.html"
    fields = ("name",)

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[ChangeList]:
        return KindList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Kind]:
        kinds: QuerySet[Kind] = super().get_queryset(request)
        return kinds.annotate(
            ready=RawSQL(READY_JOBS, [MAX_COUNTED]),  # noqa: S611 - a constant
            running=RawSQL(RUNNING_JOBS, [MAX_COUNTED]),  # noqa: S611 - a constant
        )

    def shown_of(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return kind_page.context(request, row)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """The button that applies to the kind as it is."""
        is_paused = Kind.objects.filter(name=object_id, paused_at__isnull=False).exists()
        useless = "orchestrator_kind_pause_this" if is_paused else "orchestrator_kind_resume_this"
        found: list[Any] = super().get_actions_detail(request, object_id)  # type: ignore[misc]
        return [each for each in found if each.action_name != useless]

    @action(  # type: ignore[untyped-decorator]
        description="Pause",
        permissions=["pause"],
        icon="pause",
        dialog=dialog(
            "Pause this kind?",
            "None of its jobs is started until it is resumed. Those that run go on.",
            "Pause the kind",
        ),
    )
    def pause_this(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        return self._act_on_this(request, object_id, pause_kind, "Paused")

    @action(  # type: ignore[untyped-decorator]
        description="Resume",
        permissions=["pause"],
        icon="play_arrow",
        dialog=dialog(
            "Resume this kind?", "Its jobs are started again, those that have waited first.", "Resume the kind"
        ),
    )
    def resume_this(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        return self._act_on_this(request, object_id, resume_kind, "Resumed")

    def has_limit_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return self.is_granted(request, "limit")

    @action(  # type: ignore[untyped-decorator]
        description="Limits …",
        permissions=["limit"],
        icon="speed",
        dialog=dialog(
            "Change the limits of this kind?",
            "They hold within a second; what runs goes on. A number, a rate (10/m), or unlimited.",
            "Change the limits",
            ChangeLimitsForm,
        ),
    )
    def change_limits_of_this(self, request: HttpRequest, form: ChangeLimitsForm, object_id: str) -> HttpResponse:
        if self.get_object(request, object_id) is None:
            raise Http404

        def change(name: str) -> None:
            change_limits(name, form.changes)

        return self._act_on_this(request, object_id, change, "Changed the limits of")

    def _act_on_this(
        self, request: HttpRequest, object_id: str, act: Callable[[str], None], done: str
    ) -> HttpResponse:
        kind = self.get_object(request, object_id)
        if kind is None:
            raise Http404
        self._act(request, Kind.objects.filter(name=kind.name), act, done)
        return HttpResponse(headers={"HX-Redirect": reverse("admin:orchestrator_kind_change", args=[quote(kind.pk)])})

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

    @column("waiting", "m-number")
    def ready_jobs(self, kind: ListedKind) -> SafeString:
        return list_link(
            "admin:orchestrator_job_changelist", counted(kind.ready), kind=kind.name, status__exact="CREATED"
        )

    @column("running", "m-number")
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
        drawn = run_times_sparkline(kind.run_times_by_hour)
        return format_html('{} <span title="{}">{}</span>', drawn, within, duration(kind.run_times.median))

    @column("oldest", "m-number")
    def oldest(self, kind: ListedKind) -> SafeString | str:
        return for_how_long(kind.oldest_since)

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
