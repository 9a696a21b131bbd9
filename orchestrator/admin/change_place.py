"""The dialog that changes a job's place in the queue before it starts."""

from __future__ import annotations

from typing import Any

from django import forms
from django.http import HttpRequest
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldBooleanSwitchWidget

from orchestrator.models import Job
from orchestrator.states import Status
from orchestrator.steering.changing import Change


class ChangePlaceForm(BaseDialogForm):  # type: ignore[misc]
    priority = forms.IntegerField(
        min_value=0, max_value=9, widget=UnfoldAdminIntegerFieldWidget, help_text="0 is the most urgent, 9 the least."
    )
    at_once = forms.BooleanField(
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        label="Start now",
        help_text="Do not wait any longer for its start time or its next attempt.",
    )

    def __init__(self, request: HttpRequest, object_id: str | None = None, *args: Any, **options: Any) -> None:
        super().__init__(request, object_id, *args, **options)
        job = Job.objects.filter(id=object_id).first() if object_id else None
        if job:
            self.fields["priority"].initial = job.priority
        if job is None or job.status != Status.CREATED:
            del self.fields["at_once"]

    @property
    def change(self) -> Change:
        return Change(priority=self.cleaned_data["priority"], at_once=self.cleaned_data.get("at_once", False))


def has_place(job: Job) -> bool:
    """Whether it has not started, or is a pipeline, whose waiting children go with it."""
    is_pipeline = job.status == Status.RUNNING and job.worker_id is None
    return job.status == Status.CREATED or (is_pipeline and job.children.exists())
