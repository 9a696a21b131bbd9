"""The admin of notifications, and the log of what they have sent."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextInputWidget

from orchestrator.admin.base import BoundedAdmin, ReadOnlyAdmin, act_on_each
from orchestrator.admin.rendering import label, list_link, page_link
from orchestrator.kind_problems import UnknownKind
from orchestrator.models import Delivery, Notification
from orchestrator.notifications import services
from orchestrator.notifications.services import BadNotification, NotRepeatable
from orchestrator.shown.lists import column
from orchestrator.states import FINAL

COLUMNS = ("name", "owner", "via", "kind", "statuses", "automatic", "children", "digest_seconds", "enabled")


class NotificationForm(forms.ModelForm):  # type: ignore[type-arg]
    """A notification. Its target is asked for and not shown again, since it may let others send there."""

    statuses = forms.MultipleChoiceField(
        choices=[(status, status) for status in FINAL],
        initial=list(FINAL),
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )
    new_target = forms.CharField(
        required=False,
        max_length=2_000,
        widget=UnfoldAdminTextInputWidget,
        label="target",
        help_text="A URL that begins with https://, or up to 10 mail addresses, separated by commas. Empty: as it is.",
    )

    class Meta:
        model = Notification
        fields = COLUMNS

    def clean(self) -> dict[str, Any]:
        given: dict[str, Any] = super().clean() or self.cleaned_data
        if self.errors:
            return given
        if given["new_target"]:
            self.instance.target = given["new_target"]
        if not self.instance.target:
            raise forms.ValidationError({"new_target": "Say where it is sent to."})
        columns = {name: given.get(name, getattr(self.instance, name)) for name in COLUMNS}
        tried = Notification(target=self.instance.target, **columns)
        try:
            services.check(tried)
        except UnknownKind as error:
            raise forms.ValidationError({"kind": str(error)}) from None
        except BadNotification as error:
            field = error.problems[0].pointer.removeprefix("/").replace("target", "new_target")
            raise forms.ValidationError({field: str(error)}) from None
        return given


@admin.register(Notification)
class NotificationAdmin(BoundedAdmin):
    """Rows are changed here and over HTTP alike. A webhook's secret is shown once, when it is made."""

    form = NotificationForm
    list_display = ("name", "state", "via", "shown_target", "owner", "kind", "about", "log")
    list_filter = ("via", "enabled")
    ordering = ("-id",)
    search_fields = ("name", "owner", "kind")
    actions = ("send_test", "renew_secret")
    readonly_fields = ("shown_target", "disabled_reason", "created_at", "changed_at", "log")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        shown = ("shown_target", "disabled_reason", ("created_at", "changed_at"), "log") if obj else ()
        return (("name", "enabled"), ("via", "new_target"), ("owner", "kind"), "statuses",
                ("automatic", "children", "digest_seconds"), *shown)  # fmt: skip

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return (*self.readonly_fields, "via", "owner") if obj else self.readonly_fields

    def save_model(self, request: HttpRequest, obj: Notification, form: Any, change: bool) -> None:
        if change:
            changed = {name: form.cleaned_data[name] for name in form.changed_data if name in COLUMNS}
            if form.cleaned_data["new_target"]:
                changed["target"] = form.cleaned_data["new_target"]
            services.change(obj.id, changed)
        elif secret := services.create(obj):
            self.message_user(request, f"SECRET {secret}", messages.INFO)

    def delete_model(self, request: HttpRequest, obj: Notification) -> None:
        services.delete(obj.id)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Notification]) -> None:
        for row in queryset:
            services.delete(row.id)

    @admin.action(description="Send a test message", permissions=["change"])
    def send_test(self, request: HttpRequest, rows: QuerySet[Notification]) -> None:
        for row in rows:
            services.send_test(row.id)
        self.message_user(request, "Submitted; the log says what becomes of it.", messages.SUCCESS)

    @admin.action(description="Make a new secret", permissions=["change"])
    def renew_secret(self, request: HttpRequest, rows: QuerySet[Notification]) -> None:
        for row in rows:
            try:
                self.message_user(request, f"{row.name}: SECRET {services.renew_secret(row.id)}", messages.INFO)
            except BadNotification as error:
                self.message_user(request, f"{row.name}: {error}", messages.WARNING)

    @admin.display(description="state")
    def state(self, row: Notification) -> SafeString:
        return label("ACTIVE" if row.enabled else "PAUSED")

    @admin.display(description="sent to")
    def shown_target(self, row: Notification) -> str:
        return services.shown_target(row)

    @admin.display(description="about")
    def about(self, row: Notification) -> str:
        ends = ", ".join(status.lower() for status in row.statuses)
        return ends if row.automatic else f"{ends}; jobs that name it"

    @admin.display(description="log")
    def log(self, row: Notification) -> SafeString:
        return list_link("admin:orchestrator_delivery_changelist", "Deliveries", notification_id=row.id)


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    """What was sent, newest first, and what became of it."""

    list_display = ("id", "shown_state", "type", "job", "kind", "attempts", "response_status", "error", "created_at")
    ordering = ("-id",)
    actions = ("send_again",)
    fields = (
        ("type", "shown_state"),
        ("job", "kind"),
        ("created_at", "delivered_at"),
        ("attempts", "response_status"),
        "response",
        "error",
        "message_id",
        "data",
    )
    readonly_fields = ("shown_state", "job")

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        return lookup == "notification_id" or super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]

    def has_again_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may change notifications may have their messages sent again."""
        allowed: bool = request.user.has_perm("orchestrator.change_notification")
        return allowed

    @admin.action(description="Send the selected messages again", permissions=["again"])
    def send_again(self, request: HttpRequest, rows: QuerySet[Delivery]) -> None:
        ids = list(rows.values_list("id", flat=True))
        act_on_each(self, request, ids, services.send_again, "Sent again", (NotRepeatable,))  # type: ignore[arg-type]

    @column("state")
    def shown_state(self, row: Delivery) -> SafeString:
        return label({"DELIVERED": "COMPLETED", "GAVE_UP": "FAILED"}.get(row.state, "CREATED"), row.state)

    @admin.display(description="job")
    def job(self, row: Delivery) -> SafeString | str:
        return page_link("admin:orchestrator_job_change", row.job_id) if row.job_id else "-"
