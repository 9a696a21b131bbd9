"""The text of schedules in a file, in YAML or JSON: written, and read strictly.

YAML is read as its version 1.2 has it: only true and false are booleans, so that NO is Norway, and days and times are
texts. A key that comes twice is refused in both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable
from typing import Any

import yaml

# A file of 50,000 schedules has about 20 MB.
MAX_BYTES = 100_000_000
MAX_DEPTH = 200
JSON, YAML = "json", "yaml"
FORMATS = (YAML, JSON)


class BadText(ValueError):
    """The text is not what it should be."""


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        """Each schedule stands by itself."""
        return True


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, list[Any]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} comes twice", node.start_mark)
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def written(document: Any, format: str) -> str:
    if format == JSON:
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def read(text: str) -> Any:
    """What the text says: JSON if it begins with a brace, else YAML. Raises BadText."""
    try:
        if text.lstrip().startswith("{"):
            return json.loads(text, object_pairs_hook=_once, parse_constant=_refused)
        _check_depth(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a safe one
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise BadText(
            f"It is neither YAML nor JSON: {' '.join(str(error).split()) or 'it is nested too deep'}"
        ) from None


def _check_depth(text: str) -> None:
    """Before the text is read by C, which has no recursion limit."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} comes twice")
        found[key] = value
    return found


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
