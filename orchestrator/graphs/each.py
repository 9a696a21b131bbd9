"""Fan-out: a step that runs for each value of a list that an earlier step returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.graphs import references
from orchestrator.graphs.references import FROM, BadReference, Reference

# The kind of the step itself, which gathers what its items have returned.
EACH = "pipeline.each"
# The names under which its payload takes a value of the list, and its place there.
ITEM, INDEX = "$item", "$index"
ITS_ITEM: dict[str, Any] = {FROM: [ITEM]}
MAX_ITEMS = 10_000
# All payloads of its items together.
MAX_BYTES = 100_000_000
# Room for the place of an item in its name, as in "load[9999]".
MAX_NAME_CHARACTERS = 94


class NotAList(Exception):
    """What a step is to run for each value of has none, or too many."""


def reference(given: Any, pointer: str = "/each") -> Reference:
    """The list that is meant. Raises BadReference."""
    if not isinstance(given, dict) or not references.is_reference(given, pointer):
        raise BadReference(pointer, f'Give {{"{FROM}": "step.key"}}: what an earlier step returns as a list.')
    return references.parsed(given[FROM], f"{pointer}/{FROM}")


def values(given: Mapping[str, Any], results: Mapping[str, Any]) -> list[Any]:
    """The values of the list. Raises NotAList, or MissingValue."""
    value = references.looked_up(given, results)
    if not isinstance(value, list):
        raise NotAList(f"each: {references.parsed(given[FROM], '')} is {references.described(value)}, not a list.")
    if len(value) > MAX_ITEMS:
        raise NotAList(f"each: the list has {len(value):,} values; at most {MAX_ITEMS:,} are allowed.")
    return value


def prefix(name: str) -> str:
    """What the names of a step's items begin with."""
    return f"{name}["


def is_item(name: str, step: str) -> bool:
    return name.startswith(prefix(step)) and name.endswith("]")
