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

from config.local.postgres import Postgres
from config.local.valkey import Valkey
from orchestrator.diagnostics import probes, readiness
from orchestrator.diagnostics.probes import Probe
from orchestrator.models import Kind, Upkeep, Worker
from orchestrator.rollups import writing
from orchestrator.states import Status
from tests.api import Api
from tests.factories import make_everything_alive, make_job, make_worker_row

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def fresh_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another test may hang still. Patient ones, since a busy machine is not what is tested."""
    monkeypatch.setattr(readiness, "CHECK_SECONDS", 20)
    monkeypatch.setattr(probes, "SERVER_SECONDS", 20)
    monkeypatch.setattr(readiness, "database_probe", Probe(readiness.look_into_database))
    monkeypatch.setattr(readiness, "broker_probe", Probe(readiness.ask_broker))


@pytest.fixture
def mortal_postgres(transactional_db: None, postgres: Postgres) -> Iterator[Postgres]:
    """PostgreSQL that the test may kill: it runs again before the clean-up, which has a new connection."""
    yield postgres
    postgres.start()
    connection.close()


@pytest.fixture
def impatient(fresh_probes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "CHECK_SECONDS", 1)
    monkeypatch.setattr(probes, "SERVER_SECONDS", 1)


@pytest.fixture
def all_well() -> None:
    make_everything_alive()


def ready(api: Api) -> tuple[int, dict[str, Any]]:
    response = api.get("/api/health/ready/")
    return response.status_code, response.json()["checks"]


def timed(api: Api) -> tuple[tuple[int, dict[str, Any]], float]:
    began = time.monotonic()
    return ready(api), time.monotonic() - began


def failed(checks: dict[str, Any]) -> set[str]:
    return {name for name, check in checks.items() if not check["ok"]}


def test_a_process_that_responds_is_healthy(api: Api, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        response = api.get("/api/health/")

    assert (response.status_code, response.json()) == (200, {"status": "healthy"})


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
    ids=["ended", "draining", "late"],
)
def test_a_queue_without_a_live_worker_is_named(api: Api, end: dict[str, Any]) -> None:
    Worker.objects.filter(name="io@here").update(**end)

    status, checks = ready(api)

    assert (status, failed(checks)) == (503, {"workers"})
    assert checks["workers"]["queues"]["io"] == 0
    assert "io" in checks["workers"]["detail"]


@pytest.mark.usefixtures("all_well")
def test_a_queue_that_is_not_declared_here_is_named_once_jobs_wait_in_it(api: Api) -> None:
    Kind.objects.create(name="demo.slices", queue="gpu")
    make_job(ready=False)
    assert ready(api)[0] == 200

    make_job()

    status, checks = ready(api)
    assert (status, failed(checks)) == (503, {"workers"})
    assert checks["workers"]["queues"]["gpu"] == 0
    assert checks["workers"]["detail"] == (
        "No worker serves gpu. Jobs wait in gpu, and QUEUES does not declare it here."
    )

    make_worker_row("gpu")
    assert ready(api)[0] == 200


@pytest.mark.usefixtures("all_well")
def test_a_queue_all_of_whose_slots_hang_is_not_ready(api: Api) -> None:
    worker = Worker.objects.get(name="io@here")
    Worker.objects.filter(id=worker.id).update(slots=2)
    overdue: dict[str, Any] = {"worker": worker, "deadline_at": timezone.now() - timedelta(seconds=10)}
    make_job(Status.RUNNING, **overdue)
    make_job(Status.RUNNING, worker=worker, deadline_at=timezone.now() + timedelta(hours=1))

    status, checks = ready(api)
    assert (status, checks["workers"]["hung"]) == (200, {"io": 1})

    make_job(Status.RUNNING, **overdue)

    status, checks = ready(api)
    assert (status, failed(checks)) == (503, {"workers"})
    assert "Every slot of io" in checks["workers"]["detail"]


@pytest.mark.usefixtures("all_well")
def test_a_group_of_overdue_jobs_holds_no_more_slots_than_its_worker_has(api: Api) -> None:
    stuck = Worker.objects.get(name="io@here")
    make_worker_row("io")
    for _ in range(3):
        make_job(Status.RUNNING, worker=stuck, deadline_at=timezone.now() - timedelta(seconds=10))

    status, checks = ready(api)

    assert (status, checks["workers"]["hung"]) == (200, {"io": 1})


@pytest.mark.usefixtures("all_well")
def test_kinds_that_keep_failing_are_counted_and_leave_it_ready(api: Api) -> None:
    Kind.objects.get_or_create(name="demo.slices", defaults={"queue": "io"})
    at = timezone.now() - timedelta(seconds=20)
    for _ in range(3):
        make_job(Status.FAILED, error="no", started_at=at, finished_at=at)
    Upkeep.objects.create(part="rollups", ran_at=timezone.now() - timedelta(seconds=40))
    writing.roll_up()

    status, checks = ready(api)

    assert (status, failed(checks)) == (200, set())
    assert checks["kinds"]["failing"] == 1


@pytest.mark.usefixtures("all_well")
def test_a_tick_that_has_stopped_makes_it_not_ready(api: Api) -> None:
    Upkeep.objects.update(ran_at=timezone.now() - timedelta(seconds=30))

    status, checks = ready(api)

    assert (status, failed(checks)) == (503, {"tick"})
    assert checks["tick"]["age_seconds"] > 29


def test_before_the_first_tick_it_is_not_ready(api: Api) -> None:
    status, checks = ready(api)

    assert (status, failed(checks)) == (503, {"workers", "tick"})


@pytest.mark.usefixtures("all_well")
def test_a_broker_that_is_gone_makes_it_not_ready(api: Api, valkey: Valkey) -> None:
    valkey.kill()

    status, checks = ready(api)

    assert (status, failed(checks)) == (503, {"broker"})


@pytest.mark.usefixtures("all_well", "impatient")
@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_never_responds_delays_readiness_by_a_second_at_most(
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
def test_a_database_that_is_gone_makes_it_not_ready(api: Api, mortal_postgres: Postgres) -> None:
    mortal_postgres.kill()

    status, checks = ready(api)

    assert (status, failed(checks)) == (503, {"database", "workers", "tick"})


@pytest.mark.usefixtures("all_well", "impatient")
def test_a_database_that_hangs_delays_nothing_and_is_ready_again_when_it_resumes(api: Api, postgres: Postgres) -> None:
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
