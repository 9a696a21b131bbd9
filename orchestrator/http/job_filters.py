"""Which jobs are meant: the filters of the list of jobs, and of what is done to many of them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from orchestrator.http.fields import (
    AwareDateTimeField,
    QueryIntegerField,
    StrictCharField,
    StrictChoiceField,
    StrictIntegerField,
    StrictSerializer,
    StrictUUIDField,
)
from orchestrator.http.pagination import MAX_LIMIT
from orchestrator.states import Status
from orchestrator.steering.waiting import REASONS

MAX_VALUES = 100
MAX_IDS = 10_000


class OneOrManyField(serializers.ListField):
    """A value, or a list of those of which any will do; in a query the parameter is repeated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"required": False, "min_length": 1, "max_length": MAX_VALUES} | options)

    def to_internal_value(self, data: Any) -> list[Any]:
        return super().to_internal_value(data if isinstance(data, list) else [data])


class OneOrMany(OpenApiSerializerFieldExtension):
    target_class = OneOrManyField

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        one = auto_schema._map_serializer_field(self.target.child, direction)
        many = {"type": "array", "items": one, "minItems": 1, "maxItems": MAX_VALUES}
        return many if isinstance(self.target.parent, JobFilters) else {"anyOf": [one, many]}


class _Filters(StrictSerializer):
    """What both may name; the fields of `selection.JobFilter`."""

    ids = serializers.ListField(
        child=StrictUUIDField(), required=False, min_length=1, max_length=MAX_IDS, help_text="Just these jobs."
    )
    status = OneOrManyField(child=StrictChoiceField(choices=Status.choices), help_text="Any of these.")
    kind = OneOrManyField(child=StrictCharField(max_length=100))
    owner = OneOrManyField(child=StrictCharField(max_length=150, allow_blank=True))
    queue = OneOrManyField(child=StrictCharField(max_length=50))
    waiting_for = OneOrManyField(
        child=StrictChoiceField(choices=list(REASONS)),
        help_text="Any of these, as lists show it. Jobs held back by a limit of the whole kind are under `worker`.",
    )
    schedule = StrictUUIDField(required=False, help_text="Submitted by this schedule.")
    created_after = AwareDateTimeField(required=False, help_text="Created at this time or later.")
    created_before = AwareDateTimeField(required=False, help_text="Created before this time.")
    finished_after = AwareDateTimeField(required=False, help_text="Ended at this time or later.")
    finished_before = AwareDateTimeField(required=False, help_text="Ended before this time.")


@extend_schema_field({"anyOf": [{"type": "string", "format": "uuid"}, {"const": "none"}]})
class ParentFilter(StrictUUIDField):
    """A job's id, or "none"."""

    default_error_messages = {"invalid": 'A job\'s id, or "none"; not "{value}".'}

    def to_internal_value(self, data: Any) -> Any:
        return None if data == "none" else super().to_internal_value(data)


class JobFilters(_Filters):
    """Of the list, as parameters of the query: those with several values are repeated. None may be empty."""

    owner = OneOrManyField(child=StrictCharField(max_length=150))
    ids = serializers.ListField(
        child=StrictUUIDField(), required=False, min_length=1, max_length=MAX_LIMIT, help_text="Just these jobs."
    )
    priority = OneOrManyField(child=QueryIntegerField(min_value=0, max_value=9))
    parent = ParentFilter(  # type: ignore[assignment]
        required=False, help_text="The children of this job; `none` for jobs without a parent."
    )


class BulkFilter(_Filters):
    """Which jobs: those that fit all that is given; at least one of these. Children are only meant with `parent` or
    `ids`: what is done to a child stops its pipeline.
    """

    priority = OneOrManyField(child=StrictIntegerField(min_value=0, max_value=9))
    parent = StrictUUIDField(required=False, help_text="The children of this job.")  # type: ignore[assignment]
