"""Conditions: `when` a step runs. A closed form, whose value never depends on anything but earlier steps."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.graphs.references import (
    DEFAULT,
    FROM,
    BadReference,
    MissingValue,
    Reference,
    looked_up,
    parsed,
)

MAX_DEPTH = 10
# Of one condition.
MAX_PARTS = 100

# How a step has ended that others come after.
STATES = ("completed", "failed", "skipped")

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "in": lambda value, choices: value in choices,
}
EXISTS = "exists"
FORM = (
    '{"$from": "step.key", "gt": 0} (or eq, ne, gte, lt, lte, in, exists), {"step": "name", "is": "failed"} '
    '(or completed, skipped), {"all": […]}, {"any": […]} or {"not": {…}}'
)


class Incomparable(TypeError):
    """A condition compares what has no order."""


def found(condition: Any, pointer: str = "") -> Iterator[tuple[str, Reference]]:
    """The steps that a condition is about, each with its JSON pointer. Raises BadReference."""
    parts = 0

    def walk(part: Any, pointer: str, depth: int) -> Iterator[tuple[str, Reference]]:
        nonlocal parts
        parts += 1
        if depth > MAX_DEPTH or parts > MAX_PARTS:
            raise BadReference(pointer, f"A condition may have {MAX_PARTS} parts, and be {MAX_DEPTH} deep.")
        if not isinstance(part, dict):
            raise BadReference(pointer, f"A condition must be an object: {FORM}.")
        if FROM in part:
            _check_comparison(part, pointer)
            yield pointer, parsed(part[FROM], f"{pointer}/{FROM}")
        elif part.keys() == {"step", "is"}:
            yield pointer, _state_asked(part, pointer)
        elif part.keys() == {"not"}:
            yield from walk(part["not"], f"{pointer}/not", depth + 1)
        elif part.keys() in ({"all"}, {"any"}):
            [(key, inner)] = part.items()
            if not isinstance(inner, list) or not inner:
                raise BadReference(f"{pointer}/{key}", "Give a list of at least one condition.")
            for position, each in enumerate(inner):
                yield from walk(each, f"{pointer}/{key}/{position}", depth + 1)
        else:
            raise BadReference(pointer, f"This is no condition. Give {FORM}.")

    return walk(condition, pointer, 1)


def _check_comparison(part: dict[str, Any], pointer: str) -> None:
    operators = [key for key in part if key not in (FROM, DEFAULT)]
    if len(operators) != 1 or operators[0] not in (*COMPARISONS, EXISTS):
        raise BadReference(pointer, f"Compare by one of {', '.join((*COMPARISONS, EXISTS))}.")
    name, operand = operators[0], part[operators[0]]
    if name == "in" and not isinstance(operand, list):
        raise BadReference(f"{pointer}/in", "Give a list of values.")
    if name == EXISTS and not isinstance(operand, bool):
        raise BadReference(f"{pointer}/{EXISTS}", "Give true or false.")
    if name in ("gt", "gte", "lt", "lte") and type(operand) not in (int, float, str):
        raise BadReference(f"{pointer}/{name}", "Give a number or a text.")


def _state_asked(part: dict[str, Any], pointer: str) -> Reference:
    if part["is"] not in STATES:
        raise BadReference(f"{pointer}/is", f"A step is {', '.join(STATES)}; not {part['is']!r:.100}.")
    if not isinstance(part["step"], str) or part["step"].startswith("$"):
        raise BadReference(f"{pointer}/step", "Name a step.")
    return Reference(part["step"], ())


def holds(condition: Mapping[str, Any], results: Mapping[str, Any], states: Mapping[str, str]) -> bool:
    """Whether a condition is true. Raises MissingValue, and Incomparable.

    results, states: of the steps that it is about, by name.
    """
    if FROM in condition:
        return _compares(condition, results)
    if "step" in condition:
        return bool(states[condition["step"]] == condition["is"])
    if "not" in condition:
        return not holds(condition["not"], results, states)
    quantifier, parts = (all, condition["all"]) if "all" in condition else (any, condition["any"])
    return quantifier(holds(part, results, states) for part in parts)


def _compares(condition: Mapping[str, Any], results: Mapping[str, Any]) -> bool:
    [name] = [key for key in condition if key not in (FROM, DEFAULT)]
    operand = condition[name]
    try:
        value = looked_up(condition, results)
    except MissingValue:
        if name == EXISTS:
            return operand is False
        raise
    if name == EXISTS:
        return operand is True
    try:
        return bool(COMPARISONS[name](value, operand))
    except TypeError:
        raise Incomparable(f"{condition[FROM]} is {value!r:.60}, which cannot be compared by {name!r}.") from None
