"""Tests and benchmarks use what the code offers to everybody."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings

PACKAGES = ("access", "config", "ingestion", "orchestrator", "scheduler")
# Private by name only: Django's and Python's own.
KNOWN_TO_ALL = {"_base_manager", "_default_manager", "_meta", "_replace"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in KNOWN_TO_ALL


def privates_used(source: str) -> Iterator[str]:
    """The private names of the project's packages that a module imports, reads, or replaces by name."""
    tree = ast.parse(source)
    ours: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES:
            ours |= {each.asname or each.name for each in node.names}
            yield from (each.name for each in node.names if is_private(each.name))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in ours and is_private(attribute):
                yield f"{name}.{attribute}"
            case ast.Call(args=[ast.Name(id=name), ast.Constant(value=str(attribute)), *_]):
                if name in ours and is_private(attribute):
                    yield f"{name}.{attribute}"


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_nothing_private_of_the_code_is_used(folder: str) -> None:
    found = {
        str(path): names
        for path in sorted(Path(settings.BASE_DIR, folder).rglob("*.py"))
        if (names := list(privates_used(path.read_text())))
    }

    assert found == {}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from orchestrator.queue.bell import _ringer", "_ringer"),
        ("from orchestrator import kinds; kinds._kinds", "kinds._kinds"),
        ("from orchestrator import kinds; patch.setattr(kinds, '_kinds', {})", "kinds._kinds"),
    ],
)
def test_a_private_name_is_found(line: str, name: str) -> None:
    assert list(privates_used(line)) == [name]
