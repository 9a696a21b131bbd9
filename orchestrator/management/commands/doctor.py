"""`manage.py doctor`: checks a running installation and says what to do."""

import json
import sys
from collections import Counter
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandParser
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from orchestrator.diagnostics.checks import Examined, Level, diagnose, registered_checks

MARKS = {
    Level.OK: ("✓", "green"),
    Level.WARN: ("!", "yellow"),
    Level.FAIL: ("✗", "bold red"),
}
NAME_WIDTH = 23
LONG_LINE = 2_000


class Command(BaseCommand):
    help = "Checks database, broker, processes and jobs, and says what to do. Exits with 1 if a check fails."
    # Wrong settings are what `check` reports, and the database may be down.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one JSON object, for programs.")

    def handle(self, *args: Any, **options: Any) -> None:
        examined = []
        # A file or a pipe gets whole lines.
        console = Console(
            file=cast("IO[str]", self.stdout), highlight=False, width=None if self.stdout.isatty() else LONG_LINE
        )
        for each in diagnose(registered_checks()):
            examined.append(each)
            if not options["json"] and each.finding.level != Level.SKIP:
                show(each, console)
        if options["json"]:
            self.stdout.write(json.dumps(as_json(examined), indent=2, ensure_ascii=False))
        else:
            console.print(f"\n{summary(examined)}")
        if not is_healthy(examined):
            sys.exit(1)


def show(examined: Examined, console: Console) -> None:
    mark, style = MARKS[examined.finding.level]
    print_row(console, Text(f"{mark} {examined.name}", style), examined.finding.msg)
    if examined.finding.hint:
        print_row(console, Text(), f"→ {examined.finding.hint}")


def print_row(console: Console, name: Text, words: str) -> None:
    row = Table.grid(Column(width=NAME_WIDTH), Column(overflow="fold"), padding=(0, 1))
    row.add_row(name, Text(words))
    console.print(row)


def summary(examined: list[Examined]) -> str:
    counts = Counter(each.finding.level for each in examined)
    if counts[Level.OK] == len(examined):
        return f"All {len(examined)} checks passed."
    words = {
        Level.FAIL: "failed",
        Level.WARN: "with a warning",
        Level.SKIP: "skipped",
        Level.OK: "passed",
    }
    return f"{', '.join(f'{counts[level]} {word}' for level, word in words.items() if counts[level])}."


def is_healthy(examined: list[Examined]) -> bool:
    """Only failures, not warnings, make the exit code 1."""
    return not any(each.finding.level == Level.FAIL for each in examined)


def as_json(examined: list[Examined]) -> dict[str, Any]:
    checks = [{"name": each.name, **each.finding._asdict(), "seconds": each.seconds} for each in examined]
    return {"ok": is_healthy(examined), "checks": checks}
