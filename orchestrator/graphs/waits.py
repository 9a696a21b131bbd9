"""Signals: what a job or a step waits for from outside, and what may be sent."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from orchestrator.graphs.references import BadReference, escaped
from orchestrator.kind_problems import Problem
from orchestrator.pg_values import as_json

# The name under which a step's payload takes the body of its signal.
SIGNAL = "$signal"
MAX_BODY_BYTES = 65_536
MAX_FIELDS = 100
MAX_SECONDS = 366 * 86_400
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")

FieldType = Literal[
    "boolean", "integer", "number", "string", "array", "object",
    "boolean?", "integer?", "number?", "string?", "array?", "object?",
]  # fmt: skip
TYPES: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}


class Wait(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is waited for.

    within_seconds: from when nothing else is waited for; then `default` is taken, and without one the job fails.
    fields: that the signal's body has, each with its type; one that ends in "?" may be left out.
    """

    signal: Annotated[str, msgspec.Meta(pattern=rf"^{NAME.pattern}$")]
    within_seconds: Annotated[float, msgspec.Meta(gt=0, le=MAX_SECONDS)] | None = None
    default: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    fields: Annotated[dict[str, FieldType], msgspec.Meta(max_length=MAX_FIELDS)] = {}


def read(given: Any, pointer: str = "/wait_for") -> Wait:
    """The wait that is meant by a signal's name, or by an object. Raises BadReference."""
    try:
        wait = msgspec.convert({"signal": given} if isinstance(given, str) else given, Wait)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `$")
        raise BadReference(pointer + re.sub(r"[.\[]", "/", path.rstrip("`").replace("]", "")), f"{detail}.") from None
    if wait.default is not msgspec.UNSET:
        if wait.within_seconds is None:
            raise BadReference(f"{pointer}/default", "A default needs within_seconds, after which it is taken.")
        for problem in problems_in(wait, wait.default):
            raise BadReference(f"{pointer}/default{problem.pointer}", problem.detail)
    return wait


def problems_in(wait: Wait, body: Any) -> list[Problem]:
    """What is wrong with the body of a signal."""
    if not isinstance(body, dict):
        return [Problem("", "not_an_object", f"A signal's body must be an object, not {body!r:.60}.")]
    try:
        as_json(body, at_most=MAX_BODY_BYTES)
    except (TypeError, ValueError) as error:
        return [Problem("", "not_storable", str(error))]
    return [*_of_fields(wait, body)] if wait.fields else []


def _of_fields(wait: Wait, body: dict[str, Any]) -> list[Problem]:
    known = {name: kind.rstrip("?") for name, kind in wait.fields.items()}
    found = [
        Problem(f"/{escaped(name)}", "unknown", f"Unknown field {name!r:.100}; allowed: {', '.join(known)}.")
        for name in body
        if name not in known
    ]
    for name, kind in wait.fields.items():
        if name not in body:
            if not kind.endswith("?"):
                found.append(Problem(f"/{escaped(name)}", "required", "This field is required."))
        elif not _is_a(body[name], known[name]):
            found.append(Problem(f"/{escaped(name)}", "invalid", f"Expected {known[name]}, not {body[name]!r:.60}."))
    return found


def _is_a(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
