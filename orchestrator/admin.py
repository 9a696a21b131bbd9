"""The admin: jobs, attempts, workers and kinds to look after, and accounts, tokens and Beat in the same dress."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar
from uuid import UUID

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.core.paginator import Paginator
from django.db.models import F, Q, QuerySet
from django.db.models.expressions import RawSQL
from django.http import Http404, HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django_celery_beat import admin as beat
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule
from knox.admin import AuthTokenAdmin
from knox.models import AuthToken
from unfold.admin import ModelAdmin, StackedInline, TabularInline
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from orchestrator import queries
from orchestrator.kinds import UnknownKind, all_kinds
from orchestrator.models import Attempt, Job, Kind, Worker
from orchestrator.pausing import pause_kind, resume_kind
from orchestrator.states import Status
from orchestrator.submission import NotCancellable, NotRetryable, TooManyUnfinished, cancel, retry

# Rows counted for a list. What lies further back is found by filters, so no list reads or skips millions.
MOST_COUNTED = 10_000
# Jobs one action takes on, and refusals it tells one by one.
MOST_AT_ONCE = 1_000
MOST_TOLD = 10
# Characters of a payload or result shown.
MOST_SHOWN = 20_000

REFUSALS = (NotCancellable, NotRetryable, TooManyUnfinished, UnknownKind, Job.DoesNotExist)

COLOURS = {
    Status.CREATED: "info",
    Status.RUNNING: "primary",
    Status.COMPLETED: "success",
    Status.FAILED: "danger",
    Status.CANCELLED: "warning",
    Attempt.Outcome.RAISED: "danger",
    Attempt.Outcome.TIMED_OUT: "danger",
    Attempt.Outcome.LOST: "warning",
    Attempt.Outcome.INTERRUPTED: "info",
    Attempt.Outcome.UNAVAILABLE: "info",
    "ALIVE": "success",
    "DRAINING": "warning",
    "ENDED": "",
    "LOST": "danger",
    "OPEN": "success",
    "PAUSED": "warning",
}

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
LEASED_JOBS = "(SELECT count(*) FROM orchestrator_job WHERE worker_id = orchestrator_worker.id)"


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts MOST_COUNTED rows at most, so that a list opens as fast over millions."""

    template_name = "orchestrator/pagination.html"

    @cached_property
    def count(self) -> int:
        return int(self.object_list.order_by()[:MOST_COUNTED].count())

    @property
    def is_cut(self) -> bool:
        return self.count >= MOST_COUNTED


class BoundedAdmin(ModelAdmin):
    """A list that opens as fast with millions of rows."""

    paginator = BoundedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    list_max_show_all = 0
    list_disable_select_all = True
    list_fullwidth = True
    # Any other order would sort the whole table.
    sortable_by: ClassVar = ()


class WatchedAdmin(BoundedAdmin):
    """Rows that only the engine writes: looked at here, and touched by actions alone."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may use the actions: those who may change such rows, as far as Django's permissions go."""
        return super().has_change_permission(request, obj)


class AttemptColumns:
    """How an attempt is shown, within its job and in the list of all."""

    @display(description="outcome")
    def outcome_shown(self, attempt: Attempt) -> SafeString:
        return label(attempt.outcome)

    @display(description="traceback")
    def traceback_shown(self, attempt: Attempt) -> SafeString:
        return block(attempt.traceback)

    @display(description="started")
    def started(self, attempt: Attempt) -> str:
        return when(attempt.started_at)

    @display(description="ended")
    def ended(self, attempt: Attempt) -> str:
        return when(attempt.ended_at)


class AttemptInline(AttemptColumns, StackedInline):
    """The attempts that failed, within their job."""

    model = Attempt
    extra = 0
    per_page = 20
    can_delete = False
    show_change_link = True
    fields: ClassVar = (
        ("outcome_shown", "worker_name"),
        ("started", "ended"),
        "error",
        "traceback_shown",
    )
    readonly_fields: ClassVar = ("outcome_shown", "started", "ended", "traceback_shown")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class KindFilter(admin.SimpleListFilter):
    """By kind. The names come from the registry and the workers' reports, not from the jobs."""

    title = parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = {kind.name for kind in all_kinds()} | set(Kind.objects.values_list("name", flat=True))
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


class QueueFilter(admin.SimpleListFilter):
    """By the queue that jobs of their kind are served by now. An index leads to kinds, none to queues."""

    title = parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in settings.QUEUES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        if not self.value():
            return queryset
        return queryset.filter(kind__in=list(Kind.objects.filter(queue=self.value()).values_list("name", flat=True)))


class PipelineFilter(admin.SimpleListFilter):
    """With the children of pipelines or without."""

    title = "pipelines"
    parameter_name = "part"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("whole", "Without children"), ("child", "Children only")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        return queryset.filter(parent__isnull=self.value() == "whole") if self.value() else queryset


class CreatedFilter(admin.SimpleListFilter):
    """By age."""

    title = parameter_name = "created"
    spans: ClassVar = {
        "minute": timedelta(minutes=1),
        "hour": timedelta(hours=1),
        "day": timedelta(days=1),
        "week": timedelta(days=7),
        "month": timedelta(days=30),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("minute", "Past minute"),
            ("hour", "Past hour"),
            ("day", "Past 24 hours"),
            ("week", "Past 7 days"),
            ("month", "Past 30 days"),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Job]) -> QuerySet[Job]:
        span = self.spans.get(self.value() or "")
        return queries.created_between(queryset, timezone.now() - span, None) if span else queryset


@admin.register(Job)
class JobAdmin(WatchedAdmin):
    list_display = (
        "kind_and_id",
        "status_shown",
        "waiting",
        "owner",
        "priority",
        "progress",
        "attempts_used",
        "created",
        "started",
        "finished",
    )
    list_display_links = ("kind_and_id",)
    list_filter = ("status", KindFilter, QueueFilter, CreatedFilter, PipelineFilter)
    ordering = ("-id",)
    search_fields = ("id",)
    search_help_text = "A job's id, or an owner"
    actions = ("cancel_selected", "retry_selected")
    actions_detail = ("cancel_this", "retry_this")
    inlines = (AttemptInline,)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("kind", "status_shown", "waiting"),
                    ("owner", "urgency", "queue"),
                    ("progress", "cancel_requested", "links"),
                )
            },
        ),
        ("Work", {"fields": ("payload_shown", "result_shown", "error")}),
        ("Pipeline", {"fields": (("parent", "child_name"), ("children", "unfinished_dependencies"))}),
        (
            "Running",
            {"fields": (("attempts_used", "alone"), ("worker_shown", "deadline"), "celery_task")},
        ),
        ("Times", {"fields": (("created", "due", "rank_shown"), ("started", "finished", "updated"))}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Job]:
        # What is deferred can be megabytes, and is read for one job only.
        return queries.shown_jobs(super().get_queryset(request)).defer("payload", "result")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Job | None:
        job: Job | None = super().get_object(request, object_id, from_field)
        if job:
            job.shown_on = request.get_host()
        return job

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        if not search_term:
            return queryset, False
        try:
            return queryset.filter(id=UUID(search_term.strip())), False
        except ValueError:
            return queryset.filter(owner=search_term.strip()), False

    @admin.action(description="Cancel the selected jobs", permissions=["operate"])
    def cancel_selected(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        self._ask_for_each(request, jobs, cancel, "Asked to cancel")

    @admin.action(description="Retry the selected jobs", permissions=["operate"])
    def retry_selected(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        self._ask_for_each(request, jobs, retry, "Asked for another try of")

    @action(
        description="Cancel",
        permissions=["operate"],
        dialog={
            "title": "Cancel this job?",
            "description": "With its children. What runs notices within about a second.",
            "form_class": None,
            "form_submit_text": "Cancel the job",
        },
    )
    def cancel_this(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        return self._ask_for_this(request, object_id, cancel, "Asked to cancel")

    @action(
        description="Retry",
        permissions=["operate"],
        dialog={
            "title": "Give this job another try?",
            "description": "Of a pipeline, only what did not complete runs again.",
            "form_class": None,
            "form_submit_text": "Retry the job",
        },
    )
    def retry_this(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        return self._ask_for_this(request, object_id, retry, "Asked for another try of")

    def _ask_for_this(
        self, request: HttpRequest, object_id: str, ask: Callable[[UUID], Job], asked: str
    ) -> HttpResponse:
        job = self.get_object(request, object_id)
        if job is None:
            raise Http404
        self._ask_for_each(request, Job.objects.filter(id=job.id), ask, asked)
        # The dialog asks by htmx, which opens this page when it gets the answer.
        return HttpResponse(headers={"HX-Redirect": reverse("admin:orchestrator_job_change", args=[job.id])})

    def _ask_for_each(self, request: HttpRequest, jobs: QuerySet[Job], ask: Callable[[UUID], Job], asked: str) -> None:
        """Asks job by job, each in a transaction of its own, tells what came of it, and keeps as history who asked."""
        refusals = []
        ids = list(jobs.values_list("id", flat=True)[:MOST_AT_ONCE])
        for id in ids:
            try:
                self.log_change(request, ask(id), f"{asked} it.")
            except REFUSALS as refusal:
                refusals.append(f"{id}: {refusal}")
        if len(ids) > len(refusals):
            self.message_user(request, f"{asked} {jobs_counted(len(ids) - len(refusals))}.", messages.SUCCESS)
        for refusal in refusals[:MOST_TOLD]:
            self.message_user(request, refusal, messages.WARNING)
        if len(refusals) > MOST_TOLD:
            more = jobs_counted(len(refusals) - MOST_TOLD)
            self.message_user(request, f"Likewise refused: {more} more.", messages.WARNING)

    @display(description="job")
    def kind_and_id(self, job: Job) -> SafeString:
        return two_lines(f"{job.kind} · {job.name}" if job.name else job.kind, job.id)

    @display(description="status")
    def status_shown(self, job: Job) -> SafeString:
        return label(job.status)

    @display(description="waiting for")
    def waiting(self, job: Job) -> str:
        return (queries.waiting_for(job) or "-").replace("_", " ")

    @display(description="priority")
    def urgency(self, job: Job) -> str:
        return f"{job.priority} (0 is the most urgent, 9 the least)"

    @display(description="called there")
    def child_name(self, job: Job) -> str:
        return job.name or "-"

    @display(description="progress")
    def progress(self, job: Job) -> str:
        if job.progress_done is None:
            return "-"
        total = f" of {job.progress_total:,}" if job.progress_total is not None else ""
        return f"{job.progress_done:,}{total} {job.progress_message}"

    @display(description="attempts")
    def attempts_used(self, job: Job) -> str:
        return f"{job.attempt} of {job.max_attempts}"

    @display(description="runs alone")
    def alone(self, job: Job) -> str:
        return "yes, since a worker died with it in a batch" if job.runs_alone else "no"

    @display(description="payload")
    def payload_shown(self, job: Job) -> SafeString:
        return block(as_indented(job.payload))

    @display(description="result")
    def result_shown(self, job: Job) -> SafeString:
        return block(as_indented(job.result) if job.status == Status.COMPLETED else "")

    @display(description="children")
    def children(self, job: Job) -> SafeString | str:
        if not job.children_counts:
            return "-"
        url = f"{reverse('admin:orchestrator_job_changelist')}?parent__id__exact={job.id}"
        counts = [(status, job.children_counts[status.lower()]) for status in Status.values]
        told = ", ".join(f"{count:,} {status}" for status, count in counts if count)
        total = f"{job.children_counts['total']:,}"
        return format_html('<a href="{}" class="text-link">{} children</a>: {}', url, total, told)

    @display(description="worker")
    def worker_shown(self, job: Job) -> SafeString | str:
        if job.worker_id is None:
            return f"{job.worker_name} (the last one)" if job.worker_name else "-"
        url = reverse("admin:orchestrator_worker_change", args=[job.worker_id])
        return format_html('<a href="{}" class="text-link">{}</a>', url, job.worker_name)

    @display(description="woken by")
    def celery_task(self, job: Job) -> SafeString | str:
        if not job.celery_task_id:
            return "-"
        host = job.shown_on.rpartition(":")[0] or job.shown_on
        flower = settings.ENV.FLOWER_URL.rstrip("/") or f"http://{host}:{settings.ENV.FLOWER_PORT}"
        return format_html(
            '<a href="{}/task/{}" class="text-link">{} in Flower</a>', flower, job.celery_task_id, job.celery_task_id
        )

    @display(description="in the API")
    def links(self, job: Job) -> SafeString:
        return format_html('<a href="/jobs/{}" class="text-link">/jobs/{}</a>', job.id, job.id)

    @display(description="created")
    def created(self, job: Job) -> str:
        return when(job.created_at)

    @display(description="started")
    def started(self, job: Job) -> str:
        return when(job.started_at)

    @display(description="finished")
    def finished(self, job: Job) -> str:
        return when(job.finished_at)

    @display(description="updated")
    def updated(self, job: Job) -> str:
        return when(job.updated_at)

    @display(description="not before")
    def due(self, job: Job) -> str:
        return when(job.run_at)

    @display(description="place in the queue")
    def rank_shown(self, job: Job) -> str:
        return when(job.rank)

    @display(description="deadline of this attempt")
    def deadline(self, job: Job) -> str:
        return when(job.deadline_at)

    @display(description="cancellation asked for")
    def cancel_requested(self, job: Job) -> str:
        return when(job.cancel_requested_at)


@admin.register(Attempt)
class AttemptAdmin(AttemptColumns, WatchedAdmin):
    list_display = ("job_and_number", "outcome_shown", "error_shown", "worker_name", "started", "ended")
    list_display_links = ("job_and_number",)
    list_filter = ("outcome",)
    list_select_related = ("job",)
    ordering = ("-id",)
    search_fields = ("job",)
    search_help_text = "A job's id"
    fields = ("job", ("number", "outcome_shown", "worker_name"), ("started", "ended"), "error", "traceback_shown")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attempt]:
        return super().get_queryset(request).defer("traceback", "job__payload", "job__result")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Attempt], search_term: str
    ) -> tuple[QuerySet[Attempt], bool]:
        if not search_term:
            return queryset, False
        try:
            return queryset.filter(job=UUID(search_term.strip())), False
        except ValueError:
            return queryset.none(), False

    @display(description="attempt")
    def job_and_number(self, attempt: Attempt) -> SafeString:
        return two_lines(f"{attempt.job.kind} · attempt {attempt.number}", attempt.job_id)

    @display(description="error")
    def error_shown(self, attempt: Attempt) -> str:
        return Truncator(attempt.error).chars(100)


class LifeFilter(admin.SimpleListFilter):
    """By where a worker process is in its life."""

    title = "life"
    parameter_name = "life"
    conditions: ClassVar = {
        "alive": Q(ended_at=None, draining_at=None),
        "draining": Q(ended_at=None, draining_at__isnull=False),
        "ended": Q(ended_at__isnull=False, lost=False),
        "lost": Q(lost=True),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(life, life.capitalize()) for life in self.conditions]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Worker]) -> QuerySet[Worker]:
        return queryset.filter(self.conditions.get(self.value() or "", Q()))


@admin.register(Worker)
class WorkerAdmin(WatchedAdmin):
    list_display = (
        "name_and_host",
        "life",
        "queues_shown",
        "running_jobs",
        "pid",
        "started",
        "seen",
        "draining",
        "ended",
    )
    list_display_links = ("name_and_host",)
    list_filter = (LifeFilter,)
    ordering = (F("ended_at").desc(nulls_first=True), "-id")
    search_fields = ("name",)
    fields = (
        ("name", "life", "running_jobs"),
        ("queues_shown", "host", "pid"),
        ("started", "seen"),
        ("draining", "ended"),
        "trying_shown",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Worker]:
        return super().get_queryset(request).annotate(leased_jobs=RawSQL(LEASED_JOBS, []))  # noqa: S611 - a constant

    @display(description="worker")
    def name_and_host(self, worker: Worker) -> SafeString:
        return two_lines(worker.name, worker.host)

    @display(description="life")
    def life(self, worker: Worker) -> SafeString:
        if worker.ended_at:
            return label("LOST" if worker.lost else "ENDED")
        return label("DRAINING" if worker.draining_at else "ALIVE")

    @display(description="queues")
    def queues_shown(self, worker: Worker) -> str:
        return ", ".join(worker.queues)

    @display(description="running jobs")
    def running_jobs(self, worker: Worker) -> int:
        """Leased ones, and the batch it is about to run."""
        return worker.leased_jobs + len(worker.trying)

    @display(description="transactional jobs it is about to run, and their attempts before")
    def trying_shown(self, worker: Worker) -> SafeString:
        return block(as_indented(worker.trying) if worker.trying else "")

    @display(description="started")
    def started(self, worker: Worker) -> str:
        return when(worker.started_at)

    @display(description="last seen")
    def seen(self, worker: Worker) -> str:
        return when(worker.seen_at)

    @display(description="draining since")
    def draining(self, worker: Worker) -> str:
        return when(worker.draining_at)

    @display(description="ended")
    def ended(self, worker: Worker) -> str:
        return when(worker.ended_at)


@admin.register(Kind)
class KindAdmin(WatchedAdmin):
    list_display = ("name", "state", "queue", "ready_jobs", "running_jobs", "paused", "first_line")
    list_filter = ("queue", ("paused_at", admin.EmptyFieldListFilter))
    ordering = ("name",)
    search_fields = ("name",)
    actions = ("pause_selected", "resume_selected")
    fields = (("name", "state"), ("queue", "paused"), ("ready_jobs", "running_jobs"), "description")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Kind]:
        return (
            super()
            .get_queryset(request)
            .annotate(
                ready=RawSQL(READY_JOBS, [MOST_COUNTED]),  # noqa: S611 - a constant
                running=RawSQL(RUNNING_JOBS, [MOST_COUNTED]),  # noqa: S611 - a constant
            )
        )

    @admin.action(description="Pause the selected kinds", permissions=["operate"])
    def pause_selected(self, request: HttpRequest, kinds: QuerySet[Kind]) -> None:
        self._do_to_each(request, kinds, pause_kind, "Paused")

    @admin.action(description="Resume the selected kinds", permissions=["operate"])
    def resume_selected(self, request: HttpRequest, kinds: QuerySet[Kind]) -> None:
        self._do_to_each(request, kinds, resume_kind, "Resumed")

    def _do_to_each(self, request: HttpRequest, kinds: QuerySet[Kind], do: Callable[[str], None], done: str) -> None:
        for kind in kinds:
            do(kind.name)
            self.log_change(request, kind, f"{done} it.")
        self.message_user(request, f"{done}: {', '.join(kind.name for kind in kinds)}.", messages.SUCCESS)

    @display(description="state")
    def state(self, kind: Kind) -> SafeString:
        return label("PAUSED" if kind.paused_at else "OPEN")

    @display(description="ready jobs")
    def ready_jobs(self, kind: Kind) -> str:
        return counted(kind.ready)

    @display(description="running jobs")
    def running_jobs(self, kind: Kind) -> str:
        return counted(kind.running)

    @display(description="paused since")
    def paused(self, kind: Kind) -> str:
        return when(kind.paused_at)

    @display(description="description")
    def first_line(self, kind: Kind) -> str:
        return kind.description.partition("\n")[0]


def label(text: str) -> SafeString:
    return render_to_string("unfold/helpers/label.html", {"text": text, "type": COLOURS[text]})


def two_lines(first: str, second: object) -> SafeString:
    return format_html(
        '<span class="block whitespace-nowrap">{}</span><span class="block text-base-500 whitespace-nowrap">{}</span>',
        first,
        second,
    )


def block(text: str) -> SafeString | str:
    """The text as it is laid out, scrolled where it is large."""
    if not text:
        return "-"
    if len(text) > MOST_SHOWN:
        text = f"{text[:MOST_SHOWN]}\n… and {len(text) - MOST_SHOWN:,} characters more; the API shows all."
    return format_html(
        '<pre class="font-mono overflow-auto text-xs whitespace-pre-wrap" style="max-height: 30rem">{}</pre>', text
    )


def as_indented(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def when(moment: datetime | None) -> str:
    return f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S}" if moment else "-"


def counted(number: int) -> str:
    return f"{number:,} or more" if number >= MOST_COUNTED else f"{number:,}"


def jobs_counted(number: int) -> str:
    return "1 job" if number == 1 else f"{number:,} jobs"


# Others' models, as django-unfold's documentation has them: their own admin classes in its dress.
# https://unfoldadmin.com/docs/installation/auth/ and /docs/integrations/django-celery-beat/

for guest in (
    User, Group, AuthToken, PeriodicTask, IntervalSchedule, CrontabSchedule, SolarSchedule, ClockedSchedule
):  # fmt: skip
    admin.site.unregister(guest)


@admin.register(User)
class DressedUserAdmin(UserAdmin, ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class DressedGroupAdmin(GroupAdmin, ModelAdmin):
    pass


@admin.register(AuthToken)
class DressedTokenAdmin(AuthTokenAdmin, ModelAdmin):
    pass


class TaskSelect(UnfoldAdminSelectWidget, beat.TaskSelectWidget):
    """The select of registered tasks."""


class DressedPeriodicTaskForm(beat.PeriodicTaskForm):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = TaskSelect()


@admin.register(PeriodicTask)
class DressedPeriodicTaskAdmin(beat.PeriodicTaskAdmin, ModelAdmin):
    form = DressedPeriodicTaskForm


class DressedPeriodicTaskInline(beat.PeriodicTaskInline, TabularInline):
    pass


@admin.register(IntervalSchedule, SolarSchedule)
class DressedScheduleAdmin(ModelAdmin):
    inlines = (DressedPeriodicTaskInline,)


@admin.register(CrontabSchedule)
class DressedCrontabAdmin(beat.CrontabScheduleAdmin, ModelAdmin):
    inlines = (DressedPeriodicTaskInline,)


@admin.register(ClockedSchedule)
class DressedClockedAdmin(beat.ClockedScheduleAdmin, ModelAdmin):
    inlines = (DressedPeriodicTaskInline,)
