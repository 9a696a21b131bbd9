"""When a connection to PostgreSQL is asked whether it still works."""

from __future__ import annotations

from contextlib import closing

import psycopg2
import pytest
from django.conf import settings
from django.db import close_old_connections, connection

from config.postgresql import base
from config.server_urls import connection_parameters

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Each time that a statement has asked, and whether the connection worked."""
    answers: list[bool] = []
    ask = base.DatabaseWrapper.is_usable

    def noted(wrapper: base.DatabaseWrapper) -> bool:
        answers.append(ask(wrapper))
        return answers[-1]

    monkeypatch.setattr(base.DatabaseWrapper, "is_usable", noted)
    return answers


def serve_request() -> int:
    """Uses the connection as a request does; returns its process at PostgreSQL."""
    close_old_connections()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid: int = cursor.fetchone()[0]
    close_old_connections()
    return pid


def test_a_connection_that_was_used_lately_is_not_asked(asked: list[bool]) -> None:
    serve_request()
    serve_request()
    asked.clear()

    serve_request()

    assert asked == []


def test_a_connection_that_was_used_just_now_is_not_even_looked_at(
    asked: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_request()
    serve_request()
    asked.clear()
    monkeypatch.setattr(base, "LATELY_SECONDS", 0)
    monkeypatch.setattr(base, "JUST_NOW_SECONDS", 60)

    serve_request()

    assert asked == []


def test_a_connection_that_was_idle_is_asked(asked: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    serve_request()
    serve_request()
    asked.clear()
    monkeypatch.setattr(base, "JUST_NOW_SECONDS", 0)
    monkeypatch.setattr(base, "LATELY_SECONDS", 0)

    serve_request()

    assert asked == [True]


def test_a_session_that_was_ended_is_replaced_without_an_error(
    asked: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "JUST_NOW_SECONDS", 0)
    serve_request()
    pid = serve_request()
    asked.clear()
    with closing(psycopg2.connect(**connection_parameters(settings.DATABASES["default"]))) as other:
        other.autocommit = True
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    assert serve_request() != pid
    assert asked == [False]
