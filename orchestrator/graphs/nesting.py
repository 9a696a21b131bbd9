"""Steps that are pipelines themselves: what is said of them, and how it is stored until their turn has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import msgspec

from orchestrator.graphs.references import LITERAL
from orchestrator.kinds import Kind
from orchestrator.pipeline_steps import Child, Nested

# The kind of a pipeline that is not planned by code, which puts together what it returns.
PIPELINE = "pipeline.run"
# The name under which steps of such a pipeline take the payload of the step that it is.
INPUT = "$input"
# A job without a parent is at depth 0, and no job is deeper than this.
MAX_DEPTH = 10


def is_nested(child: Child, kind: Kind) -> bool:
    """Whether the step is a pipeline itself: one that is written out, or one that its kind plans."""
    return child.pipeline is not None or kind.plan is not None


def as_job(child: Child) -> Child:
    """The step with the payload that its job will have: that of one that is written out says what it returns."""
    if child.pipeline is None:
        return child
    payload = {"name": child.pipeline.name, "result": {LITERAL: child.pipeline.result}, "input": child.payload}
    return replace(child, payload=msgspec.to_builtins(payload))


def stored(child: Child, kind: Kind) -> dict[str, Any] | None:
    """What is kept of the pipeline that the step is; empty if its kind plans it, None if it is none."""
    if child.pipeline is None:
        return None if kind.plan is None else {}
    return {"steps": _as_json(child.pipeline.steps)}


def _as_json(steps: Sequence[Child]) -> list[dict[str, Any]]:
    """What is said of steps, without what is not said."""
    given = ({one.name: getattr(step, one.name) for one in fields(step)} for step in steps)
    said = [{name: value for name, value in each.items() if value is not None} for each in given]
    for step in said:
        if pipeline := step.pop("pipeline", None):
            step["pipeline"] = {
                "name": pipeline.name,
                "steps": _as_json(pipeline.steps),
                "result": msgspec.to_builtins(pipeline.result),
            }
    plain: list[dict[str, Any]] = msgspec.to_builtins(said)
    return plain


def steps_of(stored: dict[str, Any]) -> list[Child]:
    """The steps that are kept of a pipeline that is written out."""
    return msgspec.convert(stored["steps"], list[Child])


def restored(stored: dict[str, Any], payload: Any, *, is_template: bool) -> tuple[Nested | None, Any]:
    """What `as_job` and `stored` have made of a step: the pipeline, if it is written out, and the step's own payload.

    payload: that of its job, or its template.
    """
    if "steps" not in stored:
        return None, payload
    result = payload["result"][LITERAL] if is_template else payload["result"]
    return Nested(name=payload["name"], steps=steps_of(stored), result=result), payload.get("input", {})


def takes_input(kind: Kind, payload: Any) -> bool:
    """Whether the steps of a pipeline may take its input."""
    return kind.name == PIPELINE and isinstance(payload, dict) and "input" in payload
