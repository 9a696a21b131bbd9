"""What is to be done to all jobs that match a filter, and what is answered."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from rest_framework import serializers

from orchestrator.http.fields import (
    AwareDateTimeField,
    LinkField,
    StrictBooleanField,
    StrictCharField,
    StrictChoiceField,
    StrictIntegerField,
    StrictSerializer,
)
from orchestrator.http.job_serializers import JobChange
from orchestrator.states import Status
from orchestrator.steering.actions import PERMISSIONS

MAX_VALUES = 100
MAX_IDS = 10_000


class OneOrManyField(serializers.ListField):
    """A value, or a list of those of which any will do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(required=False, min_length=1, max_length=MAX_VALUES, **options)

    def to_internal_value(self, data: Any) -> list[Any]:
        return super().to_internal_value(data if isinstance(data, list) else [data])


class OneOrMany(OpenApiSerializerFieldExtension):
    target_class = OneOrManyField

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        one = auto_schema._map_serializer_field(self.target.child, direction)
        return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_VALUES}]}


class BulkFilter(StrictSerializer):
    """Which jobs: those that fit all that is given; at least one of these. Children are only meant with `parent` or
    `ids`: what is done to a child stops its pipeline.
    """

    ids = serializers.ListField(
        child=serializers.UUIDField(), required=False, min_length=1, max_length=MAX_IDS, help_text="Just these jobs."
    )
    status = OneOrManyField(child=StrictChoiceField(choices=Status.choices))
    kind = OneOrManyField(child=StrictCharField(max_length=100))
    owner = OneOrManyField(child=StrictCharField(max_length=150, allow_blank=True))
    queue = OneOrManyField(child=StrictCharField(max_length=50))
    priority = OneOrManyField(child=StrictIntegerField(min_value=0, max_value=9))
    parent = serializers.UUIDField(required=False, help_text="The children of this job.")  # type: ignore[assignment]
    created_after = AwareDateTimeField(required=False, help_text="Created at this time or later.")
    created_before = AwareDateTimeField(required=False, help_text="Created before this time.")
    finished_after = AwareDateTimeField(required=False, help_text="Ended at this time or later.")
    finished_before = AwareDateTimeField(required=False, help_text="Ended before this time.")


class BulkRequest(StrictSerializer):
    """What `filter` matches at this moment is cancelled or retried."""

    filter = BulkFilter()
    dry_run = StrictBooleanField(default=False, help_text="Only count.")


class BulkChangeRequest(BulkRequest):
    """What `filter` matches at this moment is changed, if it has not started."""

    change = JobChange()


class BulkAnswer(serializers.Serializer[Any]):
    action = serializers.ChoiceField(choices=list(PERMISSIONS))
    dry_run = serializers.BooleanField()
    matched = serializers.IntegerField(help_text="How many jobs; at least so many if `exact` is false.")
    exact = serializers.BooleanField(help_text="A dry run counts no more than 100,000 jobs.")
    more = serializers.BooleanField(
        help_text="Whether others match, too, and wait for another request: one takes a million jobs."
    )
    job_id = serializers.UUIDField(
        allow_null=True,
        help_text="The job that does it, whose progress and result say how far it is; null if none is needed.",
    )
    link = LinkField(allow_null=True, help_text="GET.")
