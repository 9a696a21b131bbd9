"""What the API takes and gives: checks of the envelope, and the form of answers."""

from __future__ import annotations

import re
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from config.openapi import ERRORS_OF_AN_INGESTION, INGESTION, INGESTION_STATUS, RECORDS
from ingestion.models import Mode, OnConflict, Record, RecordError
from ingestion.queries import Progress
from ingestion.records import FIELDS, GRADES
from ingestion.services import MOST_RECORDS
from orchestrator.serializers import Moment, Strict

STATUSES = ("PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED")


class StudentRecord(serializers.Serializer[Any]):
    """A student record, as it is sent."""

    student_id = serializers.CharField(max_length=50)
    first_name = serializers.CharField(max_length=100)
    last_name = serializers.CharField(max_length=100)
    email = serializers.CharField(max_length=255)
    grade = serializers.ChoiceField(choices=GRADES, help_text="1 to 12 may also be given as a number.")
    phone = serializers.CharField(max_length=20, required=False, allow_null=True)
    section = serializers.CharField(max_length=10, required=False, allow_null=True)
    roll_number = serializers.CharField(max_length=50, required=False, allow_null=True)
    address = serializers.CharField(max_length=1_000, required=False, allow_null=True)
    city = serializers.CharField(max_length=100, required=False, allow_null=True)
    state = serializers.CharField(max_length=100, required=False, allow_null=True)
    postal_code = serializers.CharField(max_length=20, required=False, allow_null=True)
    country = serializers.CharField(max_length=100, required=False, allow_null=True, help_text="India if not given.")
    date_of_birth = serializers.DateField(required=False, allow_null=True, help_text="Not in the future.")


@extend_schema_field(StudentRecord(many=True, min_length=1, max_length=MOST_RECORDS))
class Records(serializers.Field[Any, Any, Any, Any]):
    """1 to 1,000 JSON objects. What is in them is for the job to say."""

    default_error_messages = {
        "not_a_list": "The records are to be a list.",
        "count": f"Send 1 to {MOST_RECORDS:,} records at once, not {{count:,}}.",
    }

    def to_internal_value(self, data: Any) -> list[dict[str, Any]]:
        if not isinstance(data, list):
            self.fail("not_a_list")
        if not 1 <= len(data) <= MOST_RECORDS:
            self.fail("count", count=len(data))
        others = [index for index, record in enumerate(data) if type(record) is not dict]
        if others:
            raise serializers.ValidationError(
                {
                    index: [serializers.ErrorDetail("A record is a JSON object.", "not_an_object")]
                    for index in others[:20]
                }
            )
        return data


@extend_schema_serializer(
    component_name="Ingestion", examples=[OpenApiExample("Two records", {"records": RECORDS}, request_only=True)]
)
class NewIngestion(Strict):
    """Records to be stored."""

    records = Records()
    mode = serializers.ChoiceField(
        choices=Mode.choices,
        default=Mode.PARTIAL,
        help_text="partial stores the good records and reports the bad; all_or_nothing stores none if one is bad.",
    )
    on_conflict = serializers.ChoiceField(
        choices=OnConflict.choices,
        default=OnConflict.UPDATE,
        help_text="Where you have stored the student_id before: update replaces that record, skip keeps it, error "
        "keeps it and reports the new one.",
    )


# What is variable in paths, but for ids.
PATH = {"student_id": serializers.CharField(max_length=50, trim_whitespace=False)}


class StreamOptions(Strict):
    on_conflict = serializers.ChoiceField(
        choices=OnConflict.choices,
        default=OnConflict.UPDATE,
        help_text="As for `/api/data/ingest/`. An upload is always partial.",
    )


class ErrorsOptions(Strict):
    format = serializers.ChoiceField(
        choices=["json", "csv"], default="json", help_text="csv: all of them at once, one line a bad field."
    )


class RecordFilters(Strict):
    task_id = serializers.UUIDField(required=False, help_text="Those that this ingestion was the last to write.")
    owner = serializers.CharField(required=False, max_length=150, help_text="Whose records; for staff.")
    grade = serializers.ChoiceField(required=False, choices=GRADES)
    section = serializers.CharField(required=False, max_length=10)
    email = serializers.CharField(required=False, max_length=255)
    roll_number = serializers.CharField(required=False, max_length=50)
    city = serializers.CharField(required=False, max_length=100)
    state = serializers.CharField(required=False, max_length=100)
    country = serializers.CharField(required=False, max_length=100)
    last_name = serializers.CharField(required=False, max_length=100)
    updated_after = Moment(required=False, help_text="Written at this time or later.")
    updated_before = Moment(required=False, help_text="Written before this time.")


@extend_schema_serializer(
    component_name="IngestionAccepted", examples=[OpenApiExample("Accepted", INGESTION, response_only=True)]
)
class Accepted(serializers.Serializer[Any]):
    task_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=["PENDING"])
    message = serializers.CharField()
    total_records = serializers.IntegerField()
    status_url = serializers.URLField()


@extend_schema_serializer(
    component_name="IngestionStatus", examples=[OpenApiExample("Running", INGESTION_STATUS, response_only=True)]
)
class IngestionStatus(serializers.Serializer[Progress]):
    """How far an ingestion is."""

    task_id = serializers.UUIDField(source="job.id")
    status = serializers.ChoiceField(choices=STATUSES)
    status_message = serializers.CharField(help_text="With the percentage while PROCESSING.")
    total_records = serializers.IntegerField()
    processed_records = serializers.IntegerField(help_text="Looked at so far, good and bad.")
    stored_records = serializers.IntegerField(help_text="Written, whether new or in place of an earlier one.")
    failed_records = serializers.IntegerField(help_text="Not stored, and reported at `errors_url`.")
    progress_percentage = serializers.IntegerField(source="percentage")
    error_message = serializers.SerializerMethodField(help_text="Why it failed, or its last attempt did.")
    created_at = serializers.DateTimeField(source="job.created_at")
    started_at = serializers.DateTimeField(source="job.started_at", allow_null=True)
    completed_at = serializers.DateTimeField(source="job.finished_at", allow_null=True)
    duration = serializers.FloatField(
        source="duration_seconds", allow_null=True, help_text="Seconds from its start to its end, or until now."
    )
    errors_url = serializers.SerializerMethodField()

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_error_message(self, progress: Progress) -> str | None:
        return progress.job.error or None

    @extend_schema_field(OpenApiTypes.URI)
    def get_errors_url(self, progress: Progress) -> str:
        url: str = self.context["errors_url"]
        return url


@extend_schema_serializer(component_name="RecordFieldError")
class ShownFieldError(serializers.Serializer[Any]):
    field = serializers.CharField(help_text="Empty where it is the record as a whole.")
    code = serializers.CharField(help_text="For programs.")
    message = serializers.CharField(help_text="For people.")


@extend_schema_serializer(
    component_name="RecordError",
    examples=[OpenApiExample("A bad record", ERRORS_OF_AN_INGESTION[0], response_only=True)],
)
class ShownRecordError(serializers.Serializer[RecordError]):
    """A record that was not stored, and why."""

    index = serializers.IntegerField(
        help_text="Its place in what was sent, from 0; of an upload the line number, from 1."
    )
    student_id = serializers.CharField(help_text="As far as it could be read.")
    errors = ShownFieldError(many=True)


@extend_schema_serializer(component_name="StoredRecord")
class ShownRecord(serializers.ModelSerializer[Record]):
    """A student record as it is stored."""

    task_id = serializers.SerializerMethodField(help_text="The ingestion that was the last to write it.")

    class Meta:
        model = Record
        fields = [*FIELDS, "owner", "task_id", "created_at", "updated_at"]
        read_only_fields = fields

    @extend_schema_field(serializers.UUIDField(allow_null=True))
    def get_task_id(self, record: Record) -> Any:
        return record.ingestion.job_id if record.ingestion else None


def for_spreadsheet(text: str) -> str:
    """A cell that no spreadsheet takes for a formula (OWASP, "CSV Injection")."""
    return f"'{text}" if re.match(r"[=+\-@\t\r]", text) else text
