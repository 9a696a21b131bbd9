"""A host whose packets vanish: how soon its peers notice, on either side of a connection to PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
import pytest

from config.local.ports import free_port
from config.local.postgres import Postgres
from tests import servers
from tests.chaos.network import Namespace, new_namespace, proxy_to
from tests.system.stack import BASE_DIR, until

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(120)]

# Connects, says so, and says how long it took until the database answered again, from the moment it is told.
ASK_AGAIN = """
import sys, time
from config.start import start
start()
from django.db import connection
def ask(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
ask("SELECT 1")
print("connected", flush=True)
sql = sys.stdin.readline().strip()
began_at = time.monotonic()
while True:
    try:
        ask(sql)
        break
    except Exception as error:
        print(error, file=sys.stderr, flush=True)
        connection.close()
        sql = "SELECT 1"
print(time.monotonic() - began_at, flush=True)
"""

# Locks a table in a transaction, says so, and then does nothing, or has PostgreSQL wait.
HOLD_A_LOCK = """
import sys
from config.start import start
start()
from django.db import connection, transaction
with transaction.atomic(), connection.cursor() as cursor:
    cursor.execute("LOCK TABLE held")
    print("locked", flush=True)
    if sql := sys.stdin.readline().strip():
        cursor.execute(sql)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    made = new_namespace()
    if made is None:
        pytest.skip("No network namespace can be made here")
    yield made
    made.close()


@pytest.fixture(scope="module")
def database(namespace: Namespace) -> Iterator[Postgres]:
    """A PostgreSQL that processes in the namespace reach without any proxy between."""
    folder = servers.new_folder("database")
    access = folder / "pg_hba.conf"
    access.write_text("host all all all scram-sha-256\n")
    reachable = {"listen_addresses": f"127.0.0.1,{namespace.host}", "hba_file": str(access)}
    own = Postgres(folder / "postgres", free_port(), settings=servers.FORGETFUL | reachable)
    try:
        with own:
            yield own
    finally:
        own.destroy()


@pytest.fixture(autouse=True)
def packets_that_pass(namespace: Namespace) -> Iterator[None]:
    yield
    namespace.pass_packets()


@contextmanager
def in_namespace(namespace: Namespace, program: str, url: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*namespace.prefix, sys.executable, "-c", program],
        cwd=BASE_DIR,
        env={"DATABASE_URL": url, "SECRET_KEY": "x" * 50, "PYTHONPATH": str(BASE_DIR)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("sql", ["SELECT 1", "SELECT pg_sleep(100)"], ids=["idle", "waiting for an answer"])
def test_a_host_whose_packets_vanish_is_left_for_the_second_within_15_seconds(
    database: Postgres, namespace: Namespace, sql: str
) -> None:
    first, second = proxy_to(database.port, namespace), proxy_to(database.port, namespace)
    user, _, _ = database.url.partition("@")
    url = f"{user}@{namespace.host}:{first.port},{namespace.host}:{second.port}/muster"
    try:
        with in_namespace(namespace, ASK_AGAIN, url) as asking:
            assert asking.stdin
            assert asking.stdout
            assert asking.stdout.readline() == "connected\n"
            asking.stdin.write(f"{sql}\n")
            # What waits for an answer has sent its question, and has had that confirmed.
            if sql != "SELECT 1":
                asking.stdin.flush()
                until(lambda: is_asked(database, sql), 20)
            drop(namespace, first.port)
            asking.stdin.flush()
            seconds = float(asking.stdout.readline())
    finally:
        for proxy in (first, second):
            proxy.stop()

    assert seconds < 15


@pytest.mark.parametrize("sql", ["", "SELECT pg_sleep(100)"], ids=["between statements", "within one"])
def test_the_locks_of_a_host_whose_packets_vanish_are_free_within_15_seconds(
    database: Postgres, namespace: Namespace, sql: str
) -> None:
    url = database.url.replace("127.0.0.1", namespace.host)
    with closing(connect(database)) as other, other.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS held (); SET lock_timeout = '15s'")
        with in_namespace(namespace, HOLD_A_LOCK, url) as holding:
            assert holding.stdin
            assert holding.stdout
            assert holding.stdout.readline() == "locked\n"
            holding.stdin.write(f"{sql}\n")
            holding.stdin.flush()
            until(lambda: not sql or is_asked(database, sql), 20)
            namespace.drop_packets()

            cursor.execute("BEGIN; LOCK TABLE held; COMMIT")


def connect(database: Postgres) -> Any:
    """A connection on which each call is a transaction."""
    connection = psycopg2.connect(database.url)
    connection.autocommit = True
    return connection


def is_asked(database: Postgres, sql: str) -> bool:
    with closing(connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE query = %s AND state = 'active'", [sql])
        [count] = cursor.fetchone()
    return bool(count)


def drop(namespace: Namespace, port: int) -> None:
    """Packets from and to that port vanish from now on."""
    for chain, side in (("INPUT", "--sport"), ("OUTPUT", "--dport")):
        namespace.inside("iptables", "-I", chain, "-p", "tcp", side, str(port), "-j", "DROP")
