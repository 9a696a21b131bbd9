"""Whether the database can be reached, is up to date and can clean up after itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from django.db import connection
from pytest_django import Settings

from config.local.postgres import Postgres
from orchestrator.diagnostics.checks import Check, Level, ask
from orchestrator.doctor import database
from tests.orchestrator.doctor.conftest import another_session

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_reachable_database_passes_with_its_version() -> None:
    finding = ask(database.database)

    assert finding.level == Level.OK
    assert finding.msg.startswith("PostgreSQL 18")


def test_a_database_that_is_down_fails_with_its_address_and_without_its_password(mortal_postgres: Postgres) -> None:
    mortal_postgres.kill()
    connection.close()

    finding = ask(database.database)

    assert finding.level == Level.FAIL
    assert f"127.0.0.1:{mortal_postgres.port}" in finding.msg
    assert connection.settings_dict["PASSWORD"] not in finding.msg
    assert "DATABASE_URL" in finding.hint


def test_a_database_that_is_too_old_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MIN_VERSION", 99)

    finding = ask(database.database)

    assert (finding.level, finding.hint) == (Level.FAIL, "Upgrade it to 99 or later.")


@pytest.mark.parametrize(("seconds", "level"), [(0, Level.OK), (60, Level.WARN), (-7_200, Level.FAIL)])
def test_clocks_that_differ_are_a_warning(monkeypatch: pytest.MonkeyPatch, seconds: float, level: Level) -> None:
    monkeypatch.setattr(database, "time", SimpleNamespace(time=lambda: time.time() + seconds))

    assert ask(database.clock).level == level


def test_a_database_with_every_migration_passes() -> None:
    assert ask(database.migrations).level == Level.OK


@pytest.fixture
def migration_row() -> Iterator[Callable[[str], None]]:
    """Runs a statement on the list of applied migrations, which is as before after the test."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM django_migrations")
        yield cursor.execute
        cursor.execute("TRUNCATE django_migrations")
        cursor.execute("INSERT INTO django_migrations OVERRIDING SYSTEM VALUE SELECT * FROM kept")
        cursor.execute("DROP TABLE kept")


def test_a_missing_migration_fails(migration_row: Callable[[str], None]) -> None:
    migration_row("DELETE FROM django_migrations WHERE app = 'ingestion'")

    finding = ask(database.migrations)

    assert finding.level == Level.FAIL
    assert "ingestion.0001_initial" in finding.msg
    assert "migrate" in finding.hint


def test_a_migration_of_a_newer_release_is_a_warning(migration_row: Callable[[str], None]) -> None:
    migration_row("INSERT INTO django_migrations (app, name, applied) VALUES ('orchestrator', '0099_later', now())")

    finding = ask(database.migrations)

    assert finding.level == Level.WARN
    assert "orchestrator.0099_later" in finding.msg


def test_rows_that_vacuum_does_not_clean_up_are_a_warning() -> None:
    assert ask(database.dead_rows).level == Level.OK

    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE churned (n int) WITH (autovacuum_enabled = off)")
        cursor.execute("INSERT INTO churned SELECT generate_series(1, 110000)")
        cursor.execute("DELETE FROM churned")
        cursor.execute("SELECT pg_stat_force_next_flush()")
        try:
            finding = ask(database.dead_rows)
        finally:
            cursor.execute("DROP TABLE churned")

    assert finding.level == Level.WARN
    assert "churned" in finding.msg


@pytest.mark.parametrize(
    ("check", "limit"),
    [(database.long_transactions, "LONG_TRANSACTION"), (database.idle_transactions, "LONG_IDLE")],
    ids=["it holds back vacuum", "it is idle"],
)
def test_a_transaction_that_stays_open_is_a_warning(check: Check, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with another_session() as session, session.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid = cursor.fetchone()[0]

        assert ask(check).level == Level.OK
        monkeypatch.setattr(database, limit, "0 seconds")
        finding = ask(check)

    assert finding.level == Level.WARN
    assert f"pid {pid} " in finding.msg


def test_a_disk_of_this_host_that_is_nearly_full_is_a_warning(
    postgres: Postgres, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "check the disk on its host" in ask(database.disk).msg

    settings.DATA_DIR = postgres.data_dir.parent
    assert ask(database.disk).level == Level.OK
    monkeypatch.setattr(database, "MIN_FREE_DISK", 1.0)
    assert ask(database.disk).level == Level.WARN
