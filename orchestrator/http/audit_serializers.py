"""The audit trail as the API shows it."""

from __future__ import annotations

from drf_spectacular.utils import OpenApiExample, extend_schema_serializer
from rest_framework import serializers

from access.models import AuditEntry
from orchestrator.http.examples import AN_AUDIT_ENTRY
from orchestrator.http.fields import AwareDateTimeField, StrictCharField, StrictSerializer


class AuditFilters(StrictSerializer):
    actor = StrictCharField(required=False, max_length=150, help_text="The username of whoever did it.")
    action = StrictCharField(required=False, max_length=50, help_text="What was done, for example `job.cancel`.")
    object = StrictCharField(required=False, max_length=150, help_text="The id of the changed object.")
    since = AwareDateTimeField(required=False, help_text="Done at this time or later.")
    until = AwareDateTimeField(required=False, help_text="Done before this time.")


@extend_schema_serializer(component_name="AuditEntry", examples=[OpenApiExample("A cancelled job", AN_AUDIT_ENTRY)])
class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    """One change, and who made it."""

    before = serializers.DictField(allow_null=True, help_text="The changed fields before.")
    after = serializers.DictField(allow_null=True, help_text="The changed fields after.")

    class Meta:
        model = AuditEntry
        fields = (
            "id", "at", "actor", "token", "address", "via", "action", "object_id", "object_name", "before", "after"
        )  # fmt: skip
