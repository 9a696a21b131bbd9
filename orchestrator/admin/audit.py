"""The audit trail: its entries, and pages that record what is changed on them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest

from access import audit
from access.models import AuditEntry
from orchestrator.admin.base import ExactSearch, ReadOnlyAdmin
from orchestrator.admin.rendering import as_indented, block
from orchestrator.admin.unfold import ModelAdmin


class AuditedAdmin(ModelAdmin):
    """Whatever is changed here is in the audit trail, with the values before and after, in the same transaction."""

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        """Django calls it for each form that is saved, with what `log_change` is not given."""
        request.changed_values = changed_values(form)  # type: ignore[attr-defined]
        return super().construct_change_message(request, form, formsets, add)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        after = getattr(request, "changed_values", {}).get("after")
        audit.record(f"{audit.key_of(obj)}.create", obj.pk, obj, after=after)
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        values = getattr(request, "changed_values", {})
        if values.get("after"):
            audit.record(f"{audit.key_of(obj)}.change", obj.pk, obj, **values)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for obj in queryset:
            audit.record(f"{audit.key_of(obj)}.delete", obj.pk, obj)
        return super().log_deletions(request, queryset)

    def response_action(self, request: HttpRequest, queryset: Any) -> Any:  # type: ignore[override]
        with transaction.atomic():
            return super().response_action(request, queryset)

    def record_each(self, rows: QuerySet[Any], action: str) -> None:
        for row in rows:
            audit.record(f"{audit.key_of(row)}.{action}", row.pk, row)


def changed_values(form: Any) -> dict[str, dict[str, Any]]:
    """What a form changed; of passwords only that they were."""
    secret = {name for name in form.changed_data if "password" in name}
    names = [name for name in form.changed_data if name not in secret and name in form.cleaned_data]
    shown = {"password": "changed"} if secret else {}
    return {
        "before": {name: form.initial.get(name) for name in names},
        "after": {name: form.cleaned_data[name] for name in names} | shown,
    }


@admin.register(AuditEntry)
class AuditEntryAdmin(ExactSearch, ReadOnlyAdmin):
    """Who changed what."""

    list_display = ("id", "at", "actor", "via", "action", "object_name", "object_id", "address")
    list_display_links = ("id",)
    list_filter = ("via",)
    ordering = ("-id",)
    text_lookups = ("object_id", "actor", "action")
    search_help_text = "Object id, actor or action"
    fields = (
        ("at", "via", "action"),
        ("actor", "token", "address"),
        ("object_name", "object_id"),
        "before_shown",
        "after_shown",
        "keep_until",
    )

    @admin.display(description="before")
    def before_shown(self, entry: AuditEntry) -> str:
        return block(as_indented(entry.before) if entry.before else "")

    @admin.display(description="after")
    def after_shown(self, entry: AuditEntry) -> str:
        return block(as_indented(entry.after) if entry.after else "")
