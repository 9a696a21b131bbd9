"""Whether workers, Beat and the tick run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery.contrib.testing.worker import start_worker
from django.db.models.functions import Now
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from config.celery import app
from orchestrator.diagnostics.checks import Level, ask
from orchestrator.doctor import workers
from orchestrator.models import Upkeep, Worker
from orchestrator.states import Status
from tests.factories import make_everything_alive, make_job, make_worker_row
from tests.orchestrator.doctor.conftest import AN_HOUR

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_queue_without_a_worker_fails() -> None:
    make_everything_alive()
    assert ask(workers.workers).level == Level.OK

    Worker.objects.filter(name="io@here").update(ended_at=Now())

    finding = ask(workers.workers)
    assert finding.level == Level.FAIL
    assert finding.msg == "No worker serves io. Live processes: default 1, io 0, control 1."


def test_a_worker_that_died_recently_is_a_warning() -> None:
    make_worker_row(lost=True, ended_at=timezone.now() - 2 * AN_HOUR)
    assert ask(workers.lost_workers).level == Level.OK

    make_worker_row(lost=True, ended_at=timezone.now(), pid=77)

    assert ask(workers.lost_workers).level == Level.WARN
    assert "io@here [77]" in ask(workers.lost_workers).msg


@pytest.fixture
def listening_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a Celery worker that listens to the broker, in a thread of this process."""
    with start_worker(app, perform_ping_check=False, shutdown_timeout=60) as worker:
        yield str(vars(worker)["hostname"])


def test_a_worker_that_the_broker_does_not_reach_is_a_warning(listening_worker: str) -> None:
    make_worker_row(name=listening_worker)
    assert ask(workers.bells).msg == "Workers that respond over the broker: 1."

    make_worker_row(name="unreachable@there")

    finding = ask(workers.bells)
    assert finding.level == Level.WARN
    assert finding.msg == "Alive, but not reachable over the broker: unreachable@there."


def test_a_beat_that_does_not_run_fails() -> None:
    assert ask(workers.beat).msg == "Beat has never run."

    tick = PeriodicTask.objects.get_or_create(name="tick", task="orchestrator.tick", interval=an_interval())[0]
    assert ask(workers.beat).level == Level.OK
    PeriodicTask.objects.update(last_run_at=timezone.now() - AN_HOUR)
    assert ask(workers.beat).level == Level.FAIL
    Upkeep.objects.create(part="tick", ran_at=timezone.now())
    assert ask(workers.beat).level == Level.OK
    PeriodicTask.objects.filter(id=tick.id).update(enabled=False)
    assert ask(workers.beat).msg == "The periodic task `tick` is disabled."


def an_interval() -> Any:
    return IntervalSchedule.objects.create(every=1, period="seconds")


def test_a_tick_that_has_stopped_fails() -> None:
    assert ask(workers.tick).msg == "No tick has run yet."

    Upkeep.objects.create(part="tick", ran_at=timezone.now())
    assert ask(workers.tick).level == Level.OK
    Upkeep.objects.update(ran_at=timezone.now() - AN_HOUR)
    assert ask(workers.tick).level == Level.FAIL


def test_workers_all_of_whose_slots_hang_do_not_serve_their_queue() -> None:
    make_everything_alive()
    make_job(Status.RUNNING, worker=Worker.objects.get(name="io@here"), deadline_at=timezone.now() - AN_HOUR)

    finding = ask(workers.workers)

    assert finding.level == Level.FAIL
    assert "Every slot of io is held" in finding.msg
