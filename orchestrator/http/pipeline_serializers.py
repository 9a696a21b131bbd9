"""Pipelines as the API takes and shows them. What steps may say is checked by `graphs.checks`, step by step."""

from __future__ import annotations

import copy
from typing import Any

from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from orchestrator.composition import MAX_DEADLINE_SECONDS
from orchestrator.graphs.checks import MAX_STEPS
from orchestrator.graphs.each import MAX_ITEMS
from orchestrator.http.fields import (
    AwareDateTimeField,
    LinkField,
    StrictCharField,
    StrictFloatField,
    StrictIntegerField,
    StrictSerializer,
)
from orchestrator.http.waits import WAIT_FOR
from orchestrator.kinds import MAX_ATTEMPTS
from orchestrator.states import Status

STEP = {
    "type": "object",
    "oneOf": [{"required": ["kind"]}, {"required": ["pipeline"]}],
    "additionalProperties": False,
    "properties": {
        "kind": {
            "type": "string",
            "maxLength": 100,
            "description": "One of `GET /kinds`. If that `is_pipeline`, so is the step.",
        },
        "pipeline": {
            "type": "object",
            "required": ["steps"],
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "maxLength": 100},
                "steps": {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": MAX_STEPS,
                    "additionalProperties": {"type": "object"},
                    "description": "As of any pipeline, again with pipelines as steps, ten generations in all.",
                },
                "result": {"description": "What it returns; by default what its last step does."},
            },
            "description": "In place of a kind: the step is a pipeline. Its steps take the payload of this one by "
            '`{"$from": "$input.key"}`, and are added once its turn has come.',
        },
        "payload": {
            "description": 'As of a job. `{"$from": "step.key"}` anywhere in it stands for a part of an earlier '
            'step\'s result; `default` beside it, for where there is none. `{"$literal": …}` stands for what is '
            "in it.",
        },
        "after": {
            "type": "array",
            "maxItems": MAX_STEPS,
            "items": {"type": "string"},
            "description": "Steps that come before it. Those that it refers to do so anyway.",
        },
        "priority": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
        "max_attempts": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_ATTEMPTS},
        "on_failure": {
            "type": "string",
            "enum": ["fail", "continue", "compensate"],
            "description": "What its failure means. `fail`: the pipeline fails, and stays as it is for a retry. "
            "`continue`: it goes on. `compensate`: it fails, and the compensations of completed steps run; this is "
            "the default where any step has a compensation, as `fail` is elsewhere.",
        },
        "compensate": {
            "type": ["object", "null"],
            "required": ["kind"],
            "additionalProperties": False,
            "properties": {
                "kind": {"type": "string", "maxLength": 100},
                "payload": {"description": "May take the result of the step, by its own name, and earlier ones."},
                "max_attempts": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_ATTEMPTS},
            },
            "description": "A job that undoes what the step has done, if it has completed when the pipeline fails or "
            "is cancelled. Compensations run one after the other: that of the step which completed last is the first.",
        },
        "each": {
            "type": ["object", "null"],
            "description": f"A list that an earlier step returns, of at most {MAX_ITEMS:,} values: "
            '`{"$from": "extract.rows"}`. The step runs once for each value, as a job of its own, and returns the '
            'list of what each has returned. Its payload takes the value by `{"$from": "$item"}`, which it is if '
            'there is no payload, and the place of the value by `{"$from": "$index"}`.',
        },
        "max_running": {
            "type": ["integer", "null"],
            "minimum": 1,
            "description": "With `each`: how many run at once; all if not given.",
        },
        "wait_for": WAIT_FOR | {"description": "A signal that has to come before it starts."},
        "when": {
            "type": ["object", "null"],
            "description": 'A condition, such as `{"$from": "extract.count", "gt": 0}` or `{"step": "load", "is": '
            '"failed"}`, also within `all`, `any` and `not`. If it does not hold the step is skipped.',
        },
    },
}


@extend_schema_field({"type": "object", "minProperties": 1, "maxProperties": MAX_STEPS, "additionalProperties": STEP})
class StepsField(serializers.Field[Any, Any, Any, Any]):
    """Steps by their names."""

    default_error_messages = {"invalid": "Give an object with a step for each name, not {given}."}

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.fail("invalid", given=type(data).__name__)
        return data


class AnyValueField(serializers.JSONField):
    """Any JSON value, of which null is one, so the document need not say so apart."""

    def validate_empty_values(self, data: Any) -> tuple[bool, Any]:
        return (True, None) if data is None else super().validate_empty_values(data)


class NewPipeline(StrictSerializer):
    """A graph of steps to be submitted."""

    name = StrictCharField(required=False, allow_blank=True, max_length=100, help_text="For people.")
    steps = StepsField(
        required=False,
        help_text="By their names: letters, digits, hyphens and underscores. Needed without `definition`.",
    )
    definition = StrictCharField(
        required=False,
        max_length=100,
        help_text="The name of a pipeline that is defined in code, in place of `steps`: one of `GET /kinds` with "
        "`is_pipeline`.",
    )
    input = AnyValueField(required=False, help_text="With `definition`: its payload.")
    result = AnyValueField(
        required=False,
        help_text="What the pipeline returns, with references to its steps' results; by default what its last step "
        "returns, if one step is last.",
    )
    priority = StrictIntegerField(
        required=False, allow_null=True, min_value=0, max_value=9, help_text="Of steps that do not say."
    )
    run_at = AwareDateTimeField(required=False, allow_null=True, help_text="The earliest start; by default now.")
    deadline_seconds = StrictFloatField(
        required=False,
        allow_null=True,
        min_value=0.001,
        max_value=MAX_DEADLINE_SECONDS,
        help_text="It fails if it has not ended so long after it was accepted, or after `run_at`.",
    )
    owner = StrictCharField(
        required=False, allow_blank=True, max_length=150, help_text="As for a job: you, by default."
    )


# What a definition says itself.
OF_STEPS = ("steps", "name", "result")


FORK_FROM = StrictCharField(
    max_length=100, help_text="The step from which on all run again. What does not come after it keeps its result."
)


class ForkParameters(StrictSerializer):
    """Where a new pipeline begins that takes over the results of another."""

    # Its name is a word of Python.
    def get_fields(self) -> dict[str, Any]:
        return {"from": copy.deepcopy(FORK_FROM)}


class AcceptedPipeline(serializers.Serializer[Any]):
    pipeline_id = serializers.UUIDField(help_text="The id of a job, too.")
    status_url = LinkField()
    steps = serializers.IntegerField()


class PipelineProgressSerializer(serializers.Serializer[Any]):
    done = serializers.IntegerField(help_text="Steps that need not run any more, and jobs of steps with `each`.")
    total = serializers.IntegerField()


@extend_schema_serializer(component_name="Step")
class StepSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    job_id = serializers.UUIDField()
    pipeline_id = serializers.UUIDField(
        allow_null=True,
        help_text="Of a step that is a pipeline itself, once its turn has come, or of a job that has added children: "
        "`GET /pipelines/{pipeline_id}` shows those.",
    )
    kind = serializers.CharField()
    status = serializers.ChoiceField(choices=Status.choices)
    outcome = serializers.ChoiceField(
        choices=["", "SKIPPED", "PASSED", "REUSED"],
        help_text="SKIPPED: it was not to run. PASSED: it failed, and what comes after it goes on. REUSED: its result "
        "is that of the pipeline that this one was forked from.",
    )
    signal = serializers.CharField(allow_null=True, help_text="The signal that it waits for just now.")
    after = serializers.ListField(child=serializers.CharField())
    items = serializers.DictField(
        child=serializers.IntegerField(),
        allow_null=True,
        help_text="Of a step with `each`, how many of its jobs have which status. They are in `GET /jobs?parent=`.",
    )
    waited_seconds = serializers.FloatField(allow_null=True, help_text="From when it could start to when it did.")
    seconds = serializers.FloatField(allow_null=True, help_text="How long it has run.")
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    error = serializers.CharField()


@extend_schema_serializer(component_name="Compensation")
class CompensationSerializer(serializers.Serializer[Any]):
    step = serializers.CharField(help_text="What it undoes: a step, or one item of it, as `load[3]`.")
    job_id = serializers.UUIDField()
    kind = serializers.CharField()
    status = serializers.ChoiceField(choices=Status.choices)
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    error = serializers.CharField()


@extend_schema_serializer(component_name="Pipeline")
class PipelineSerializer(serializers.Serializer[Any]):
    """A pipeline, and how far each of its steps is."""

    pipeline_id = serializers.UUIDField()
    name = serializers.CharField()
    kind = serializers.CharField()
    version = serializers.IntegerField(
        allow_null=True, help_text="Of the definition that has planned it; null without one."
    )
    status = serializers.ChoiceField(choices=Status.choices)
    parent = serializers.UUIDField(allow_null=True, help_text="The pipeline that this one is a step of.")  # type: ignore[assignment]
    owner = serializers.CharField()
    result = serializers.JSONField(help_text="Null until it has completed.")
    error = serializers.CharField()
    progress = PipelineProgressSerializer()
    counts = serializers.DictField(child=serializers.IntegerField(), help_text="Of steps by status.")
    critical_path = serializers.ListField(
        child=serializers.CharField(),
        help_text="The steps that decide when it is done: each waited for the one before.",
    )
    seconds = serializers.FloatField(allow_null=True)
    deadline_at = serializers.DateTimeField(allow_null=True, help_text="When it fails if it has not ended by then.")
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    steps = StepSerializer(many=True)
    compensations = CompensationSerializer(many=True, help_text="In the order in which they run; none until it fails.")
