"""Compensations: jobs that undo what completed steps of a pipeline have done, when it has failed."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from orchestrator.graphs import references
from orchestrator.graphs.each import INDEX, ITEM
from orchestrator.graphs.references import FROM, LITERAL, BadReference, Reference, parsed
from orchestrator.kinds import MAX_ATTEMPTS

# What the names of compensations begin with, before that of what they undo.
PREFIX = "compensate:"
# Room for the prefix, and for the place of an item in its name.
MAX_NAME_CHARACTERS = 83


class Compensation(msgspec.Struct, forbid_unknown_fields=True):
    """What is said of one: a kind, and a payload that may take results of its step and of earlier ones."""

    kind: Annotated[str, msgspec.Meta(max_length=100)]
    payload: Any = msgspec.field(default_factory=dict)
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=MAX_ATTEMPTS)] | None = None


def read(given: Any, pointer: str = "/compensate") -> Compensation:
    """The compensation that is meant. Raises BadReference."""
    try:
        return msgspec.convert(given, Compensation)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `$")
        place = path.rstrip("`").replace("[", "/").replace("]", "").replace(".", "/")
        raise BadReference(f"{pointer}{place}", f"{detail}.") from None


def of_item(value: Any, step: str, name: str, place: int, values: Reference) -> Any:
    """The payload of a compensation for one item of a step with `each`: the step's name means the item's result.

    values: the list that the step ran for.
    """
    if isinstance(value, list):
        return [of_item(each, step, name, place, values) for each in value]
    if not isinstance(value, dict) or references.is_literal(value):
        return value
    if FROM not in value:
        return {key: of_item(each, step, name, place, values) for key, each in value.items()}
    reference = parsed(value[FROM], "")
    if reference.step == INDEX:
        return {LITERAL: place}
    if reference.step == ITEM:
        return value | {FROM: [values.step, *values.path, place, *reference.path]}
    return value | {FROM: [name, *reference.path]} if reference.step == step else value
