"""A whole installation, well unless the test says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg2
import pytest
from django.db import connection

from config.local.postgres import Postgres
from orchestrator.diagnostics import checks, probes

AN_HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not what is tested."""
    monkeypatch.setattr(probes, "SERVER_SECONDS", 20)
    monkeypatch.setattr(checks, "CHECK_SECONDS", 60)


@pytest.fixture
def mortal_postgres(transactional_db: None, postgres: Postgres) -> Iterator[Postgres]:
    """PostgreSQL that the test may stop, kill and set otherwise."""
    kept = dict(postgres.settings)
    yield postgres
    postgres.stop()
    postgres.settings = kept
    postgres.start()
    connection.close()


def restarted(postgres: Postgres, **settings: str) -> None:
    connection.close()
    postgres.stop()
    postgres.settings = settings
    postgres.start()


@pytest.fixture
def set_for_us() -> Iterator[Callable[..., None]]:
    """Sets what every new connection of our role has, until the end of the test."""
    names: list[str] = []

    def set_for_role(name: str, value: str) -> None:
        names.append(name)
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER ROLE muster SET {name} = '{value}'")

    yield set_for_role
    with connection.cursor() as cursor:
        for name in names:
            cursor.execute(f"ALTER ROLE muster RESET {name}")


def another_session() -> Any:
    return closing(psycopg2.connect(**connection.get_connection_params() | {"cursor_factory": None}))
