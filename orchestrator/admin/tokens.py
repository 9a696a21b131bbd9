"""The admin of tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import knox.admin  # noqa: F401 - its page is the one replaced here.
from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest
from knox.models import AuthToken
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from access import tokens
from access.tokens import Scope
from orchestrator.admin.unfold import ModelAdmin


class TokenForm(forms.ModelForm):  # type: ignore[type-arg]
    """A token to be made. Its user is always asked for; the rest has a default."""

    name = forms.CharField(
        max_length=tokens.MAX_NAME_LENGTH,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="What the token is used for.",
    )
    scope = forms.ChoiceField(
        choices=Scope.choices, required=False, initial=Scope.MANAGE, widget=UnfoldAdminSelectWidget
    )
    days = forms.FloatField(required=False, widget=UnfoldAdminTextInputWidget, help_text="Days until it expires.")

    class Meta:
        model = AuthToken
        fields = ("user",)

    def clean_days(self) -> float:
        days: float | None = self.cleaned_data["days"]
        days = settings.ENV.TOKEN_DEFAULT_DAYS if days is None else days
        try:
            tokens.check_days(days)
        except tokens.BadToken as error:
            raise forms.ValidationError(str(error)) from None
        return days

    def clean_scope(self) -> str:
        return self.cleaned_data["scope"] or Scope.MANAGE


admin.site.unregister(AuthToken)


@admin.register(AuthToken)
class TokenAdmin(ModelAdmin):
    """Tokens are made here and shown once, listed without what would let anyone use them, and revoked by deleting."""

    add_form = TokenForm
    list_display = ("token_key", "user", "name", "scope", "created", "expiry", "last_used_at")
    list_select_related = ("user", "details")
    search_fields = ("token_key", "user__username", "details__name")
    raw_id_fields = ("user",)
    ordering = ("-created",)
    fields = (("user", "name"), ("token_key", "scope"), ("created", "expiry", "last_used_at"))
    readonly_fields = ("name", "scope", "last_used_at")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_fields(request, obj) if obj else ("user", "name", "scope", "days")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_readonly_fields(request, obj) if obj else ()

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **options: Any) -> Any:
        if obj is None:
            options["form"] = self.add_form
            options["fields"] = ("user",)
        return super().get_form(request, obj, change, **options)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        """Whoever makes a token for another has that one's rights, so that is for superusers."""
        if db_field.name == "user" and not request.user.is_superuser:
            options["queryset"] = User.objects.filter(username=request.user.get_username())
        return super().formfield_for_foreignkey(db_field, request, **options)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> AuthToken:
        """Made with its details here: `save_model` has nothing left to do."""
        given = form.cleaned_data
        row, token = tokens.create_token(
            given["user"], name=given["name"], scope=Scope(given["scope"]), days=given["days"]
        )
        form.save_m2m = lambda: None
        self.message_user(request, f"TOKEN {token}", messages.INFO)
        return row

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        pass

    def delete_model(self, request: HttpRequest, obj: AuthToken) -> None:
        tokens.revoke(obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[AuthToken]) -> None:
        for row in queryset:
            tokens.revoke(row)

    @admin.display(description="name")
    def name(self, row: AuthToken) -> str:
        return row.details.name if hasattr(row, "details") else ""

    @admin.display(description="scope")
    def scope(self, row: AuthToken) -> str:
        return tokens.scope_of(row).value

    @admin.display(description="last used at")
    def last_used_at(self, row: AuthToken) -> datetime | None:
        return row.details.last_used_at if hasattr(row, "details") else None
