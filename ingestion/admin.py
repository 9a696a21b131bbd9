"""The admin: ingestions to watch and cancel, the records that are stored, and those that could not be."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from ingestion import queries
from ingestion.models import Ingestion, Record, RecordError
from ingestion.records import GRADES
from orchestrator.admin import MOST_AT_ONCE, WatchedAdmin, as_indented, block, label, when
from orchestrator.states import Status
from orchestrator.submission import NotCancellable, cancel


class StatusFilter(admin.SimpleListFilter):
    """By the status of the ingestion's job."""

    title = parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(Status.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Ingestion]) -> QuerySet[Ingestion]:
        return queryset.filter(job__status=self.value()) if self.value() else queryset


@admin.register(Ingestion)
class IngestionAdmin(WatchedAdmin):
    list_display = ("task", "status", "owner", "progress", "stored", "failed", "mode", "on_conflict", "created")
    list_display_links = ("task",)
    list_filter = (StatusFilter, "mode", "on_conflict")
    date_hierarchy = "created_at"
    ordering = ("-id",)
    search_fields = ("job",)
    search_help_text = "A task's id, or an owner"
    actions = ("cancel_selected",)
    fieldsets = (
        (None, {"fields": (("task", "status", "owner"), ("progress", "stored", "failed"), "error")}),
        ("As asked for", {"fields": (("mode", "on_conflict", "created"),)}),
        ("Further", {"fields": (("job_link", "errors_link", "records_link"),)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Ingestion]:
        return queries.with_progress(super().get_queryset(request))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Ingestion], search_term: str
    ) -> tuple[QuerySet[Ingestion], bool]:
        if not search_term:
            return queryset, False
        try:
            return queryset.filter(job=UUID(search_term.strip())), False
        except ValueError:
            return queryset.filter(job__owner=search_term.strip()), False

    @admin.action(description="Cancel the selected ingestions", permissions=["operate"])
    def cancel_selected(self, request: HttpRequest, ingestions: QuerySet[Ingestion]) -> None:
        asked = 0
        for ingestion in ingestions.filter(job__isnull=False)[:MOST_AT_ONCE]:
            try:
                cancel(ingestion.job_id)
            except NotCancellable as refusal:
                self.message_user(request, f"{ingestion.job_id}: {refusal}", messages.WARNING)
            else:
                self.log_change(request, ingestion, "Asked to cancel it.")
                asked += 1
        if asked:
            self.message_user(request, f"Asked to cancel {asked:,} of them.", messages.SUCCESS)

    @display(description="task")
    def task(self, ingestion: Ingestion) -> str:
        return str(ingestion.job_id or "being received")

    @display(description="status")
    def status(self, ingestion: Ingestion) -> SafeString | str:
        return label(ingestion.job.status) if ingestion.job else "-"

    @display(description="owner")
    def owner(self, ingestion: Ingestion) -> str:
        return (ingestion.job and ingestion.job.owner) or "-"

    @display(description="records")
    def progress(self, ingestion: Ingestion) -> str:
        done = queries.progress_of(ingestion).processed_records if ingestion.job else 0
        return f"{done:,} of {ingestion.total_records:,}"

    @display(description="stored")
    def stored(self, ingestion: Any) -> str:
        return f"{ingestion.stored_records or 0:,}"

    @display(description="failed")
    def failed(self, ingestion: Any) -> str:
        return f"{ingestion.failed_records or 0:,}"

    @display(description="error")
    def error(self, ingestion: Ingestion) -> str:
        return (ingestion.job and ingestion.job.error) or "-"

    @display(description="created")
    def created(self, ingestion: Ingestion) -> str:
        return when(ingestion.created_at)

    @display(description="job")
    def job_link(self, ingestion: Ingestion) -> SafeString | str:
        return _link("admin:orchestrator_job_change", "its job", ingestion.job_id) if ingestion.job else "-"

    @display(description="errors")
    def errors_link(self, ingestion: Ingestion) -> SafeString:
        return _list_link("admin:ingestion_recorderror_changelist", "what could not be stored", ingestion)

    @display(description="records")
    def records_link(self, ingestion: Ingestion) -> SafeString:
        return _list_link("admin:ingestion_record_changelist", "what it was the last to write", ingestion)


class GradeFilter(admin.SimpleListFilter):
    title = parameter_name = "grade"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(grade, grade) for grade in GRADES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Record]) -> QuerySet[Record]:
        return queryset.filter(grade=self.value()) if self.value() else queryset


@admin.register(Record)
class RecordAdmin(WatchedAdmin):
    list_display = ("student_id", "owner", "first_name", "last_name", "grade", "email", "city", "updated")
    list_display_links = ("student_id",)
    list_filter = (GradeFilter,)
    ordering = ("-id",)
    search_fields = ("student_id",)
    search_help_text = "A student_id, or an owner"
    fieldsets = (
        (None, {"fields": (("student_id", "owner"), ("first_name", "last_name", "email"))}),
        ("School", {"fields": (("grade", "section", "roll_number"), "date_of_birth")}),
        ("Address", {"fields": ("phone", "address", ("city", "state"), ("postal_code", "country"))}),
        ("Times", {"fields": (("created", "updated", "written_by"),)}),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Record], search_term: str
    ) -> tuple[QuerySet[Record], bool]:
        """Exact, as the indexes lead to it."""
        if not search_term:
            return queryset, False
        return queryset.filter(Q(student_id=search_term.strip()) | Q(owner=search_term.strip())), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup == "ingestion__id__exact" or super().lookup_allowed(lookup, value, request)

    @display(description="created")
    def created(self, record: Record) -> str:
        return when(record.created_at)

    @display(description="updated")
    def updated(self, record: Record) -> str:
        return when(record.updated_at)

    @display(description="last written by")
    def written_by(self, record: Record) -> SafeString:
        return _link("admin:ingestion_ingestion_change", "an ingestion", record.ingestion_id)


@admin.register(RecordError)
class RecordErrorAdmin(WatchedAdmin):
    list_display = ("index", "student_id", "problems", "task", "created")
    list_display_links = ("index",)
    list_select_related = ("ingestion",)
    ordering = ("-id",)
    search_fields = ("ingestion",)
    search_help_text = "A task's id"
    fields = (("index", "student_id", "task", "created"), "errors_shown")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[RecordError], search_term: str
    ) -> tuple[QuerySet[RecordError], bool]:
        if not search_term:
            return queryset, False
        try:
            return queryset.filter(ingestion__job=UUID(search_term.strip())), False
        except ValueError:
            return queryset.none(), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup == "ingestion__id__exact" or super().lookup_allowed(lookup, value, request)

    @display(description="problems")
    def problems(self, error: RecordError) -> str:
        return ", ".join(f"{each['field'] or 'record'}: {each['code']}" for each in error.errors[:5])

    @display(description="errors")
    def errors_shown(self, error: RecordError) -> SafeString | str:
        return block(as_indented(error.errors))

    @display(description="task")
    def task(self, error: RecordError) -> SafeString:
        return _link("admin:ingestion_ingestion_change", error.ingestion.job_id, error.ingestion_id)

    @display(description="created")
    def created(self, error: RecordError) -> str:
        return when(error.created_at)


def _link(page: str, text: object, *arguments: Any) -> SafeString:
    return format_html('<a href="{}" class="text-link">{}</a>', reverse(page, args=arguments), text)


def _list_link(page: str, text: str, ingestion: Ingestion) -> SafeString:
    return format_html(
        '<a href="{}?ingestion__id__exact={}" class="text-link">{}</a>', reverse(page), ingestion.id, text
    )
