"""The admin's list of jobs, and what can be done to jobs there and on their pages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import action

from access.permissions import is_granted, owner_of
from orchestrator import queries
from orchestrator.admin import job_page, search
from orchestrator.admin.base import MAX_AT_ONCE, ReadOnlyAdmin, act_on_each, ask_first, dialog, is_across
from orchestrator.admin.bulk import act_on_all
from orchestrator.admin.change_place import ChangePlaceForm
from orchestrator.admin.filters import (
    CreatedFilter,
    KindFilter,
    PipelineFilter,
    QueueFilter,
    ScheduleFilter,
    WaitingFilter,
)
from orchestrator.admin.rendering import cut, label, with_id
from orchestrator.admin.run_again import RunAgainForm
from orchestrator.admin.send_signal import SendSignalForm
from orchestrator.client_limits import BeyondLimits, QuotaExceeded, check, check_quotas, check_signal, limits_of
from orchestrator.kind_problems import UnknownKind
from orchestrator.models import Job
from orchestrator.shown.lists import column
from orchestrator.shown.words import age, duration
from orchestrator.signalling import AlreadySent, BadSignal, NotAwaited, send_signal
from orchestrator.states import UNFINISHED, Status
from orchestrator.steering.batches import Verb, retry_within
from orchestrator.steering.changing import Change, NotChangeable, change
from orchestrator.submission import (
    BadSubmission,
    NotCancellable,
    NotRetryable,
    NotUnique,
    TooManyUnfinished,
    cancel,
    submit,
)

REFUSALS = (NotCancellable, NotRetryable, QuotaExceeded, TooManyUnfinished, UnknownKind, Job.DoesNotExist)


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = ("job", "state", "owner", "created", "took", "tries", "trouble")
    list_display_links = ("job",)
    list_filter = ("status", WaitingFilter, KindFilter, QueueFilter, CreatedFilter, PipelineFilter, ScheduleFilter)
    shortcuts = (
        ("All", ""),
        ("Waiting", "status__exact=CREATED"),
        ("Running", "status__exact=RUNNING"),
        ("Failed", "status__exact=FAILED"),
        ("Failed today", "status__exact=FAILED&created=day"),
    )
    ordering = ("-id",)
    search_fields = ("pk",)
    search_help_text = search.HELP
    actions = ("cancel_selected", "retry_selected", "urgent_selected", "least_urgent_selected", "start_selected")
    actions_detail = ("cancel_this", "retry_this", "send_signal", "change_place", "run_again")
    change_form_template = "orchestrator/admin/job.html"
    fields = ("kind",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[queries.JobDetail]:
        # What is deferred can be megabytes, and is read for one job only.
        return queries.with_details(super().get_queryset(request)).defer("payload", "result")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if term := search_term.strip():
            queryset, request.search_note = search.find(queryset, term)  # type: ignore[attr-defined]
        return queryset, False

    def shown_of(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return job_page.context(request, row)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """The buttons that apply to the job as it is."""
        job = Job.objects.filter(id=object_id).first()
        useless = set() if job is None else job_page.useless_buttons(job)
        return [
            each
            for each in super().get_actions_detail(request, object_id)  # type: ignore[misc]
            if each.action_name.removeprefix("orchestrator_job_") not in useless
        ]

    @admin.action(description="Cancel the selected jobs", permissions=["cancel"])
    def cancel_selected(self, request: HttpRequest, jobs: QuerySet[Job]) -> TemplateResponse | None:
        return self._act_on_many(request, jobs, "cancel", self._cancel)

    @admin.action(description="Retry the selected jobs", permissions=["retry"])
    def retry_selected(self, request: HttpRequest, jobs: QuerySet[Job]) -> TemplateResponse | None:
        return self._act_on_many(request, jobs, "retry", self._retry)

    @admin.action(description="Make the selected jobs the most urgent", permissions=["reschedule"])
    def urgent_selected(self, request: HttpRequest, jobs: QuerySet[Job]) -> TemplateResponse | None:
        return act_on_all(self, request, "change", jobs, Change(priority=limits_of(request.user).priorities[0]))

    @admin.action(description="Make the selected jobs the least urgent", permissions=["reschedule"])
    def least_urgent_selected(self, request: HttpRequest, jobs: QuerySet[Job]) -> TemplateResponse | None:
        return act_on_all(self, request, "change", jobs, Change(priority=limits_of(request.user).priorities[-1]))

    @admin.action(description="Start the selected jobs as soon as possible", permissions=["reschedule"])
    def start_selected(self, request: HttpRequest, jobs: QuerySet[Job]) -> TemplateResponse | None:
        return act_on_all(self, request, "change", jobs, Change(at_once=True))

    @action(  # type: ignore[untyped-decorator]
        description="Cancel",
        permissions=["cancel"],
        icon="block",
        dialog=dialog(
            "Cancel this job?",
            "Its children are cancelled too. A running job stops within about a second.",
            "Cancel the job",
        ),
    )
    def cancel_this(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        return self._act_on_this(request, object_id, self._cancel)

    @action(  # type: ignore[untyped-decorator]
        description="Retry",
        permissions=["retry"],
        icon="replay",
        dialog=dialog(
            "Retry this job?", "In a pipeline, only the jobs that did not complete run again.", "Retry the job"
        ),
    )
    def retry_this(self, request: HttpRequest, form: Any, object_id: str) -> HttpResponse:
        return self._act_on_this(request, object_id, self._retry)

    def has_signal_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return self.is_granted(request, "signal")

    @action(  # type: ignore[untyped-decorator]
        description="Send signal …",
        permissions=["signal"],
        icon="send",
        dialog=dialog("Send a signal?", "What waits for it goes on. It can be sent once.", "Send", SendSignalForm),
    )
    def send_signal(self, request: HttpRequest, form: SendSignalForm, object_id: str) -> HttpResponse:
        job = self.get_object(request, object_id)
        if job is None:
            raise Http404
        name, body = form.cleaned_data["name"], form.cleaned_data["body"]
        try:
            check_signal(job.id, limits_of(request.user).quotas, stored=len(request.POST.get("body", "")))
            send_signal(job.id, name, body, sent_by=owner_of(request.user))
        except (AlreadySent, BadSignal, NotAwaited, QuotaExceeded) as refusal:
            self.message_user(request, str(refusal), messages.WARNING)
        else:
            self.log_change(request, job, f"Sent the signal {name}.")
            self.message_user(request, f"Sent the signal {name}.", messages.SUCCESS)
        return opened(job)

    def has_reschedule_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return self.is_granted(request, "reschedule")

    @action(  # type: ignore[untyped-decorator]
        description="Change priority …",
        permissions=["reschedule"],
        icon="swap_vert",
        dialog=dialog(
            "Change its place in the queue?",
            "Of a pipeline, the children that have not started change with it.",
            "Change",
            ChangePlaceForm,
        ),
    )
    def change_place(self, request: HttpRequest, form: ChangePlaceForm, object_id: str) -> HttpResponse:
        job = self.get_object(request, object_id)
        if job is None:
            raise Http404
        try:
            check(form.change.columns, limits_of(request.user))
            changed = change(job.id, form.change)
        except (BeyondLimits, NotChangeable) as refusal:
            self.message_user(request, str(refusal), messages.WARNING)
        else:
            self.log_change(request, changed, f"Changed the priority from {job.priority} to {changed.priority}.")
            self.message_user(request, f"Its priority is {changed.priority} now.", messages.SUCCESS)
        return opened(job)

    def has_run_again_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """It shows a payload, and submits a job for its owner."""
        needed = ("retry_job", "view_payload", "submit_for_others")
        return all(is_granted(request.user, f"orchestrator.{name}") for name in needed)

    @action(  # type: ignore[untyped-decorator]
        description="Run again …",
        permissions=["run_again"],
        icon="content_copy",
        dialog=dialog(
            "Run this job again?",
            "A new job of the same kind and owner is submitted; this one stays as it is.",
            "Submit a new job",
            RunAgainForm,
        ),
    )
    def run_again(self, request: HttpRequest, form: RunAgainForm, object_id: str) -> HttpResponse:
        old = self.get_object(request, object_id)
        if old is None:
            raise Http404
        given, limits = form.cleaned_data, limits_of(request.user)
        try:
            check(given, limits)
            check_quotas({old.owner: 1}, limits, stored=len(request.POST["payload"]))
            new = submit(old.kind, given["payload"], owner=old.owner, priority=given["priority"])
        except (QuotaExceeded, TooManyUnfinished, NotUnique, BadSubmission) as refusal:
            self.message_user(request, str(refusal), messages.WARNING)
            return opened(old)
        if new.duplicate:
            self.message_user(request, "There is such a unique job already: this one.", messages.WARNING)
            return opened(new)
        self.log_change(request, old, f"Submitted it again, as {new.id}.")
        self.message_user(request, f"Submitted as a new job, like {old.id}.", messages.SUCCESS)
        return opened(new)

    def _act_on_many(
        self,
        request: HttpRequest,
        jobs: QuerySet[Job],
        verb: Verb,
        act: Callable[[HttpRequest, QuerySet[Job]], None],
    ) -> TemplateResponse | None:
        """Asks, and then acts. Of all that match only those count to which that can be done."""
        if is_across(request):
            return act_on_all(self, request, verb, jobs)
        if (question := ask_first(self, request, jobs, verb.capitalize())) is None:
            act(request, jobs)
        return question

    def _cancel(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        self._act(request, jobs, cancel, "Requested cancellation of")

    def _retry(self, request: HttpRequest, jobs: QuerySet[Job]) -> None:
        quotas = limits_of(request.user).quotas
        self._act(request, jobs, partial(retry_within, quotas=quotas), "Retried")

    def _act(self, request: HttpRequest, jobs: QuerySet[Job], act: Callable[[UUID], Job], done: str) -> None:
        """What was done is kept in the history of each job, with who did it."""
        ids = list(jobs.values_list("id", flat=True)[:MAX_AT_ONCE])
        act_on_each(
            self, request, ids, lambda id: self.log_change(request, act(id), f"{done} the job."), done, REFUSALS
        )

    def _act_on_this(
        self, request: HttpRequest, object_id: str, act: Callable[[HttpRequest, QuerySet[Job]], None]
    ) -> HttpResponse:
        job = self.get_object(request, object_id)
        if job is None:
            raise Http404
        act(request, Job.objects.filter(id=job.id))
        return opened(job)

    @column("job")
    def job(self, job: Job) -> SafeString:
        return with_id(f"{job.kind} · {job.name}" if job.name else job.kind, job.id)

    @column("state")
    def state(self, job: queries.JobDetail) -> SafeString:
        return format_html('{}<span class="m-subtle">{}</span>', label(job.status), self._state_in_words(job))

    def _state_in_words(self, job: queries.JobDetail) -> str:
        if job.status not in UNFINISHED:
            return ""
        if reason := queries.waiting_for(job):
            return f" {reason.replace('_', ' ')}"
        if job.progress_done is not None and job.progress_total:
            return f" {100 * job.progress_done // job.progress_total} %"
        return ""

    @column("age", "m-number")
    def created(self, job: Job) -> SafeString | str:
        return age(job.created_at)

    @column("took", "m-number")
    def took(self, job: Job) -> str:
        return duration(seconds_run(job))

    @column("tries", "m-number")
    def tries(self, job: Job) -> str:
        return f"{job.attempt} of {job.max_attempts}" if job.attempt > 1 or job.max_attempts > 1 else f"{job.attempt}"

    @column("error", "m-wide m-cut")
    def trouble(self, job: Job) -> SafeString | str:
        return cut(job.error) if job.error else ""


def seconds_run(job: Job) -> float | None:
    """From its last start to its end, or until now; None if it does not run."""
    if job.started_at is None or (job.status not in UNFINISHED and job.finished_at is None):
        return None
    if job.status == Status.CREATED:
        return None
    end: datetime = job.finished_at or timezone.now()
    return max(0.0, (end - job.started_at).total_seconds())


def opened(job: Job) -> HttpResponse:
    """What a dialog, which posts by htmx, gets for an answer: htmx then opens the job's page."""
    return HttpResponse(headers={"HX-Redirect": reverse("admin:orchestrator_job_change", args=[job.id])})
