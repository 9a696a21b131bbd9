"""Draws the pictures of docs/architecture.md from the code; with --check it only fails if they are out of date."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"
INSIDE = "orchestrator"
# Django's own places for code; they are no parts of the picture.
LEFT_OUT = {"apps", "management", "migrations"}
# What a job goes through; the second picture shows who calls it.
STEPS = (
    "submission", "queue.bell", "queue.claims", "queue.endings", "queue.pipelines", "queue.recovery",
    "queue.transitions",
)  # fmt: skip
PICTURE = re.compile(r"(<!-- Drawn by `misc/draw_architecture.py`: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)

Layers = list[list[str]]


def main() -> None:
    page = PAGE.read_text()
    drawn = PICTURE.sub(lambda found: found[1] + DRAWINGS[found[2]]() + found[3], page)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(drawn)
    elif drawn != page:
        sys.exit("docs/architecture.md is out of date: run .venv/bin/python misc/draw_architecture.py")


def draw_rooms() -> str:
    """The layers of the contracts in pyproject.toml, from the top."""
    every, (rooms, foundation) = layers(), parted(layers(INSIDE))
    place = every.index([INSIDE])
    above, below = every[:place], every[place + 1 :]
    lines = [
        *chain("above", map(side_by_side, above)),
        f"    subgraph {INSIDE}",
        *chain("room", [*map(side_by_side, rooms), "<br>".join(map(side_by_side, foundation))]),
        "    end",
        *chain("below", map(side_by_side, below)),
        f"    above{place - 1} --> {INSIDE} --> below0",
    ]
    inside = [f"{INSIDE}.{name}" for layer in rooms for name in layer]
    return mermaid("flowchart TD", lines) + table([*flat(above), *inside, *flat(below)])


def draw_ways() -> str:
    """Which room, or which module of the queue, calls what on a job's way."""
    called: dict[tuple[str, str], set[str]] = defaultdict(set)
    for module in modules():
        for target, function in calls(module):
            if place_of(module) != target:
                called[place_of(module), target].add(function)
    lines = [
        f'    {caller} -- "{"<br>".join(sorted(names))}" --> {target}'
        for (caller, target), names in sorted(called.items())
    ]
    return mermaid("flowchart LR", lines)


DRAWINGS: Mapping[str, Callable[[], str]] = {"rooms": draw_rooms, "ways": draw_ways}


def layers(container: str | None = None) -> Layers:
    """Those of the contract for the container, or for the whole project."""
    contracts: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    wanted = [container] if container else None
    [found] = [each for each in contracts if each["type"] == "layers" and each.get("containers") == wanted]
    named = [layer.split(" | ") for layer in found["layers"]]
    return [[name for name in layer if name not in LEFT_OUT] for layer in named]


def parted(every: Layers) -> tuple[Layers, Layers]:
    """The layers down to the lowest that has a folder, and those of single modules below it."""
    folders = [place for place, layer in enumerate(every) if any((ROOT / INSIDE / name).is_dir() for name in layer)]
    return every[: folders[-1] + 1], every[folders[-1] + 1 :]


def chain(prefix: str, labels: Iterable[str]) -> list[str]:
    nodes = [f'    {prefix}{place}["{text}"]' for place, text in enumerate(labels)]
    return nodes + [f"    {prefix}{place - 1} --> {prefix}{place}" for place in range(1, len(nodes))]


def side_by_side(layer: Iterable[str]) -> str:
    return " · ".join(layer)


def flat(every: Layers) -> list[str]:
    return [name for layer in every for name in layer]


def modules() -> list[str]:
    paths = (path for name in flat(layers()) for path in (ROOT / name).rglob("*.py") if "migrations" not in path.parts)
    return sorted(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths)


def place_of(module: str) -> str:
    """The other packages are one place each; of the orchestrator each folder is one, and each module of the queue."""
    package, _, rest = module.partition(".")
    if package != INSIDE:
        return package
    return rest if rest.startswith("queue.") else rest.partition(".")[0]


def calls(module: str) -> Iterable[tuple[str, str]]:
    """The steps and the functions of theirs that the module calls."""
    tree = ast.parse(path_of(module).read_text())
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        target, _, function = resolved(node.func, names).rpartition(".")
        if target.removeprefix(f"{INSIDE}.") in STEPS and function.islower() and not function.startswith("_"):
            yield place_of(target), function


def resolved(node: ast.expr, names: Mapping[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
        return f"{names[node.value.id]}.{node.attr}"
    return ""


def path_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def docstring(room: str) -> str:
    return " ".join((ast.get_docstring(ast.parse(path_of(room).read_text())) or "").split("\n\n")[0].split())


def table(rooms: Iterable[str]) -> str:
    rows = [f"| `{room.replace('.', '/')}` | {docstring(room)} |\n" for room in rooms]
    return "\n| | |\n| --- | --- |\n" + "".join(rows) + "\n"


def mermaid(kind: str, lines: Iterable[str]) -> str:
    return "```mermaid\n" + "\n".join([kind, *lines]) + "\n```\n"


if __name__ == "__main__":
    main()
