"""The dialog that submits a job like another one, with a payload that can be edited."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.http import HttpRequest
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminTextareaWidget

from orchestrator.admin.rendering import as_indented
from orchestrator.kind_problems import BadPayload, InternalKind, UnknownKind
from orchestrator.kinds import kind_open_to_clients
from orchestrator.models import Job


class RunAgainForm(BaseDialogForm):  # type: ignore[misc]
    """What is to be done again; the payload is checked as a client's is."""

    payload = forms.CharField(widget=UnfoldAdminTextareaWidget(attrs={"rows": 12, "class": "m-mono"}))
    priority = forms.IntegerField(
        min_value=0, max_value=9, widget=UnfoldAdminIntegerFieldWidget, help_text="0 is the most urgent, 9 the least."
    )

    def __init__(self, request: HttpRequest, object_id: str | None = None, *args: Any, **options: Any) -> None:
        super().__init__(request, object_id, *args, **options)
        self.job = Job.objects.filter(id=object_id).first() if object_id else None
        if self.job:
            self.fields["payload"].initial = as_indented(self.job.payload)
            self.fields["priority"].initial = self.job.priority

    def clean_payload(self) -> Any:
        try:
            payload = json.loads(self.cleaned_data["payload"])
            if self.job:
                kind_open_to_clients(self.job.kind).read_payload(payload)
        except ValueError as error:
            raise forms.ValidationError(f"This is no JSON: {error}") from None
        except BadPayload as error:
            said = " ".join(f"{each.pointer}: {each.detail}" for each in error.problems[:3])
            raise forms.ValidationError(said) from None
        except (UnknownKind, InternalKind) as error:
            raise forms.ValidationError(str(error)) from None
        return payload


def can_run_again(job: Job) -> bool:
    """Whether it is a job that a client could have submitted."""
    try:
        kind_open_to_clients(job.kind)
    except (UnknownKind, InternalKind):
        return False
    return job.parent_id is None
