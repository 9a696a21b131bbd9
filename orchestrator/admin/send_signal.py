"""The dialog that sends a signal to a job, or to a pipeline for its steps."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.http import HttpRequest
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from orchestrator import signalling
from orchestrator.models import Job, Signal

MAX_CHOICES = 50


def can_be_signalled(job: Job) -> bool:
    """Whether anything of it waits for a signal, or will, that has not come."""
    return bool(_names(job))


def _names(job: Job) -> list[str]:
    sent = Signal.objects.filter(job=job.id).values("name")
    names = signalling.awaited(job.id).exclude(signal__in=sent).values_list("signal", flat=True)
    return sorted(set(names[: 10 * MAX_CHOICES]))[:MAX_CHOICES]


class SendSignalForm(BaseDialogForm):  # type: ignore[misc]
    """Which signal, with what."""

    name = forms.ChoiceField(widget=UnfoldAdminSelectWidget, label="Signal")
    body = forms.CharField(widget=UnfoldAdminTextareaWidget(attrs={"rows": 6, "class": "m-mono"}), initial="{}")

    def __init__(self, request: HttpRequest, object_id: str | None = None, *args: Any, **options: Any) -> None:
        super().__init__(request, object_id, *args, **options)
        job = Job.objects.filter(id=object_id).first() if object_id else None
        self.fields["name"].choices = [(name, name) for name in (_names(job) if job else ())]

    def clean_body(self) -> Any:
        try:
            body = json.loads(self.cleaned_data["body"])
        except ValueError as error:
            raise forms.ValidationError(f"This is no JSON: {error}") from None
        if not isinstance(body, dict):
            raise forms.ValidationError("Give an object, such as {}.")
        return body
