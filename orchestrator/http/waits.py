"""What a job or a step may be said to wait for, as the document describes it."""

from __future__ import annotations

from typing import get_args

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from orchestrator.graphs.waits import MAX_SECONDS, NAME, FieldType

WAIT_FOR = {
    "anyOf": [
        {"type": "string", "pattern": rf"^{NAME.pattern}$"},
        {
            "type": "object",
            "required": ["signal"],
            "additionalProperties": False,
            "properties": {
                "signal": {"type": "string", "pattern": rf"^{NAME.pattern}$"},
                "within_seconds": {
                    "type": ["number", "null"],
                    "exclusiveMinimum": 0,
                    "maximum": MAX_SECONDS,
                    "description": "From when it waits for nothing else; then the default is taken, or it fails.",
                },
                "default": {"type": "object", "description": "Taken as the signal's body if none comes in time."},
                "fields": {
                    "type": "object",
                    "description": "The fields of the signal's body with their types; one that ends in ? may be "
                    "left out.",
                    "additionalProperties": {"enum": list(get_args(FieldType))},
                },
            },
        },
    ]
}


@extend_schema_field(WAIT_FOR)
class WaitForField(serializers.JSONField):
    """What a job waits for; checked where it is submitted."""
