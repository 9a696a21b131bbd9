"""Kinds of job as the API shows them, and what operators may change of one."""

from __future__ import annotations

from typing import Any, get_args

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from orchestrator.http.fields import (
    DurationSecondsField,
    StrictBooleanField,
    StrictCharField,
    StrictIntegerField,
    StrictSerializer,
)
from orchestrator.kinds import Kind
from orchestrator.limits import MAX_RUNNING, MAX_STARTS, MAX_UNFINISHED, NAMES, UNLIMITED, Scope
from orchestrator.unique import ON_CONFLICT
from orchestrator.upkeep.retention import kept_days

RATE_PATTERN = r"^([1-9]\d{0,9}/([1-9]\d{0,9})?[smhd]|unlimited)$"
OR_DEFAULT = "null: as its code declares; `unlimited`: none."


def _schema(at_most: int) -> dict[str, Any]:
    number = {"type": "integer", "minimum": 1, "maximum": at_most}
    return {"anyOf": [number, {"const": UNLIMITED}]}


class LimitField(StrictIntegerField):
    """A whole number, or "unlimited". The limits themselves say how many are possible."""

    def to_internal_value(self, data: Any) -> Any:
        return data if data == UNLIMITED else super().to_internal_value(data)


@extend_schema_field(_schema(MAX_RUNNING))
class MaxRunningField(LimitField):
    """How many run at once."""


@extend_schema_field(_schema(MAX_UNFINISHED))
class MaxUnfinishedField(LimitField):
    """How many are unfinished at once."""


@extend_schema_field(_schema(MAX_STARTS))
class BurstField(LimitField):
    """How many start at once."""


@extend_schema_field({"type": "string", "pattern": RATE_PATTERN})
class RateField(StrictCharField):
    """A rate such as "10/m"."""


class ChangedKind(StrictSerializer):
    """What changes of a kind; what is left out stays."""

    paused = StrictBooleanField(required=False, help_text="Whether its jobs are kept from starting.")
    max_running = MaxRunningField(required=False, allow_null=True, help_text=f"How many run at once. {OR_DEFAULT}")
    max_running_per_owner = MaxRunningField(
        required=False, allow_null=True, help_text=f"How many of one owner run at once. {OR_DEFAULT}"
    )
    max_running_per_key = MaxRunningField(
        required=False, allow_null=True, help_text=f"How many of one concurrency key run at once. {OR_DEFAULT}"
    )
    rate = RateField(
        required=False,
        allow_null=True,
        help_text=f"How many start in a time: `10/m`, `1/30s`, `5000/d`. {OR_DEFAULT}",
    )
    rate_per = serializers.ChoiceField(
        choices=get_args(Scope),
        required=False,
        allow_null=True,
        help_text="What the rate is for: all, or each of them.",
    )
    burst = BurstField(
        required=False,
        allow_null=True,
        help_text=f"How many of a rate start at once; all if it is not given. {OR_DEFAULT}",
    )
    max_unfinished_per_owner = MaxUnfinishedField(
        required=False, allow_null=True, help_text=f"More unfinished jobs of an owner are refused. {OR_DEFAULT}"
    )


@extend_schema_serializer(component_name="KindLimits")
class LimitsSerializer(serializers.Serializer[Any]):
    """The limits that hold; null: there is no such limit."""

    max_running = serializers.IntegerField(allow_null=True)
    max_running_per_owner = serializers.IntegerField(allow_null=True)
    max_running_per_key = serializers.IntegerField(allow_null=True)
    rate = serializers.CharField(allow_null=True)
    rate_per = serializers.ChoiceField(choices=get_args(Scope), allow_null=True)
    burst = serializers.IntegerField(allow_null=True)
    max_unfinished_per_owner = serializers.IntegerField(allow_null=True)


@extend_schema_serializer(component_name="KindUnique")
class KindUniqueSerializer(serializers.Serializer[Any]):
    """As `Unique`; `fields` is null where the whole payload counts."""

    fields = serializers.ListField(child=serializers.CharField(), allow_null=True)  # type: ignore[assignment]
    for_seconds = serializers.FloatField()
    on_conflict = serializers.ChoiceField(choices=ON_CONFLICT)
    wait_seconds = serializers.FloatField(allow_null=True)
    max_wait_seconds = serializers.FloatField(allow_null=True)
    across_owners = serializers.BooleanField(help_text="Whether the jobs of all owners are compared.")


@extend_schema_serializer(component_name="Kind")
class KindSerializer(serializers.Serializer[Any]):
    name = serializers.CharField(source="kind.name")
    queue = serializers.CharField(source="kind.queue")
    execution = serializers.ChoiceField(choices=["leased", "transactional"], source="kind.execution")
    description = serializers.CharField(source="kind.description")
    priority = serializers.IntegerField(source="kind.priority")
    max_attempts = serializers.IntegerField(source="kind.max_attempts")
    batch_size = serializers.IntegerField(source="kind.batch_size")
    timeout_seconds = DurationSecondsField(source="kind.timeout", allow_null=True)
    backoff_seconds = DurationSecondsField(source="kind.backoff")
    backoff_ceiling_seconds = DurationSecondsField(source="kind.backoff_ceiling")
    on_cancel = serializers.ChoiceField(choices=["rollback", "keep"], source="kind.on_cancel")
    is_pipeline = serializers.SerializerMethodField(
        help_text="Whether every job of the kind is submitted with children."
    )
    internal = serializers.BooleanField(
        source="kind.internal",
        help_text="Whether it can only be submitted from Python, not by `POST /jobs`.",
    )
    max_unfinished_per_owner = serializers.IntegerField(
        source="limits.max_unfinished_per_owner", allow_null=True, help_text="As among the limits."
    )
    unique = KindUniqueSerializer(
        source="kind.unique", allow_null=True, help_text="What makes its jobs unique; null if they may be equal."
    )
    limits = LimitsSerializer()
    changed_limits = serializers.SerializerMethodField(
        help_text="Those that operators have set instead of what its code declares."
    )
    kept_days = serializers.SerializerMethodField(help_text="How long a job is kept after its end; 0: for ever.")
    paused_at = serializers.DateTimeField(
        allow_null=True, help_text="No job of the kind has been started since; null if it is not paused."
    )
    payload = serializers.SerializerMethodField(help_text="JSON Schema (2020-12) of the payload.")

    def get_is_pipeline(self, shown: dict[str, Any]) -> bool:
        return shown["kind"].plan is not None

    @extend_schema_field({"type": "array", "items": {"type": "string", "enum": list(NAMES)}})
    def get_changed_limits(self, shown: dict[str, Any]) -> list[str]:
        return [name for name in NAMES if name in shown["changed"]]

    def get_kept_days(self, shown: dict[str, Any]) -> float:
        return kept_days(shown["kind"].name, shown["kind"].keep_days)

    def get_payload(self, shown: dict[str, Any]) -> dict[str, Any]:
        kind: Kind = shown["kind"]
        return kind.payload_schema()


@extend_schema_serializer(component_name="Kinds")
class KindsSerializer(serializers.Serializer[Any]):
    results = KindSerializer(many=True)
