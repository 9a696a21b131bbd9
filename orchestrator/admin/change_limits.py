"""The dialog that changes a kind's limits while it runs."""

from __future__ import annotations

from typing import Any

from django import forms
from django.http import HttpRequest
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextInputWidget

from orchestrator.limits import NAMES, UNLIMITED, BadLimit
from orchestrator.models import Kind
from orchestrator.queue.limiting import check_changes


class ChangeLimitsForm(BaseDialogForm):  # type: ignore[misc]
    """A text for each limit; an empty one means what the kind's code declares."""

    def __init__(self, request: HttpRequest, object_id: str | None = None, *args: Any, **options: Any) -> None:
        super().__init__(request, object_id, *args, **options)
        self.kind = Kind.objects.filter(name=object_id).first() if object_id else None
        for name in NAMES:
            self.fields[name] = forms.CharField(
                required=False, widget=UnfoldAdminTextInputWidget, help_text=self._declared(name)
            )
            if self.kind and name in self.kind.limits:
                changed = self.kind.limits[name]
                self.fields[name].initial = UNLIMITED if changed is None else changed

    def _declared(self, name: str) -> str:
        declared = self.kind.declared_limits.get(name) if self.kind else None
        return f"Empty: as its code declares, {'none' if declared is None else declared}."

    @property
    def changes(self) -> dict[str, Any]:
        """As `change_limits` takes them."""
        given = {name: self.cleaned_data[name].strip() for name in NAMES}
        return {name: int(text) if text.isdecimal() else text or None for name, text in given.items()}

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean()
        if self.kind:
            try:
                check_changes(self.kind, self.changes)
            except BadLimit as error:
                self.add_error(error.fields[0], str(error))
        return cleaned
