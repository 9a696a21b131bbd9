"""`manage.py migrate` on a live table: submissions go on while it waits for its locks and while it builds an index."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.db.models import Index
from pytest_django import Settings

from orchestrator.management.commands import migrate
from orchestrator.models import Job
from orchestrator.submission import submit
from tests import next_release
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, threads

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = 80_000

# A table full of jobs that have ended.
FILL = """
INSERT INTO orchestrator_job (id, kind, queue, status, finished_at, payload)
SELECT gen_random_uuid(), 'test.filler', 'default', 'COMPLETED', now(), '{}' FROM generate_series(1, %s)
"""
# How long the session that waits longest has been kept waiting by locks.
LONGEST_WAIT = """
SELECT coalesce(extract(epoch FROM max(clock_timestamp() - query_start)), 0)::float FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND query LIKE '%INSERT INTO orchestrator_job%' AND pid <> pg_backend_pid()
"""
HAS_NOTE = """
SELECT EXISTS (
    SELECT FROM information_schema.columns WHERE table_name = 'orchestrator_job' AND column_name = 'note'
)
"""


class Output(StringIO):
    """What the command says, with an event for each time that it says it tries again."""

    def __init__(self) -> None:
        super().__init__()
        self.tried = threading.Semaphore(0)

    def write(self, text: str) -> int:
        for _ in range(text.count("trying again")):
            self.tried.release()
        return super().write(text)


@pytest.fixture
def next_migrations(settings: Settings) -> Iterator[None]:
    """The next release's migrations are there to be applied; they are taken back in the end."""
    settings.MIGRATION_MODULES = {"orchestrator": "tests.next_release"}
    yield
    call_command("migrate", "orchestrator", next_release.PRESENT, verbosity=0)


@contextmanager
def in_use() -> Iterator[None]:
    """Some long transaction has read the table of jobs."""
    other = connections.create_connection("default")
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT FROM orchestrator_job LIMIT 1")
            yield
            cursor.execute("ROLLBACK")
    finally:
        other.close()


class Load:
    """Submissions, one after another, and the longest that one was kept waiting by a lock."""

    def __init__(self, submit_one: Callable[[], Any]) -> None:
        self._submit_one = submit_one
        self._ended = threading.Event()
        self.submitted = 0
        self.longest_wait = 0.0
        self.waited_long = threading.Event()

    def go_on(self) -> None:
        while not self._ended.is_set():
            self._submit_one()
            self.submitted += 1

    def watch(self) -> None:
        with connection.cursor() as cursor:
            while not self._ended.is_set():
                cursor.execute(LONGEST_WAIT)
                [[wait]] = cursor.fetchall()
                self.longest_wait = max(self.longest_wait, wait)
                if self.longest_wait > 1:
                    self.waited_long.set()
                time.sleep(0.01)

    def end(self) -> None:
        self._ended.set()


@contextmanager
def load(kind: DeclareKind) -> Iterator[Load]:
    declared = kind()
    one = Load(lambda: submit(declared))
    with threads(2) as call:
        running = [call(one.go_on), call(one.watch)]
        try:
            yield one
        finally:
            one.end()
        for each in running:
            each.result(PATIENCE_SECONDS)


def has_note() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(HAS_NOTE)
        return bool(cursor.fetchone() == (True,))


def is_valid(index: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [index])
        return bool(cursor.fetchone() == (True,))


def test_submissions_do_not_wait_for_a_migration_that_waits(next_migrations: None, kind: DeclareKind) -> None:
    with connection.cursor() as cursor:
        cursor.execute(FILL, [ROWS])
    output = Output()

    with load(kind) as submissions, threads(1) as call:
        with in_use():
            migrating = call(call_command, "migrate", stdout=output)
            for _ in range(2):
                assert output.tried.acquire(timeout=PATIENCE_SECONDS)
        migrating.result(60)

    assert has_note()
    assert is_valid("job_by_note")
    assert submissions.longest_wait < 1
    assert Job.objects.count() == ROWS + submissions.submitted > ROWS


def test_they_would_wait_if_it_were_not_for_the_lock_timeout(
    next_migrations: None, kind: DeclareKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_SECONDS", 0)

    with load(kind) as submissions, threads(1) as call:
        with in_use():
            migrating = call(call_command, "migrate", verbosity=0)
            assert submissions.waited_long.wait(PATIENCE_SECONDS)
        migrating.result(60)


def test_it_stops_after_the_lock_wait_and_names_the_blocking_transaction(next_migrations: None) -> None:
    with in_use(), pytest.raises(CommandError, match=r"locked all the time.*SELECT FROM orchestrator_job"):
        call_command("migrate", lock_wait=0, verbosity=0)

    assert not has_note()


def test_the_old_name_of_the_lock_wait_works_with_a_warning(next_migrations: None) -> None:
    refused = pytest.raises(CommandError, match="locked all the time")
    with in_use(), refused, pytest.warns(FutureWarning, match="--patience is now --lock-wait"):
        call_command("migrate", "--patience", "0", verbosity=0)


def test_an_index_whose_build_was_interrupted_is_built_again(
    next_migrations: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_command("migrate", "orchestrator", "n001_job_note", verbosity=0)
    # A unique index on what is not unique cannot be built, and leaves what an interrupted one does.
    with connection.cursor() as cursor:
        cursor.execute(FILL, [2])
        with pytest.raises(Exception, match="could not create unique index"):
            cursor.execute("CREATE UNIQUE INDEX CONCURRENTLY job_by_note ON orchestrator_job (note)")
    monkeypatch.setattr(Job._meta, "indexes", [*Job._meta.indexes, Index(name="job_by_note", fields=["id"])])

    call_command("migrate", verbosity=0)

    assert is_valid("job_by_note")


def test_the_session_is_left_as_it_was(next_migrations: None) -> None:
    call_command("migrate", "orchestrator", "n001_job_note", verbosity=0)

    with connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("0",)
