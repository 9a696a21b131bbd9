"""The admin of what is set for owners: their weights, their shares of the slots, and who is paused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from orchestrator.admin.base import BoundedAdmin
from orchestrator.admin.rendering import label
from orchestrator.models import OwnerShare
from orchestrator.queue import owners
from orchestrator.shown.lists import NumberedList


@admin.register(OwnerShare)
class OwnerShareAdmin(BoundedAdmin):
    """An owner that has no row has weight 1, OWNER_SLOT_SHARE of the slots, and is not paused."""

    list_display = ("name", "state", "weight", "slot_share", "paused_at")
    list_display_links = ("name",)
    ordering = ("owner",)
    search_fields = ("owner",)
    fields = ("owner", "weight", "slot_share", "paused_at")
    readonly_fields = ("paused_at",)
    actions = ("pause_selected", "resume_selected")

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[NumberedList]:
        return NumberedList

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Whose row it is stays as it is."""
        return ("owner", "paused_at") if obj else ("paused_at",)

    def save_model(self, request: HttpRequest, obj: OwnerShare, form: Any, change: bool) -> None:
        owners.change_share(obj.owner, weight=obj.weight, slot_share=obj.slot_share)
        obj.pk = OwnerShare.objects.get(owner=obj.owner).pk

    def delete_model(self, request: HttpRequest, obj: OwnerShare) -> None:
        owners.forget_share(obj.owner)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[OwnerShare]) -> None:
        for share in queryset:
            owners.forget_share(share.owner)

    @admin.action(description="Pause the selected owners", permissions=["pause"])
    def pause_selected(self, request: HttpRequest, shares: QuerySet[OwnerShare]) -> None:
        self._act(request, shares, owners.pause_owner, "Paused")

    @admin.action(description="Resume the selected owners", permissions=["pause"])
    def resume_selected(self, request: HttpRequest, shares: QuerySet[OwnerShare]) -> None:
        self._act(request, shares, owners.resume_owner, "Resumed")

    def _act(self, request: HttpRequest, shares: QuerySet[OwnerShare], act: Callable[[str], None], done: str) -> None:
        for share in shares:
            act(share.owner)
            self.log_change(request, share, f"{done} the owner.")
        self.message_user(request, f"{done} {', '.join(map(str, shares))}.", messages.SUCCESS)

    @admin.display(description="owner")
    def name(self, share: OwnerShare) -> str:
        return str(share)

    @admin.display(description="state")
    def state(self, share: OwnerShare) -> SafeString:
        return label("PAUSED" if share.paused_at else "ACTIVE")
