"""`manage.py migrate`, safe on a live database: nothing waits long behind a lock that it requests."""

from __future__ import annotations

import random
import time
import warnings
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from contextlib import suppress
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands import migrate
from django.db import OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg2.errors import LockNotAvailable

# A migration that wants to change a table waits for those who use it, and all others wait behind it. So it gives up
# soon, lets them pass for a moment, and tries again.
LOCK_SECONDS = 0.25
PAUSE_SECONDS = 1
# Autovacuum gives way to whoever has waited for a second.
AUTOVACUUM_SECONDS = 3

# Tables that are being vacuumed, or on which somebody builds an index.
HELD_BY_UPKEEP = """
SELECT DISTINCT relation::regclass::text FROM pg_locks JOIN pg_class ON pg_class.oid = relation
WHERE database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND mode = 'ShareUpdateExclusiveLock' AND granted AND relkind = 'r' AND pid <> pg_backend_pid()
"""

# What a CREATE INDEX CONCURRENTLY that was interrupted has left.
BROKEN_INDEXES = """
SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE NOT indisvalid AND relname = ANY(%s)
  AND indexrelid NOT IN (SELECT index_relid FROM pg_stat_progress_create_index)
"""

WHO_HOLDS = """
SELECT pid, date_trunc('second', clock_timestamp() - xact_start)::text, left(query, 100) FROM pg_stat_activity
WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
ORDER BY xact_start LIMIT 1
"""


class OldName(Action):
    """What --lock-wait was called; it works for one more release."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        warnings.warn(
            f"{option_string} is now --lock-wait; the old name stops working in the next release.",
            FutureWarning,
            stacklevel=2,
        )
        namespace.lock_wait = values


class Command(migrate.Command):
    """Replaces Django's: it takes only short locks, and tries again for a while when a table is in use."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--lock-wait",
            type=float,
            default=300,
            metavar="SECONDS",
            help="How long to keep trying while a table to be changed is locked (default: 300).",
        )
        parser.add_argument(
            "--patience", type=float, action=OldName, dest="lock_wait", default=SUPPRESS, help=SUPPRESS
        )

    def handle(self, *args: Any, lock_wait: float = 300, **options: Any) -> None:
        self.connection = connections[options["database"]]
        gives_up_at = time.monotonic() + lock_wait
        drop_broken_indexes(self.connection)
        try:
            while not self.has_migrated(*args, **options):
                if time.monotonic() >= gives_up_at:
                    raise CommandError(f"A table to be changed was locked all the time. {who_holds(self.connection)}")
                self.stdout.write(f"  A table is locked; trying again. {who_holds(self.connection)}")
                time.sleep(PAUSE_SECONDS * random.uniform(0.5, 1))
                send_autovacuum_away(self.connection)
        finally:
            if self.connection.connection is not None:
                with self.connection.cursor() as cursor:
                    cursor.execute("RESET lock_timeout")

    def has_migrated(self, *args: Any, **options: Any) -> bool:
        """False where a lock was not to be had. What was migrated until then is kept."""
        try:
            super().handle(*args, **options)
        except OperationalError as error:
            if isinstance(error.__cause__, LockNotAvailable):
                return False
            raise
        return True

    def migration_progress_callback(self, action: str, migration: Any = None, fake: bool = False) -> None:
        if action in ("apply_start", "unapply_start"):
            # One that is not atomic builds or drops indexes concurrently, for which nobody has to wait.
            with self.connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{LOCK_SECONDS * migration.atomic}s"])
        super().migration_progress_callback(action, migration, fake)


def drop_broken_indexes(connection: BaseDatabaseWrapper) -> None:
    """So that they are built again."""
    options = [model._meta for model in apps.get_models()]
    names = [each.name for meta in options for each in (*meta.indexes, *meta.constraints)]
    with connection.cursor() as cursor:
        cursor.execute(BROKEN_INDEXES, [names])
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def send_autovacuum_away(connection: BaseDatabaseWrapper) -> None:
    """Interrupts what would keep a migration from its table for as long as it vacuums. This waits for its lock without
    others waiting behind it, since it asks for no more than autovacuum has.
    """
    with connection.cursor() as cursor:
        cursor.execute(HELD_BY_UPKEEP)
        for (table,) in cursor.fetchall():
            with suppress(OperationalError), transaction.atomic(connection.alias):
                cursor.execute(f"SET LOCAL lock_timeout = '{AUTOVACUUM_SECONDS}s'")
                cursor.execute(f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE")


def who_holds(connection: BaseDatabaseWrapper) -> str:
    with connection.cursor() as cursor:
        cursor.execute(WHO_HOLDS)
        return "".join(
            f"The oldest transaction is that of PostgreSQL's process {pid}, {age} old: {query}"
            for pid, age, query in cursor.fetchall()
        )
