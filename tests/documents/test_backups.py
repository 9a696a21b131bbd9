"""What docs/operations.md says of back-ups holds: they are taken and restored with its own lines."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from config.local.ports import free_port
from config.local.postgres import Postgres
from config.local.unprivileged import give_away, is_root, packaged_binaries, reachable_binaries, run_as
from tests import servers
from tests.documents.reader import OPERATIONS, Reader
from tests.documents.test_answers import StackOfTheReadme, beside
from tests.system.stack import until


def script(title: str) -> str:
    """The document's shell script that begins with that comment."""
    [found] = [block for block in OPERATIONS.blocks("sh") if block.startswith(f"# {title}\n")]
    return found


# The restored stack takes the running job back when its lease has expired.
SHORT_LEASE = {"HEARTBEAT_SECONDS": "1", "LEASE_SECONDS": "3"}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_restored_dump_goes_on_where_it_was_taken(tmp_path: Path) -> None:
    lines = [each for each in OPERATIONS.exchanges() if "pg_" in each.command or "createdb" in each.command]
    first = StackOfTheReadme(servers.new_folder("dumped") / "data", **SHORT_LEASE)
    try:
        first.wait_until_ready()
        running = first.submit("demo.slices", {"slices": 30})
        waiting = first.submit("demo.slices", {"slices": 1}, run_at="2035-01-01T00:00:00Z")
        first.running(running)
        environment = beside(first, tmp_path)
        for line in lines:
            Reader("", environment).follow(line)
        url = environment["DATABASE_URL"].rpartition("/")[0] + "/restored"
        second = StackOfTheReadme(servers.new_folder("restored") / "data", DATABASE_URL=url, **SHORT_LEASE)
        try:
            second.wait_until_ready()

            again = until(lambda: (job := second.job(running))["attempt"] == 2 and job, 90)

            # Its worker lives, with the first database: nobody is charged for what this one no longer hears of.
            assert [attempt["outcome"] for attempt in again["attempts"]] == ["UNAVAILABLE"]
            assert again["status"] == "RUNNING"
            assert second.job(waiting)["waiting_for"] == "start_time"
        finally:
            second.stop()
    finally:
        first.stop()


class Operator:
    """Someone who runs scripts as the user that PostgreSQL runs as."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = reachable_binaries() if is_root() else packaged_binaries()
        self.environment = {"PATH": f"{programs}/bin:{os.environ['PATH']}", "HOME": str(folder)}
        for name in ("archive", "backups"):
            (folder / name).mkdir()
            give_away(folder / name)
            self.environment[name.upper()] = str(folder / name)

    def run(self, script: str, **variables: Any) -> None:
        given = {name: str(value) for name, value in variables.items()}
        identity = run_as((self.folder / "archive").stat().st_uid) if is_root() else {}
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=self.folder / "backups",
            env=self.environment | given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            **identity,
        )
        assert done.returncode == 0, done.stdout


@pytest.fixture
def operator() -> Operator:
    return Operator(servers.new_folder("log"))


@pytest.fixture
def archiving_postgres(operator: Operator) -> Iterator[Postgres]:
    archive = operator.folder / "archive"
    settings = {
        "archive_mode": "on",
        "archive_command": f"test ! -f {archive}/%f && cp %p {archive}/%f",
        # The default, since these settings are not in the configuration file that the back-up takes along.
        "max_connections": "100",
    }
    with Postgres(operator.folder / "postgres", free_port(), settings=settings) as server:
        yield server
    server.destroy()


def query(url: str, sql: str) -> Any:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else None


def test_a_moment_after_the_base_backup_is_restored(operator: Operator, archiving_postgres: Postgres) -> None:
    url, port, restored = archiving_postgres.url, free_port(), operator.folder / "backups" / "restored"
    query(url, "CREATE TABLE kept AS SELECT 'before the back-up' AS since")
    operator.run(script("take a base backup"), DATABASE_URL=url)
    query(url, "INSERT INTO kept VALUES ('before the moment')")
    [[moment]] = query(url, "SELECT clock_timestamp()")
    query(url, "INSERT INTO kept VALUES ('after the moment')")
    [[last]] = query(url, "SELECT pg_walfile_name(pg_switch_wal())")
    until(lambda: (operator.folder / "archive" / last).exists(), 30)

    operator.run(script("restore to a moment"), MOMENT=moment, RESTORED=restored, PORT=port)

    url = url.replace(f":{archiving_postgres.port}/", f":{port}/")
    try:
        until(lambda: query(url, "SELECT pg_is_in_recovery()") == [(False,)], 30)
        assert query(url, "SELECT since FROM kept") == [("before the back-up",), ("before the moment",)]
    finally:
        operator.run('pg_ctl stop --mode=immediate --pgdata="$RESTORED"', RESTORED=restored)
