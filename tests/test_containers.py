"""What containers need besides: a cheap health check, and secrets that are made once."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from django.db import connection
from django.db.models.functions import Now

from config import alive, kept_secrets
from config.embedded import free_port
from orchestrator.host import host
from orchestrator.models import Upkeep, Worker
from tests import servers

Ask = Callable[..., Any]


@pytest.fixture
def ask(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs the check on the tests' database; answers None if all is well, else what it says."""
    url = urlsplit(servers.postgres.url)._replace(path=str(connection.settings_dict["NAME"])).geturl()
    monkeypatch.setattr(alive, "ENV", msgspec.structs.replace(alive.ENV, DATABASE_URL=url))

    def ask(*words: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["alive", *words])
        with pytest.raises(SystemExit) as ended:
            alive.main()
        return ended.value.code or None

    return ask


def worker(seconds_ago: float = 0, **fields: Any) -> Worker:
    fields = {"name": "io@here", "host": host(), "pid": 1, "seen_at": Now() - timedelta(seconds=seconds_ago), **fields}
    return Worker.objects.create(**fields)


def test_a_worker_that_renews_its_lease_is_alive(ask: Ask) -> None:
    worker()

    assert ask("worker") is None


@pytest.mark.parametrize("fields", [{"seconds_ago": 16}, {"host": "elsewhere"}, {"ended_at": Now()}])
def test_a_worker_that_is_silent_elsewhere_or_ended_is_not(ask: Ask, fields: dict[str, Any]) -> None:
    worker(**fields)

    assert ask("worker") == "It does not do its work."


@pytest.mark.parametrize(("seconds_ago", "said"), [(5, None), (11, "It does not do its work.")])
def test_beat_is_alive_as_long_as_ticks_are_answered(ask: Ask, seconds_ago: float, said: str | None) -> None:
    Upkeep.objects.create(part="tick", ran_at=Now() - timedelta(seconds=seconds_ago))

    assert ask("beat") == said


def test_a_database_that_is_away_is_told(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    away = msgspec.structs.replace(alive.ENV, DATABASE_URL=f"postgresql://muster@127.0.0.1:{free_port()}/muster")
    monkeypatch.setattr(alive, "ENV", away)

    assert ask("worker").startswith("The database does not tell:")


def test_a_page_that_is_served_is_alive_and_any_other_is_not(ask: Ask, live_server: Any) -> None:
    assert ask(f"{live_server.url}/api/health/") is None
    assert "404" in ask(f"{live_server.url}/nowhere/")


def test_the_check_asks_as_a_host_that_is_allowed(
    ask: Ask, live_server: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALLOWED_HOSTS = [".example.org"]
    monkeypatch.setattr(alive, "ALLOWED_HOSTS", settings.ALLOWED_HOSTS)

    assert ask(f"{live_server.url}/api/health/") is None


@pytest.fixture
def make_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    def make(**given: str) -> dict[str, str]:
        for name in ("SECRET_KEY", "POSTGRES_PASSWORD", "DATABASE_URL"):
            monkeypatch.setenv(name, given.get(name, ""))
        monkeypatch.setattr(sys, "argv", ["kept_secrets", str(tmp_path)])
        kept_secrets.main()
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    return make


def test_secrets_are_made_once_and_only_their_owner_can_read_them(
    make_secrets: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    made = make_secrets()

    assert make_secrets() == made
    assert made["database_url"] == f"postgresql://muster:{made['postgres_password']}@postgres:5432/muster"
    assert min(map(len, made.values())) >= 50
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_secrets_that_are_given_have_the_last_word(make_secrets: Callable[..., dict[str, str]]) -> None:
    make_secrets()

    given = make_secrets(SECRET_KEY="mine", POSTGRES_PASSWORD="p@ss/word")

    assert given["secret_key"] == "mine"
    assert given["postgres_password"] == "p@ss/word"
    assert given["database_url"] == "postgresql://muster:p%40ss%2Fword@postgres:5432/muster"
