"""The admin: ingestions to watch and cancel, the records that are stored, and those that could not be."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.safestring import SafeString

from ingestion import queries
from ingestion.admin import ingestion_page
from ingestion.models import Ingestion, Record, RecordError
from ingestion.records.student import GRADES
from orchestrator.admin.base import MAX_AT_ONCE, ExactSearch, ReadOnlyAdmin, act_on_each, ask_first
from orchestrator.admin.rendering import as_indented, block, label, page_link
from orchestrator.shown.lists import column
from orchestrator.shown.words import age
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
class IngestionAdmin(ExactSearch, ReadOnlyAdmin):
    list_display = ("task", "status", "owner", "progress", "stored", "failed", "created")
    list_display_links = ("task",)
    list_filter = (StatusFilter, "mode", "on_conflict")
    date_hierarchy = "created_at"
    ordering = ("-id",)
    id_lookup = "job"
    text_lookups = ("job__owner",)
    search_help_text = "Task id or owner"
    actions = ("cancel_selected",)
    change_form_template = "ingestion/admin/ingestion.html"
    fields = ("task",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Ingestion]:
        return queries.with_progress(super().get_queryset(request))

    def shown_of(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return {"state": self.status(row), **ingestion_page.context(request, row)}

    @admin.action(description="Cancel the selected ingestions", permissions=["cancel"])
    def cancel_selected(self, request: HttpRequest, ingestions: QuerySet[Ingestion]) -> TemplateResponse | None:
        if question := ask_first(self, request, ingestions, "Cancel"):
            return question
        by_job = {row.job_id: row for row in ingestions[:MAX_AT_ONCE] if row.job_id}

        def act(job_id: UUID) -> None:
            cancel(job_id, action="ingestion.cancel")
            self.log_change(request, by_job[job_id], "Requested cancellation.")

        act_on_each(self, request, list(by_job), act, "Requested cancellation of", (NotCancellable,))
        return None

    @admin.display(description="task")
    def task(self, ingestion: Ingestion) -> str:
        return str(ingestion.job_id or "(being uploaded)")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Ingestion | None:
        """Also by the id that the API gives it, which is its job's."""
        try:
            job_id = UUID(object_id)
        except ValueError:
            found: Ingestion | None = super().get_object(request, object_id, from_field)
            return found
        return self.get_queryset(request).filter(job=job_id).first()

    @column("status")
    def status(self, ingestion: Any) -> SafeString | str:
        if not ingestion.job:
            return "-"
        if ingestion.job.status == Status.COMPLETED and ingestion.failed_records:
            return label("WITH_REJECTED", f"{ingestion.job.status}, {ingestion.failed_records:,} REJECTED")
        return label(ingestion.job.status)

    @admin.display(description="owner")
    def owner(self, ingestion: Ingestion) -> str:
        return (ingestion.job and ingestion.job.owner) or "-"

    @admin.display(description="records")
    def progress(self, ingestion: Ingestion) -> str:
        done = queries.progress_of(ingestion).processed_records if ingestion.job else 0
        return f"{done:,} of {ingestion.total_records:,}"

    @admin.display(description="stored")
    def stored(self, ingestion: Any) -> str:
        return f"{ingestion.stored_records or 0:,}"

    @admin.display(description="rejected")
    def failed(self, ingestion: Any) -> str:
        return f"{ingestion.failed_records or 0:,}"

    @column("age", "m-wide")
    def created(self, ingestion: Ingestion) -> SafeString | str:
        return age(ingestion.created_at)


class FilteredByIngestion(ReadOnlyAdmin):
    """A list that an ingestion links to."""

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        return lookup == "ingestion__id__exact" or super().lookup_allowed(lookup, value, request)


class GradeFilter(admin.SimpleListFilter):
    title = parameter_name = "grade"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(grade, grade) for grade in GRADES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Record]) -> QuerySet[Record]:
        return queryset.filter(grade=self.value()) if self.value() else queryset


@admin.register(Record)
class RecordAdmin(ExactSearch, FilteredByIngestion):
    list_display = ("student_id", "owner", "first_name", "last_name", "grade", "email", "city", "updated_at")
    list_display_links = ("student_id",)
    list_filter = (GradeFilter,)
    ordering = ("-id",)
    text_lookups = ("student_id", "owner")
    search_help_text = "student_id or owner"
    fieldsets = (
        (None, {"fields": (("student_id", "owner"), ("first_name", "last_name", "email"))}),
        ("School", {"fields": (("grade", "section", "roll_number"), "date_of_birth")}),
        ("Address", {"fields": ("phone", "address", ("city", "state"), ("postal_code", "country"))}),
        ("Timestamps", {"fields": (("created_at", "updated_at", "written_by"),)}),
    )

    @admin.display(description="last written by")
    def written_by(self, record: Record) -> SafeString:
        return page_link("admin:ingestion_ingestion_change", record.ingestion_id)


@admin.register(RecordError)
class RecordErrorAdmin(ExactSearch, FilteredByIngestion):
    list_display = ("index", "student_id", "problems", "task", "created_at")
    list_display_links = ("index",)
    list_select_related = ("ingestion",)
    ordering = ("-id",)
    id_lookup = "ingestion__job"
    search_help_text = "Task id"
    fields = (("index", "student_id", "task", "created_at"), "errors_shown")

    @admin.display(description="problems")
    def problems(self, error: RecordError) -> str:
        return ", ".join(f"{each['field'] or 'record'}: {each['code']}" for each in error.errors[:5])

    @admin.display(description="errors")
    def errors_shown(self, error: RecordError) -> SafeString | str:
        return block(as_indented(error.errors))

    @admin.display(description="task")
    def task(self, error: RecordError) -> SafeString:
        return page_link("admin:ingestion_ingestion_change", error.ingestion_id, error.ingestion.job_id)
