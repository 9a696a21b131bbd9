"""What containers need besides: a cheap health check, and secrets that are made once."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import psycopg2.errors
import pytest
from django.db import connection
from django.db.models.functions import Now

from config import database_roles, healthcheck
from config.local import secret_files
from config.local.ports import free_port
from config.server_urls import database
from orchestrator.host import host
from orchestrator.models import Upkeep, Worker
from tests import servers

Ask = Callable[..., Any]


@pytest.fixture
def ask(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs the check on the tests' database; returns None if it is healthy, else the message."""
    url = urlsplit(servers.postgres.url)._replace(path=str(connection.settings_dict["NAME"])).geturl()
    monkeypatch.setattr(healthcheck, "DATABASES", {"default": database(url, {})})

    def ask(*words: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["healthcheck", *words])
        with pytest.raises(SystemExit) as ended:
            healthcheck.main()
        return ended.value.code or None

    return ask


def worker(seconds_ago: float = 0, **fields: Any) -> Worker:
    fields = {"name": "io@here", "host": host(), "pid": 1, "seen_at": Now() - timedelta(seconds=seconds_ago), **fields}
    return Worker.objects.create(**fields)


def test_a_worker_that_renews_its_lease_is_healthy(ask: Ask) -> None:
    worker()

    assert ask("worker") is None


@pytest.mark.parametrize("fields", [{"seconds_ago": 16}, {"host": "elsewhere"}, {"ended_at": Now()}])
def test_a_worker_that_is_late_elsewhere_or_ended_is_unhealthy(ask: Ask, fields: dict[str, Any]) -> None:
    worker(**fields)

    assert ask("worker") == "unhealthy"


@pytest.mark.parametrize(
    ("served", "elsewhere", "said"),
    [
        (["default", "io"], [], None),
        (["default"], [], "unhealthy"),
        (["default"], ["io"], None),
        (["io"], ["io"], "unhealthy"),
        ([], ["default", "io"], None),
    ],
)
def test_the_workers_of_a_container_are_healthy_when_each_of_its_queues_is_served(
    ask: Ask, served: list[str], elsewhere: list[str], said: str | None
) -> None:
    for queue in served:
        worker(queues=[queue])
        worker(queues=["default", "io"], ended_at=Now())

    assert ask("workers", *elsewhere) == said


@pytest.mark.parametrize(("seconds_ago", "said"), [(5, None), (11, "unhealthy")])
def test_beat_is_healthy_as_long_as_ticks_run(ask: Ask, seconds_ago: float, said: str | None) -> None:
    Upkeep.objects.create(part="tick", ran_at=Now() - timedelta(seconds=seconds_ago))

    assert ask("beat") == said


def test_an_unreachable_database_is_reported(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    away = database(f"postgresql://muster@127.0.0.1:{free_port()}/muster", {})
    monkeypatch.setattr(healthcheck, "DATABASES", {"default": away})

    assert ask("worker").startswith("The database query failed:")


def test_a_page_that_is_served_is_healthy_and_any_other_is_not(ask: Ask, live_server: Any) -> None:
    assert ask(f"{live_server.url}/api/health/") is None
    assert "404" in ask(f"{live_server.url}/nowhere/")


def test_the_check_sends_an_allowed_host(
    ask: Ask, live_server: Any, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ALLOWED_HOSTS = [".example.org"]
    monkeypatch.setattr(healthcheck, "ALLOWED_HOSTS", settings.ALLOWED_HOSTS)

    assert ask(f"{live_server.url}/api/health/") is None


@pytest.fixture
def make_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    def make(**given: str) -> dict[str, str]:
        for name in ("SECRET_KEY", "POSTGRES_PASSWORD", "DATABASE_URL", "FLOWER_BASIC_AUTH"):
            monkeypatch.setenv(name, given.get(name, ""))
        monkeypatch.setattr(sys, "argv", ["secret_files", str(tmp_path)])
        secret_files.main()
        return {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.glob("*/*")}

    return make


def test_secrets_are_made_once_and_only_their_owner_can_read_them(
    make_secrets: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    made = make_secrets()

    assert make_secrets() == made
    readable = {
        str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*") if stat.S_IMODE(path.stat().st_mode) != 0o600
    }
    assert readable == {"valkey/valkey.conf"}  # It alone is read by another user, in a volume of its own.
    assert stat.S_IMODE((tmp_path / "valkey").stat().st_mode) == 0o755
    assert min(map(len, made.values())) >= 50


def test_each_secret_lies_where_it_is_read(make_secrets: Callable[..., dict[str, str]]) -> None:
    made = make_secrets()
    app, owner = urlsplit(made["app/database_url"]), urlsplit(made["migrate/database_url"])

    assert (app.username, owner.username) == ("muster_app", "muster_owner")
    assert urlsplit(made["roles/superuser_url"]).password == made["postgres/postgres_password"]
    assert len({app.password, owner.password, made["postgres/postgres_password"]}) == 3
    assert made["valkey/valkey.conf"] == f"requirepass {urlsplit(made['app/broker_url']).password}\n"
    elsewhere = "".join(text for name, text in made.items() if not name.startswith(("postgres", "roles")))
    assert made["postgres/postgres_password"] not in elsewhere
    assert len({made[f"{reader}/secret_key"] for reader in ("app", "migrate", "flower")}) == 3


def test_given_secrets_take_precedence(make_secrets: Callable[..., dict[str, str]]) -> None:
    make_secrets()

    given = make_secrets(SECRET_KEY="mine", POSTGRES_PASSWORD="p@ss/word", FLOWER_BASIC_AUTH="ada:secret")

    assert given["app/secret_key"] == "mine"
    assert given["postgres/postgres_password"] == "p@ss/word"
    assert given["roles/superuser_url"] == "postgresql://muster:p%40ss%2Fword@postgres:5432/muster"
    assert given["flower/basic_auth"] == "ada:secret"


def test_an_external_database_is_used_by_every_process(make_secrets: Callable[..., dict[str, str]]) -> None:
    given = make_secrets(DATABASE_URL="postgresql://me@db.example/muster")

    assert given["app/database_url"] == given["migrate/database_url"] == "postgresql://me@db.example/muster"


@pytest.fixture
def roles() -> Iterator[tuple[str, str, str]]:
    """The URLs of the superuser, of the owner and of the application's role in a new database."""
    name = "roles_database"
    superuser = urlsplit(servers.postgres.url)
    execute(superuser.geturl(), f"CREATE DATABASE {name}")
    location = f"{superuser.hostname}:{superuser.port}/{name}"
    yield (
        superuser._replace(path=f"/{name}").geturl(),
        f"postgresql://muster_owner:owner@{location}",
        f"postgresql://muster_app:app@{location}",
    )
    execute(superuser.geturl(), f"DROP DATABASE {name} WITH (FORCE)")
    execute(superuser.geturl(), "DROP ROLE IF EXISTS muster_owner")
    execute(superuser.geturl(), "DROP ROLE IF EXISTS muster_app")


def execute(url: str, sql: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []


def test_the_application_reads_and_writes_rows_and_changes_no_table(roles: tuple[str, str, str]) -> None:
    superuser, owner, app = roles
    execute(superuser, "CREATE TABLE older (id int)")
    database_roles.make_roles(*roles)
    database_roles.make_roles(*roles)
    execute(owner, "CREATE TABLE newer (id int GENERATED BY DEFAULT AS IDENTITY)")

    execute(app, "INSERT INTO newer DEFAULT VALUES; INSERT INTO older VALUES (1); CREATE TEMP TABLE mine (id int)")

    assert execute(app, "SELECT count(*) FROM newer, older") == [(1,)]
    for forbidden in ("DROP TABLE older", "ALTER TABLE newer ADD more int", "CREATE TABLE other (id int)"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            execute(app, forbidden)
    execute(owner, "ALTER TABLE older ADD more int")
    assert execute(superuser, "SELECT rolname FROM pg_roles WHERE rolsuper AND rolname LIKE 'muster_%'") == []


def test_an_external_database_gets_no_roles() -> None:
    own = "postgresql://me@127.0.0.1:1/mine"

    database_roles.make_roles("postgresql://nobody@127.0.0.1:1/none", own, own)  # Nothing is connected to.


@pytest.mark.parametrize(
    ("allowed", "host", "known"),
    [
        ("localhost", "localhost", True),
        ("localhost", "evil.example", False),
        ("[::1]", "::1", True),
        (".example.org", "flower.example.org", True),
        (".example.org", "example.org.evil", False),
        ("*", "anything", True),
    ],
)
def test_flower_serves_known_hosts_only(allowed: str, host: str, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from config import flower_site

    monkeypatch.setattr(flower_site, "ALLOWED_HOSTS", [allowed])

    assert flower_site.is_known(host) == known
