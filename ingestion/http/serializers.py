"""Ingestions and records in the API: the checks of requests, and the form of responses."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from drf_spectacular.utils import OpenApiExample, extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from ingestion.http.examples import ERRORS_OF_AN_INGESTION, INGESTION, INGESTION_STATUS, RECORDS
from ingestion.models import Mode, OnConflict, Record, RecordError
from ingestion.queries import Progress
from ingestion.records.staging import Staged
from ingestion.records.student import FIELDS, GRADES, Student
from ingestion.services.receiving import MAX_RECORDS
from orchestrator.http.components import ANY_OBJECT, NO_NUL
from orchestrator.http.fields import (
    AwareDateTimeField,
    LinkField,
    StrictCharField,
    StrictChoiceField,
    StrictSerializer,
    StrictUUIDField,
)

# The component of the OpenAPI document that is a record as it is sent.
RECORD = "StudentRecord"
STATUSES = ("PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED")

NDJSON = {"type": "string", "pattern": r"\S", "description": "One record per line; blank lines are skipped."}
_OPTIONAL_COLUMNS = "".join(f"(,{name})?" for name, field in FIELDS.items() if not field.required)
CSV = {
    "type": "string",
    "pattern": rf"^{','.join(name for name, field in FIELDS.items() if field.required)}{_OPTIONAL_COLUMNS}"
    r"(\r\n|\r|\n)[\s\S]*[^\s]",
    "description": "A header, then one record per row. The columns may be in any order, not only the pattern's.",
}


@extend_schema_field(
    {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_RECORDS,
        "items": {
            "anyOf": [
                {"$ref": f"#/components/schemas/{RECORD}"},
                ANY_OBJECT | {"description": "Any other object is accepted, and reported as invalid."},
            ]
        },
    }
)
class Records(serializers.Field[Any, Any, Any, Any]):
    """1 to 1,000 JSON objects. The job validates their fields."""

    default_error_messages = {
        "not_a_list": "The records must be a list.",
        "count": f"Send 1 to {MAX_RECORDS:,} records at once, not {{count:,}}.",
    }

    def to_internal_value(self, data: Any) -> list[dict[str, Any]] | Staged:
        if isinstance(data, Staged):  # By RecordsParser.
            return data
        if not isinstance(data, list):
            self.fail("not_a_list")
        if not 1 <= len(data) <= MAX_RECORDS:
            self.fail("count", count=len(data))
        others = [index for index, record in enumerate(data) if type(record) is not dict]
        if others:
            raise serializers.ValidationError(
                {
                    str(index): [serializers.ErrorDetail("A record is a JSON object.", "not_an_object")]
                    for index in others[:20]
                }
            )
        return data


def publish_record(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Makes the type that records are checked against a component of the OpenAPI document."""
    components = msgspec.json.schema_components([Student], ref_template="#/components/schemas/{name}")[1]
    schema = components[Student.__name__] | {
        "title": RECORD,
        "description": "A student record to be stored.",
    }
    for field in schema["properties"].values():
        if "pattern" in field:
            field["pattern"] = field["pattern"].replace(r"\Z", "$")  # As ECMA-262 has it.
            field["allOf"] = [{"pattern": NO_NUL}]
    # Two enums in one have no type in most languages.
    grade = [{"type": "string", "enum": [*GRADES]}, {"type": "integer", "minimum": 1, "maximum": 12}]
    schema["properties"]["grade"] = {"anyOf": grade}
    result["components"]["schemas"][RECORD] = schema
    return result


@extend_schema_serializer(
    component_name="Ingestion", examples=[OpenApiExample("Two records", {"records": RECORDS}, request_only=True)]
)
class NewIngestion(StrictSerializer):
    """Records to be stored."""

    records = Records()
    mode = StrictChoiceField(
        choices=Mode.choices,
        default=Mode.PARTIAL,
        help_text="partial stores the valid records and reports the others; all_or_nothing stores none if one is "
        "invalid.",
    )
    on_conflict = StrictChoiceField(
        choices=OnConflict.choices,
        default=OnConflict.UPDATE,
        help_text="If you have stored the student_id before: update replaces that record, skip keeps it, error "
        "keeps it and reports the new one.",
    )


# What is variable in paths, but for ids.
PATH = {"student_id": serializers.CharField(max_length=50, trim_whitespace=False)}


class StreamOptions(StrictSerializer):
    on_conflict = StrictChoiceField(
        choices=OnConflict.choices,
        default=OnConflict.UPDATE,
        help_text="As for `/api/data/ingest/`. An upload is always partial.",
    )


class ErrorsOptions(StrictSerializer):
    format = StrictChoiceField(
        choices=["json", "csv"],
        required=False,
        help_text="csv: all of them at once, one line per invalid field. By default the `Accept` header decides.",
    )


class RecordFilters(StrictSerializer):
    task_id = StrictUUIDField(required=False, help_text="Records that this ingestion was the last to write.")
    owner = StrictCharField(
        required=False, max_length=150, help_text="The owner of the records; for users who may see all."
    )
    grade = StrictChoiceField(required=False, choices=GRADES)
    section = StrictCharField(required=False, max_length=10)
    email = StrictCharField(required=False, max_length=255)
    roll_number = StrictCharField(required=False, max_length=50)
    city = StrictCharField(required=False, max_length=100)
    state = StrictCharField(required=False, max_length=100)
    country = StrictCharField(required=False, max_length=100)
    last_name = StrictCharField(required=False, max_length=100)
    updated_after = AwareDateTimeField(required=False, help_text="Written at this time or later.")
    updated_before = AwareDateTimeField(required=False, help_text="Written before this time.")


@extend_schema_serializer(
    component_name="IngestionAccepted", examples=[OpenApiExample("Accepted", INGESTION, response_only=True)]
)
class Accepted(serializers.Serializer[Any]):
    task_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=["PENDING"])
    message = serializers.CharField()
    total_records = serializers.IntegerField()
    status_url = LinkField()


@extend_schema_serializer(
    component_name="IngestionStatus", examples=[OpenApiExample("Running", INGESTION_STATUS, response_only=True)]
)
class IngestionStatus(serializers.Serializer[Progress]):
    """How far an ingestion is."""

    task_id = serializers.UUIDField(source="job.id")
    status = serializers.ChoiceField(choices=STATUSES)
    status_message = serializers.CharField(help_text="With the percentage while PROCESSING.")
    total_records = serializers.IntegerField()
    processed_records = serializers.IntegerField(help_text="Processed so far, valid and invalid.")
    stored_records = serializers.IntegerField(help_text="Stored, new or updated.")
    failed_records = serializers.IntegerField(help_text="Not stored, and reported at `errors_url`.")
    progress_percentage = serializers.IntegerField(source="percentage")
    error_message = serializers.SerializerMethodField(help_text="Why it, or its last attempt, failed.")
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

    @extend_schema_field(LinkField)
    def get_errors_url(self, progress: Progress) -> str:
        url: str = self.context["errors_url"]
        return url


@extend_schema_serializer(component_name="RecordFieldError")
class FieldErrorSerializer(serializers.Serializer[Any]):
    field = serializers.CharField(help_text="Empty if it is the record as a whole.")
    code = serializers.CharField(help_text="Machine-readable.")
    message = serializers.CharField(help_text="Human-readable.")


@extend_schema_serializer(
    component_name="RecordError",
    examples=[OpenApiExample("An invalid record", ERRORS_OF_AN_INGESTION[0], response_only=True)],
)
class RecordErrorSerializer(serializers.Serializer[RecordError]):
    """A record that was not stored, and why."""

    index = serializers.IntegerField(
        help_text="Its index in the request, from 0; in an upload its line number, from 1."
    )
    student_id = serializers.CharField(help_text="As far as it could be read.")
    errors = FieldErrorSerializer(many=True)  # type: ignore[assignment] # Its name, which clients know.


@extend_schema_serializer(component_name="StoredRecord")
class RecordSerializer(serializers.ModelSerializer[Record]):
    """A student record as it is stored."""

    task_id = serializers.SerializerMethodField(help_text="The ingestion that was the last to write it.")

    class Meta:
        model = Record
        fields = [*FIELDS, "owner", "task_id", "created_at", "updated_at"]
        read_only_fields = fields

    @extend_schema_field(serializers.UUIDField(allow_null=True))
    def get_task_id(self, record: Record) -> Any:
        return record.ingestion.job_id if record.ingestion else None


# The signs also in the full width of East Asian scripts, and behind what is not seen: spaces, and marks of no width.
_FORMULA = re.compile(r"[\t\r\n]|[\s\u200b-\u200f\u2060\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def for_spreadsheet(text: str) -> str:
    """A cell that no spreadsheet takes for a formula (OWASP, "CSV Injection")."""
    return f"'{text}" if _FORMULA.match(text) else text
