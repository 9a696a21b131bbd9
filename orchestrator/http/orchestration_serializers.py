"""The two-batch orchestration as the API takes and shows it."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.validators import UnicodeUsernameValidator
from django.utils.encoding import iri_to_uri
from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from orchestrator.http.fields import LinkField
from orchestrator.http.links import link
from orchestrator.models import Job
from orchestrator.states import Status
from orchestrator.submission import Accepted


def is_no_step_in_a_path(username: str) -> None:
    """Refuses what clients take for a step within the path: they could never ask for the status of their work."""
    if username in (".", ".."):
        raise serializers.ValidationError(
            f"{username!r} is special in a path; a username has letters, digits, @, +, - or _ besides dots."
        )


# What is variable in paths.
PATH: dict[str, serializers.Field[Any, Any, Any, Any]] = {
    "username": serializers.CharField(
        max_length=150, trim_whitespace=False, validators=[UnicodeUsernameValidator(), is_no_step_in_a_path]
    ),
    "job_id": serializers.UUIDField(),
}


@extend_schema_serializer(component_name="OrchestrationStarted")
class StartedSerializer(serializers.Serializer[Any]):
    message = serializers.CharField(default="Orchestration started.")
    job_id = serializers.UUIDField(source="id")
    status_url = serializers.SerializerMethodField()

    @extend_schema_field(LinkField)
    def get_status_url(self, job: Accepted) -> str:
        return iri_to_uri(link("status", job.owner, job.id))


class OrchestrationStatusSerializer(serializers.Serializer[Job]):
    job_id = serializers.UUIDField(source="id")
    status = serializers.ChoiceField(
        choices=["PENDING", *[status.value for status in Status if status != Status.CREATED]], source="status_shown"
    )
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    result = serializers.DictField(required=False, help_text="Only when COMPLETED.")
    error = serializers.CharField(required=False, help_text="Only when FAILED.")

    def to_representation(self, job: Job) -> dict[str, Any]:
        shown = {
            "job_id": job.id,
            "status": "PENDING" if job.status == Status.CREATED else job.status,
            "created_at": job.created_at,
            "updated_at": job.updated_at,
        }
        if job.status == Status.COMPLETED:
            shown["result"] = job.result
        if job.status == Status.FAILED:
            shown["error"] = job.error
        return shown
