"""`manage.py doctor`: looks at a running installation and says what to do."""

import json
import sys
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from orchestrator.diagnosis import Examined, Level, diagnose

MARKS = {
    Level.OK: ("✓", "green"),
    Level.WARN: ("!", "yellow"),
    Level.FAIL: ("✗", "bold red"),
}
NAME_WIDTH = 23
LONG_LINE = 2_000


class Command(BaseCommand):
    help = "Looks at database, broker, processes and jobs, and says what to do. Exits with 1 if a check fails."
    # What is wrong with the settings is `check`'s to say, and the database may be away.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one JSON object, for programs.")

    def handle(self, *args: Any, **options: Any) -> None:
        examined = []
        # A file or a pipe is given whole lines.
        console = Console(file=self.stdout, highlight=False, width=None if self.stdout.isatty() else LONG_LINE)
        for each in diagnose():
            examined.append(each)
            if not options["json"] and each.finding.level != Level.SKIP:
                show(each, console)
        if options["json"]:
            self.stdout.write(json.dumps(as_json(examined), indent=2, ensure_ascii=False))
        else:
            console.print(f"\n{summary(examined)}")
        if not is_well(examined):
            sys.exit(1)


def show(examined: Examined, console: Console) -> None:
    mark, style = MARKS[examined.finding.level]
    print_row(console, Text(f"{mark} {examined.name}", style), examined.finding.found)
    if examined.finding.advice:
        print_row(console, Text(), f"→ {examined.finding.advice}")


def print_row(console: Console, name: Text, words: str) -> None:
    row = Table.grid(Column(width=NAME_WIDTH), Column(overflow="fold"), padding=(0, 1))
    row.add_row(name, Text(words))
    console.print(row)


def summary(examined: list[Examined]) -> str:
    counts = Counter(each.finding.level for each in examined)
    if counts[Level.OK] == len(examined):
        return f"All is well: {len(examined)} checks."
    words = {
        Level.FAIL: "failed",
        Level.WARN: "to look at",
        Level.SKIP: "not looked at because of that",
        Level.OK: "well",
    }
    return f"{', '.join(f'{counts[level]} {word}' for level, word in words.items() if counts[level])}."


def is_well(examined: list[Examined]) -> bool:
    """Warnings are for people; whoever restarts or alerts goes by failures."""
    return not any(each.finding.level == Level.FAIL for each in examined)


def as_json(examined: list[Examined]) -> dict[str, Any]:
    checks = [{"name": each.name, **each.finding._asdict(), "seconds": each.seconds} for each in examined]
    return {"ok": is_well(examined), "checks": checks}
