"""`manage.py schedules sync`: brings the schedules that code declares into the database, as `migrate` does."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from access import audit
from scheduler.declarations import declared
from scheduler.services.declared import sync


class Command(BaseCommand):
    help = "Bring the schedules that code declares into the database."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["sync"])

    def handle(self, *args: Any, **options: Any) -> None:
        with audit.by_command():
            synced = sync(declared.values())
        for what, names in synced._asdict().items():
            for name in names:
                self.stdout.write(f"{what} {name}")
