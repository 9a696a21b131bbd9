"""What a job or a step may be said to wait for, as the document describes it."""

from __future__ import annotations

from typing import Any, get_args

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from orchestrator.graphs.waits import MAX_SECONDS, NAME, FieldType

SIGNAL = {"type": "string", "pattern": rf"^{NAME.pattern}$"}
SECONDS = {
    "exclusiveMinimum": 0,
    "maximum": MAX_SECONDS,
    "description": "From when it waits for nothing else; then the default is taken, or it fails.",
}
DEFAULT = {"type": "object", "description": "Taken as the signal's body if none comes in time."}
FIELDS = {
    "type": "object",
    "description": "The fields of the signal's body with their types; one that ends in ? may be left out.",
    "additionalProperties": {"enum": list(get_args(FieldType))},
}


def _signal(*required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["signal", *required],
        "additionalProperties": False,
        "properties": {"signal": SIGNAL, **properties, "fields": FIELDS},
    }


WAIT_FOR = {
    "anyOf": [
        SIGNAL,
        _signal(within_seconds={"type": ["number", "null"], **SECONDS}),
        _signal("within_seconds", "default", within_seconds={"type": "number", **SECONDS}, default=DEFAULT),
    ]
}


@extend_schema_field(WAIT_FOR)
class WaitForField(serializers.JSONField):
    """What a job waits for; checked where it is submitted."""
