"""A schedule's `on_failure`: notifications that tell when one of its jobs has failed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from orchestrator.kinds import Kind
from orchestrator.models import Delivery, Job, Notification
from orchestrator.notifications import services
from orchestrator.worker.process import WorkerProcess
from scheduler.models import TaskSchedule
from scheduler.recurrence.rules import BadRecurrence
from scheduler.services.firing import fire_due
from scheduler.services.schedules import change_schedule
from tests.orchestrator.workbench import DeclareKind, returns_nothing, run
from tests.scheduler.factories import MINUTE, MONDAY, make_job_schedule

pytestmark = pytest.mark.django_db

UNKNOWN = UUID("01980c5e-7a00-7000-8000-000000000000")


def raises(running: Any) -> None:
    raise ValueError("no")


def make_notification(**columns: Any) -> Notification:
    notification = Notification(
        **{"name": "on call", "via": "mail", "target": "ada@example.com", "digest_seconds": 60, "automatic": False}
        | columns
    )
    services.create(notification)
    return notification


def failing_schedule(kind: Kind, *told: Notification) -> TaskSchedule:
    return make_job_schedule(kind=kind.name, payload={}, on_failure=[each.id for each in told])


def run_dry(kind: Kind, worker: WorkerProcess) -> None:
    while run(kind, worker):
        pass


def test_a_failed_job_of_the_schedule_is_told_once(kind: DeclareKind, worker: WorkerProcess) -> None:
    failing = kind(raises, max_attempts=1)
    on_call, everything = make_notification(), make_notification(automatic=True)
    failing_schedule(failing, on_call, everything)

    fire_due(now=MONDAY)
    run_dry(failing, worker)

    job = Job.objects.get(kind=failing.name)
    told = Delivery.objects.order_by("notification_id").values_list("notification_id", "job_id", "type")
    assert list(told) == [(on_call.id, job.id, "job.failed"), (everything.id, job.id, "job.failed")]


def test_jobs_of_others_and_jobs_that_complete_are_not_told(kind: DeclareKind, worker: WorkerProcess) -> None:
    failing, completing = kind(raises, max_attempts=1), kind(returns_nothing)
    on_call = make_notification()
    failing_schedule(failing)
    failing_schedule(completing, on_call)

    fire_due(now=MONDAY)
    run_dry(failing, worker)
    run_dry(completing, worker)

    assert not Delivery.objects.exists()


def test_it_tells_of_failures_even_if_it_is_otherwise_about_other_ends(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    failing = kind(raises, max_attempts=1)
    failing_schedule(failing, make_notification(statuses=["COMPLETED"]))

    fire_due(now=MONDAY)
    run_dry(failing, worker)

    assert Delivery.objects.count() == 1


def test_what_the_schedule_says_when_the_job_fails_counts(kind: DeclareKind, worker: WorkerProcess) -> None:
    failing = kind(raises, max_attempts=1)
    schedule = failing_schedule(failing)
    fire_due(now=MONDAY)

    change_schedule(schedule.id, {"on_failure": [make_notification().id]})
    run_dry(failing, worker)

    assert Delivery.objects.count() == 1


def test_a_notification_that_was_deleted_or_paused_tells_nothing(kind: DeclareKind, worker: WorkerProcess) -> None:
    failing = kind(raises, max_attempts=1)
    deleted, paused = make_notification(), make_notification()
    schedule = failing_schedule(failing, deleted, paused)
    services.delete(deleted.id)
    services.change(paused.id, {"enabled": False})

    fire_due(now=MONDAY)
    run_dry(failing, worker)

    assert not Delivery.objects.exists()
    change_schedule(schedule.id, {"description": "It can still be changed."})


def test_an_unknown_notification_is_refused_and_named(db: None) -> None:
    schedule = make_job_schedule(MONDAY + MINUTE)

    with pytest.raises(BadRecurrence, match=str(UNKNOWN)) as refused:
        change_schedule(schedule.id, {"on_failure": [make_notification().id, UNKNOWN]})

    assert refused.value.fields == ("on_failure/1",)
