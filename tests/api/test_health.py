"""/api/health/ and /api/health/ready/."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from config.embedded import Postgres, Valkey
from orchestrator import health
from orchestrator.models import Upkeep, Worker
from tests.api.conftest import Api

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another test may hang still. Patient ones, since a busy machine is not what is tested."""
    monkeypatch.setattr(health, "CHECK_SECONDS", 20)
    monkeypatch.setattr(health, "_database", health.Probe(health._look_into_database))
    monkeypatch.setattr(health, "_broker", health.Probe(health._ping_broker))


@pytest.fixture
def mortal_postgres(transactional_db: None, postgres: Postgres) -> Iterator[Postgres]:
    """PostgreSQL that the test may kill: it runs again before the clean-up, which has a new connection."""
    yield postgres
    postgres.start()
    connection.close()


@pytest.fixture
def impatient(fresh_probes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CHECK_SECONDS", 1)


def make_worker(queue: str, **columns: Any) -> Worker:
    return Worker.objects.create(
        name=f"{queue}@here", queues=[queue], host="here", pid=1, process_started="1", **columns
    )


@pytest.fixture
def all_well() -> None:
    for queue in ("default", "io", "control"):
        make_worker(queue)
    Upkeep.objects.create(part="tick", ran_at=timezone.now())


def ready(api: Api) -> tuple[int, dict[str, Any]]:
    response = api.get("/api/health/ready/")
    return response.status_code, response.json()["checks"]


def timed(api: Api) -> tuple[tuple[int, dict[str, Any]], float]:
    began = time.monotonic()
    return ready(api), time.monotonic() - began


def failed(checks: dict[str, Any]) -> set[str]:
    return {name for name, check in checks.items() if not check["ok"]}


def test_a_process_that_answers_is_alive(api: Api, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        response = api.get("/api/health/")

    assert (response.status_code, response.json()) == (200, {"status": "alive"})


@pytest.mark.usefixtures("all_well")
def test_with_everything_there_it_is_ready(api: Api) -> None:
    status, checks = ready(api)

    assert (status, failed(checks)) == (200, set())
    assert checks["workers"]["queues"] == {"default": 1, "io": 1, "control": 1}
    assert 0 <= checks["tick"]["age_seconds"] < 5


@pytest.mark.usefixtures("all_well")
@pytest.mark.parametrize(
    "end",
    [
        {"ended_at": timezone.now()},
        {"draining_at": timezone.now()},
        {"seen_at": timezone.now() - timedelta(minutes=1)},
    ],
    ids=["ended", "draining", "silent"],
)
def test_a_queue_without_a_live_worker_is_named(api: Api, end: dict[str, Any]) -> None:
    Worker.objects.filter(name="io@here").update(**end)

    status, checks = ready(api)

    assert (status, failed(checks)) == (503, {"workers"})
    assert checks["workers"]["queues"]["io"] == 0
    assert "io" in checks["workers"]["detail"]


@pytest.mark.usefixtures("all_well")
def test_a_tick_that_has_stopped_is_noticed(api: Api) -> None:
    Upkeep.objects.update(ran_at=timezone.now() - timedelta(seconds=30))

    status, checks = ready(api)

    assert (status, failed(checks)) == (503, {"tick"})
    assert checks["tick"]["age_seconds"] > 29


def test_before_the_first_tick_it_is_not_ready(api: Api) -> None:
    status, checks = ready(api)

    assert (status, failed(checks)) == (503, {"workers", "tick"})


@pytest.mark.usefixtures("all_well")
def test_a_broker_that_is_gone_is_noticed(api: Api, valkey: Valkey) -> None:
    valkey.kill()

    status, checks = ready(api)

    assert (status, failed(checks)) == (503, {"broker"})


@pytest.mark.usefixtures("all_well", "impatient")
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_takes_calls_and_never_answers_holds_up_nobody(
    api: Api, settings: Settings, scheme: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        settings.ENV = msgspec.structs.replace(
            settings.ENV, BROKER_URL=f"{scheme}://127.0.0.1:{deaf.getsockname()[1]}//"
        )
        began = time.monotonic()
        status, checks = ready(api)
        took = time.monotonic() - began

    assert (status, failed(checks)) == (503, {"broker"})
    assert took < 3


@pytest.mark.usefixtures("all_well")
def test_a_database_that_is_gone_is_noticed(api: Api, mortal_postgres: Postgres) -> None:
    mortal_postgres.kill()

    status, checks = ready(api)

    assert (status, failed(checks)) == (503, {"database", "workers", "tick"})


@pytest.mark.usefixtures("all_well", "impatient")
def test_a_database_that_hangs_holds_up_nobody_and_is_seen_again_when_it_goes_on(api: Api, postgres: Postgres) -> None:
    assert postgres.pid
    os.kill(postgres.pid, signal.SIGSTOP)
    try:
        answers, times = zip(*(timed(api) for _ in range(3)), strict=True)
    finally:
        os.kill(postgres.pid, signal.SIGCONT)

    assert [(status, failed(checks)) for status, checks in answers] == [(503, {"database", "workers", "tick"})] * 3
    # The attempt to connect gives up after 2 s by itself. A busy machine may make any one of them slow.
    assert min(times) < 1.9
    deadline = time.monotonic() + 20
    while ready(api)[0] != 200 and time.monotonic() < deadline:
        pass
    assert ready(api)[0] == 200
