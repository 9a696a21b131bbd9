"""`manage.py schedules`: exports and imports schedules, and brings those that code declares into the database."""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from access import audit
from scheduler.declarations import declared
from scheduler.management import schedule_files
from scheduler.management.copying import BadFile, Done, bring_in, exported
from scheduler.services.declared import sync

EXAMPLES = """
Examples:
  manage.py schedules export > schedules.yaml          all, with the calendars that they name
  manage.py schedules export --owner ada --format json
  manage.py schedules import schedules.yaml --dry-run  what it would do
  manage.py schedules import schedules.yaml            all of it, or nothing if anything is wrong
  manage.py schedules sync                             those that code declares, as migrate does
"""


class Command(BaseCommand):
    help = "Exports and imports schedules, and brings those that code declares into the database."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog, parser.formatter_class = EXAMPLES, RawDescriptionHelpFormatter
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        added = actions.add_parser("sync", help="Brings the schedules that code declares into the database.")
        added.set_defaults(act=self._sync)
        added = actions.add_parser("export", help="Prints schedules, and the calendars that they name.")
        added.add_argument("--owner", help="Only those of this user.")
        added.add_argument("--format", choices=schedule_files.FORMATS, default=schedule_files.YAML)
        added.set_defaults(act=self._export)
        added = actions.add_parser("import", help="Creates and changes schedules and calendars as a file says.")
        added.add_argument("file", help="What export printed, or was written like it; - for standard input.")
        added.add_argument("--dry-run", action="store_true", help="Only print what it would do.")
        added.set_defaults(act=self._import)

    def handle(self, *args: Any, **options: Any) -> None:
        with audit.by_command():
            options["act"](**options)

    def _sync(self, **_: Any) -> None:
        for what, names in sync(declared.values())._asdict().items():
            for name in names:
                self.stdout.write(f"{what} {name}")

    def _export(self, *, owner: str | None, format: str, **_: Any) -> None:
        self.stdout.write(schedule_files.written(exported(owner=owner), format), ending="")

    def _import(self, *, file: str, dry_run: bool, **_: Any) -> None:
        try:
            document = schedule_files.read(_text_of(file))
            done = bring_in(document, dry_run=dry_run)
        except schedule_files.BadText as error:
            raise CommandError(f"{error}. Nothing was imported.") from None
        except BadFile as error:
            lines = [f"{problem.pointer or 'the file'}: {problem.detail}" for problem in error.problems]
            raise CommandError("\n".join([*lines, "Nothing was imported."])) from None
        self._report(done, dry_run)

    def _report(self, done: list[Done], dry_run: bool) -> None:
        for each in done:
            if each.action != "unchanged":
                fields = f": {', '.join(each.fields)}" if each.fields else ""
                self.stdout.write(f"{each.action} {each.what} {each.name}{fields}")
        same = sum(each.action == "unchanged" for each in done)
        self.stdout.write(f"unchanged: {same:,}{'. This was a dry run; nothing was written.' if dry_run else ''}")


def _text_of(file: str) -> str:
    try:
        if file == "-":
            return sys.stdin.read()
        path = Path(file)
        if path.stat().st_size > schedule_files.MAX_BYTES:
            raise CommandError(f"{file} has more than {schedule_files.MAX_BYTES:,} bytes.")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} cannot be read: {error}") from None
