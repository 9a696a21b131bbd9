"""Connections to the database, the broker and the cache: where they lead, and when the kernel gives them up."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from amqp.transport import TCPTransport
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from config import settings
from config.celery import app
from config.environment_variables import read_environment
from config.local.ports import free_port
from config.server_urls import connection_parameters, database
from orchestrator.diagnostics.probes import impatient_connection
from orchestrator.worker.lease import separate_connection
from tests import servers

LIMITS = {
    "tcp_user_timeout": "5000",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
}
# What PostgreSQL says of its own end.
LIMITS_OF_THE_SERVER = {
    "tcp_user_timeout": "5000",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "2s",
}
SOCKET_LIMITS = {
    socket.TCP_USER_TIMEOUT: 5_000,
    socket.TCP_KEEPIDLE: 5,
    socket.TCP_KEEPINTVL: 2,
    socket.TCP_KEEPCNT: 3,
}


def limits_of(options: Any) -> dict[str, str]:
    return {name: str(options.get(name)) for name in LIMITS}


def limits_of_the_server(made: Any) -> dict[str, str]:
    with made.cursor() as cursor:
        return {name: shown(cursor, name) for name in LIMITS_OF_THE_SERVER}


def shown(cursor: Any, parameter: str) -> str:
    cursor.execute(f"SHOW {parameter}")
    [value] = cursor.fetchone()
    return str(value)


@pytest.mark.django_db
def test_every_connection_to_postgresql_is_closed_soon_when_packets_vanish() -> None:
    connection.ensure_connection()
    with closing(separate_connection()) as separate:
        separate.ensure_connection()
        made = [connection.connection, separate.connection]
        assert [limits_of(each.info.dsn_parameters) for each in made] == [LIMITS, LIMITS]
        assert [limits_of_the_server(each) for each in made] == [LIMITS_OF_THE_SERVER] * 2


@pytest.mark.django_db(transaction=True)
def test_the_probe_of_readiness_has_the_same_limits() -> None:
    with impatient_connection():
        connection.ensure_connection()
        assert limits_of(connection.connection.info.dsn_parameters) == LIMITS
        assert limits_of_the_server(connection) == LIMITS_OF_THE_SERVER


@pytest.mark.django_db(transaction=True)
def test_the_timeouts_of_a_probe_end_with_it() -> None:
    connection.close()
    with impatient_connection():
        assert timeout_of_statements() == "5s"

    assert timeout_of_statements() == "0"


def timeout_of_statements() -> str:
    with connection.cursor() as cursor:
        return shown(cursor, "statement_timeout")


def test_programs_without_django_connect_in_the_same_way() -> None:
    with closing(psycopg2.connect(**connection_parameters(settings.DATABASES["default"]))) as made:
        assert limits_of(made.info.dsn_parameters) == LIMITS
        assert limits_of_the_server(made) == LIMITS_OF_THE_SERVER


def test_the_url_overrides_the_limits() -> None:
    url = "postgresql://muster@h/db?tcp_user_timeout=9000&keepalives_idle=60"

    options = database(url, settings.DATABASE_TCP)["OPTIONS"]

    assert (options["tcp_user_timeout"], options["keepalives_idle"]) == ("9000", "60")
    assert options["keepalives_count"] == 3
    assert "-c tcp_user_timeout=9000 -c tcp_keepalives_idle=60 -c tcp_keepalives_interval=2" in options["options"]


def test_the_url_overrides_the_limits_of_the_server_too() -> None:
    url = f"{servers.postgres.url}?options=-c%20tcp_keepalives_idle%3D50%20-c%20client_connection_check_interval%3D0"

    with closing(psycopg2.connect(**connection_parameters(database(url, settings.DATABASE_TCP)))) as made:
        assert limits_of_the_server(made) == LIMITS_OF_THE_SERVER | {
            "tcp_keepalives_idle": "50",
            "client_connection_check_interval": "0",
        }


def test_the_broker_and_the_cache_have_the_same_limits() -> None:
    ours: Any = cache
    with app.connection_for_write() as link, link.channel() as opened:
        channel: Any = opened
        broker = channel.client.connection_pool.get_connection()._sock
        kept = ours._cache.get_client().connection_pool.get_connection()._sock
        for sock in (broker, kept):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert {name: sock.getsockopt(socket.IPPROTO_TCP, name) for name in SOCKET_LIMITS} == SOCKET_LIMITS


def test_rabbitmq_has_them_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sock:
        transport: Any = TCPTransport("127.0.0.1", socket_settings=settings.SOCKET_TCP)
        transport.sock = sock
        transport._set_socket_options(transport.socket_settings)

        assert {name: sock.getsockopt(socket.IPPROTO_TCP, name) for name in SOCKET_LIMITS} == SOCKET_LIMITS


@pytest.mark.parametrize(
    ("place", "host", "port"),
    [
        ("h", "h", ""),
        ("h:1", "h", "1"),
        ("h1:1,h2:2", "h1,h2", "1,2"),
        ("h1,h2", "h1,h2", ""),
        ("h1,h2:5433", "h1,h2", ",5433"),
        ("[::1]:1,[fe80::1]", "::1,fe80::1", "1,"),
        ("%2Fvar%2FRun", "/var/Run", ""),
        ("", "", ""),
    ],
)
def test_hosts_are_given_as_libpq_takes_them(place: str, host: str, port: str) -> None:
    given = database(f"postgresql://muster:p%40ss@{place}/db?target_session_attrs=read-write", {})

    assert (given["HOST"], given["PORT"]) == (host, port)
    assert (given["USER"], given["PASSWORD"], given["NAME"]) == ("muster", "p@ss", "db")
    assert given["OPTIONS"]["target_session_attrs"] == "read-write"


def test_the_host_that_responds_is_used() -> None:
    user, _, answers = servers.postgres.url.partition("@")
    url = f"{user}@127.0.0.1:{free_port()},{answers}?target_session_attrs=read-write"

    with closing(psycopg2.connect(**connection_parameters(database(url, {})))) as made:
        assert made.info.port == servers.postgres.port


@pytest.mark.parametrize("place", ["h:port", "h:0", "h:70000", "h1:1,h2:x", "pass@word:1:2", "[::1"])
def test_an_invalid_address_is_refused_with_the_valid_forms(place: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="host1:port1,host2:port2") as refused:
        database(f"postgresql://muster:secret@{place}/db", {})

    assert "secret" not in str(refused.value)


def test_limits_that_would_close_every_connection_are_refused() -> None:
    for name in ("TCP_USER_TIMEOUT_SECONDS", "TCP_KEEPALIVE_IDLE_SECONDS", "TCP_KEEPALIVE_PROBES"):
        with pytest.raises(ImproperlyConfigured, match=name):
            read_environment({"SECRET_KEY": "x" * 32, name: "0"})
