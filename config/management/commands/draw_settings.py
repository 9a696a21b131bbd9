"""`manage.py draw_settings`: writes the settings into docs/operations.md; --check says whether they are fresh."""

from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from msgspec import inspect

from config.environment import Environment

DOCUMENT = settings.BASE_DIR / "docs" / "operations.md"
BEGIN, END = "<!-- Written by `manage.py draw_settings`. -->\n", "<!-- The end of what it writes. -->\n"


class Command(BaseCommand):
    help = "Writes the table of settings in docs/operations.md from config/environment.py."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="Write nothing; fail if the table is out of date.")

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        text = DOCUMENT.read_text()
        fresh = with_table(text)
        if not check:
            DOCUMENT.write_text(fresh)
        elif text != fresh:
            raise CommandError(
                "The table of settings in docs/operations.md is out of date. Run `manage.py draw_settings`."
            )


def with_table(text: str) -> str:
    """The document with the table of now between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise CommandError(f"The document lacks the markers {BEGIN.strip()} and {END.strip()}")
    return f"{before}{begin}\n{table()}\n{end}{after}"


def table() -> str:
    rows = ["| setting | value | default | what it does |", "| --- | --- | --- | --- |"]
    for field in msgspec.structs.fields(Environment):
        kind = inspect.type_info(field.type)
        assert isinstance(kind, inspect.Metadata)
        description = (kind.extra_json_schema or {})["description"]
        rows.append(f"| `{field.name}` | {values(kind.type)} | {default(field.default)} | {description} |")
    return "\n".join(rows) + "\n"


def values(kind: inspect.Type) -> str:
    """Which values are right, in words."""
    match kind:
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"whole number{bounds(kind)}"
        case inspect.FloatType():
            return f"number{bounds(kind)}"
        case inspect.StrType(min_length=int(length)):
            return f"text of at least {length} characters"
        case inspect.StrType(pattern=str(pattern)):
            return f"text like `{pattern}`".replace("|", r"\|")
        case inspect.StrType():
            return "text"
    raise CommandError(f"There is no description for settings of type {kind}.")


def bounds(number: inspect.IntType | inspect.FloatType) -> str:
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    limits = {word: getattr(number, name) for name, word in words.items()}
    return "".join(f", {word} {limit:,}" for word, limit in limits.items() if limit is not None)


def default(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return "none, it is required"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "empty" if value == "" else f"`{value}`"
