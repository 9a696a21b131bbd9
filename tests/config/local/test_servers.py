"""The embedded PostgreSQL and Valkey: they start, come back when they are killed, and stop."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from config.local.ports import free_port
from config.local.postgres import Postgres
from config.local.server import ServerFailed, kept_running
from config.local.valkey import Valkey
from tests import servers
from tests.system.stack import until


@pytest.fixture
def folder() -> Path:
    return servers.new_folder("servers")


@pytest.fixture
def own_postgres(folder: Path) -> Iterator[Postgres]:
    with Postgres(folder / "postgres", free_port(), settings={"fsync": "off"}) as server:
        yield server


def test_a_killed_postgres_comes_back_with_what_was_committed(own_postgres: Postgres) -> None:
    with kept_running(own_postgres, lambda _: None), closing(psycopg2.connect(own_postgres.url)) as connection:
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE kept AS SELECT 42 AS number")
        assert own_postgres.pid is not None
        os.kill(own_postgres.pid, signal.SIGKILL)

        until(lambda: own_postgres.is_alive and own_postgres.responds())

        with closing(psycopg2.connect(own_postgres.url)) as again, again.cursor() as cursor:
            cursor.execute("SELECT number FROM kept")
            assert cursor.fetchall() == [(42,)]


def test_a_postgres_whose_backends_outlive_it_starts_again(own_postgres: Postgres) -> None:
    with closing(psycopg2.connect(own_postgres.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = psutil.Process(cursor.fetchone()[0])
        backend.suspend()  # It cannot notice its postmaster's end and holds on to the shared memory.
        own_postgres.kill()

        own_postgres.start()

        assert own_postgres.responds()
        assert not backend.is_running()


def test_postgres_is_not_started_twice_on_the_same_data(own_postgres: Postgres) -> None:
    with pytest.raises(ServerFailed, match=rf"already runs .* \(pid {own_postgres.pid}\)"):
        Postgres(own_postgres.data_dir, free_port()).start()

    assert own_postgres.responds()


def test_postgres_requires_its_password(own_postgres: Postgres) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(f"postgresql://muster:guessed@127.0.0.1:{own_postgres.port}/muster")


def test_a_killed_valkey_comes_back_with_what_it_held(folder: Path) -> None:
    with Valkey(folder / "valkey", free_port()) as server, kept_running(server, lambda _: None):
        redis.Redis.from_url(server.url).set("kept", 42)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)

        until(lambda: server.is_alive and server.responds())

        assert redis.Redis.from_url(server.url).get("kept") == b"42"


def test_a_stopped_server_is_not_started_again(folder: Path) -> None:
    server = Valkey(folder / "valkey", free_port())
    with kept_running(server, lambda _: None):
        process = psutil.Process(server.pid)

    time.sleep(0.3)  # Thrice the keeper's interval.
    assert not process.is_running()
    assert not server.is_alive


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root gives PostgreSQL another user.")
def test_under_root_postgres_is_kept_outside_a_closed_folder_which_stays_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    server = Postgres(tmp_path / "postgres", free_port(), settings={"fsync": "off"})

    with server:
        assert server.responds()

    assert tmp_path.stat().st_mode & 0o777 == 0o700
    home = (tmp_path / "postgres").resolve()
    assert not home.is_relative_to(tmp_path)
    server.destroy()
    assert not home.exists()
