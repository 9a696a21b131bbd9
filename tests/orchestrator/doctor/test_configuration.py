"""What PostgreSQL's configuration must be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest

from config.local.postgres import Postgres
from config.queues import CONTROL, declared_queues
from orchestrator.async_running import AsyncRunningJob
from orchestrator.diagnostics.checks import Level, ask
from orchestrator.doctor import configuration
from tests.orchestrator.doctor.conftest import another_session, restarted
from tests.orchestrator.workbench import DeclareKind

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("off", [None, "fsync", "full_page_writes", "synchronous_commit"])
def test_a_database_that_can_lose_commits_fails(mortal_postgres: Postgres, off: str | None) -> None:
    restarted(mortal_postgres, **({off: "off"} if off else {}))

    finding = ask(configuration.durability)

    assert finding.level == (Level.FAIL if off else Level.OK)
    assert off is None or off in finding.hint


@pytest.mark.parametrize(("allowed", "level"), [("120", Level.OK), ("60", Level.WARN)])
def test_too_few_connections_for_all_processes_are_a_warning(
    mortal_postgres: Postgres, allowed: str, level: Level
) -> None:
    restarted(mortal_postgres, max_connections=allowed)

    assert ask(configuration.connections).level == level


@pytest.mark.parametrize(
    ("queues", "env", "needed"),
    [
        # 32 threads, 16 uploads, the probe and the event streams; 2 x 3 and 32 + 3 for the workers, 3 for control, 1
        # for Beat.
        ("default:prefork:2,io:threads:32", {}, 95),
        ("default:prefork:2,io:threads:32,gpu:prefork:1", {}, 98),
        ("default:prefork:4,io:threads:8", {"WEB_THREADS": 8, "MAX_UPLOADS": 2}, 39),
    ],
)
def test_the_connections_of_all_threads_and_all_queues_are_counted(
    settings: Any, monkeypatch: pytest.MonkeyPatch, queues: str, env: dict[str, int], needed: int
) -> None:
    monkeypatch.setattr(configuration, "all_kinds", list)  # None of them on an event loop.
    settings.SERVED_QUEUES = {**declared_queues(queues), "control": CONTROL}
    settings.ENV = msgspec.structs.replace(settings.ENV, **env)

    assert configuration.connections_needed() == needed


async def waits(running: AsyncRunningJob) -> None:
    """Does nothing."""


def test_the_connections_of_an_event_loop_are_counted_where_a_kind_needs_one(
    settings: Any, monkeypatch: pytest.MonkeyPatch, kind: DeclareKind
) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, ASYNC_CONNECTIONS=10)
    monkeypatch.setattr(configuration, "all_kinds", lambda: [kind(queue="io")])
    without = configuration.connections_needed()
    monkeypatch.setattr(configuration, "all_kinds", lambda: [kind(waits, queue="io"), kind(waits, queue="io")])

    assert configuration.connections_needed() == without + 10 + 4


def test_connections_that_run_out_are_a_warning(mortal_postgres: Postgres) -> None:
    restarted(mortal_postgres, max_connections="20")

    with ExitStack() as sessions:
        for _ in range(16):
            sessions.enter_context(another_session())
        finding = ask(configuration.connections)

    assert finding.level == Level.WARN
    assert "of 17 connections are in use" in finding.msg


@pytest.mark.parametrize(("value", "level"), [("on", Level.OK), ("off", Level.FAIL)])
def test_tables_that_nobody_vacuums_are_a_warning(mortal_postgres: Postgres, value: str, level: Level) -> None:
    restarted(mortal_postgres, autovacuum=value)

    assert ask(configuration.autovacuum).level == level


@pytest.mark.parametrize(("limit", "level"), [("0", Level.OK), ("5s", Level.WARN), ("5min", Level.OK)])
def test_a_limit_that_would_cut_off_handlers_is_a_warning(
    set_for_us: Callable[..., None], limit: str, level: Level
) -> None:
    set_for_us("idle_in_transaction_session_timeout", limit)

    assert ask(configuration.idle_limit).level == level
