"""What commands print: tables for people, JSON for programs, and words about times."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandParser, OutputWrapper
from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.shown.words import rough
from orchestrator.states import Status

# A file or a pipe gets whole lines.
LONG_LINE = 2_000
STYLES = {
    Status.CREATED: "dim",
    Status.RUNNING: "cyan",
    Status.COMPLETED: "green",
    Status.FAILED: "bold red",
    Status.CANCELLED: "yellow",
}


def console_of(stdout: OutputWrapper) -> Console:
    width = None if stdout.isatty() else LONG_LINE
    return Console(file=cast("IO[str]", stdout), highlight=False, width=width, soft_wrap=False)


def add_json(parser: CommandParser) -> None:
    parser.add_argument("--json", action="store_true", help="Print JSON, for programs.")


def print_json(command: BaseCommand, value: Any) -> None:
    command.stdout.write(json.dumps(value, cls=DjangoJSONEncoder, indent=2, ensure_ascii=False))


def print_table(command: BaseCommand, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Numbers are aligned to the right. Text that is no Rich text is printed as it is."""
    rows = [list(row) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(columns):
        is_number = bool(rows) and all(isinstance(row[place], int) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(_as_words(cell)) for cell in row))
    console_of(command.stdout).print(table)


def _as_words(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, datetime):
        return ago(cell)
    return f"{cell:,}" if isinstance(cell, int) else printable(str(cell))


def printable(text: str) -> str:
    """The text without what would control a terminal."""
    return "".join(each if each.isprintable() else " " for each in text)


def in_style(status: str) -> Text:
    return Text(status, STYLES[Status(status)])


def ago(moment: datetime) -> str:
    seconds = (timezone.now() - moment).total_seconds()
    return f"{rough(seconds)} ago" if seconds >= 0 else f"in {rough(-seconds)}"
