"""How many schedules a client may have, and how often they may run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.utils import timezone
from pytest_django import Settings

from orchestrator.models import Job
from orchestrator.states import Status
from scheduler.models import Task, TaskSchedule
from tests.api import Api, pointers
from tests.scheduler.factories import make_task

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("asks_for_tokens")]

HOURLY: dict[str, Any] = {"a": 1, "b": 2, "interval": 3_600}
# Of each hour every second minute's first second, but of the last minute the second one, too.
ODD_PLACES = ",".join(str(place) for place in [*range(1, 60, 2), 60])
SPARSE_AT_FIRST = (
    f"FREQ=HOURLY;BYMINUTE={','.join(str(minute) for minute in range(0, 60, 2))};BYSECOND=0,1;BYSETPOS={ODD_PLACES}"
)


@pytest.mark.parametrize(
    "often",
    [
        {"interval": 59},
        {"rrule": "FREQ=DAILY;BYHOUR=0;BYMINUTE=0;BYSECOND=0,1"},
        {"rrule": SPARSE_AT_FIRST, "scheduled_at": "2096-04-02T12:00:00Z"},
    ],
)
def test_a_schedule_that_runs_too_often_takes_a_permission(often: dict[str, Any], as_user: Callable[..., Api]) -> None:
    body = {"a": 1, "b": 2} | often

    refused = as_user("ada").post("/task-schedules/", body)
    allowed = as_user("grace", permissions=["exceed_client_limits"]).post("/task-schedules/", body)

    assert (refused.status_code, pointers(refused)) == (400, [f"/{next(iter(often))}"])
    assert "at least 60 s apart" in refused.json()["detail"]
    assert allowed.status_code == 201
    assert not TaskSchedule.objects.filter(owner="ada").exists()


def test_nor_may_it_be_changed_so(as_user: Callable[..., Api]) -> None:
    ada = as_user()
    url = ada.post("/task-schedules/", HOURLY).json()["url"]

    assert pointers(ada.send("PATCH", url, b'{"interval": 1}')) == ["/interval"]
    assert pointers(ada.send("PATCH", url, b'{"priority": 0}')) == ["/priority"]
    assert TaskSchedule.objects.get().interval == 3_600


def test_every_minute_and_a_single_run_are_allowed(as_user: Callable[..., Api]) -> None:
    ada = as_user()

    for body in ({"cron": "* * * * *"}, {"interval": 1, "schedule_x_times": 1}):
        assert ada.post("/task-schedules/", {"a": 1, "b": 2} | body).status_code == 201


def test_one_schedule_too_many_is_refused_until_one_is_deleted(
    as_user: Callable[..., Api], settings: Settings
) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, CLIENT_MAX_SCHEDULES=1)
    ada = as_user()
    url = ada.post("/task-schedules/", HOURLY).json()["url"]

    refused = ada.post("/task-schedules/", HOURLY)
    ada.delete(url)

    assert (refused.status_code, refused.json()["type"]) == (429, "urn:muster:problem:quota-exceeded")
    assert ada.post("/task-schedules/", HOURLY).status_code == 201


def test_a_backfill_and_a_run_count_as_the_jobs_that_they_make(
    as_user: Callable[..., Api], settings: Settings
) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, CLIENT_MAX_UNFINISHED=2)
    ada, now = as_user(), timezone.now().replace(microsecond=0)
    url = ada.post("/task-schedules/", HOURLY | {"scheduled_at": (now - timedelta(hours=4)).isoformat()}).json()["url"]
    TaskSchedule.objects.update(next_run_at=now + timedelta(hours=1))

    def backfilled(hours: int, **fields: Any) -> int:
        span = {"from": (now - timedelta(hours=hours)).isoformat(), "to": (now - timedelta(minutes=1)).isoformat()}
        return int(ada.post(f"{url}backfill/", span | fields).status_code)

    assert (backfilled(3), backfilled(3, dry_run=True)) == (429, 200)
    assert not Task.objects.exists()
    assert (backfilled(2), ada.post(f"{url}run-now/").status_code) == (202, 429)


def test_a_task_that_runs_again_counts_as_one_more(as_user: Callable[..., Api], settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, CLIENT_MAX_UNFINISHED=1)
    ada = as_user()
    task = make_task(owner="ada")
    Job.objects.filter(id=task.job_id).update(status=Status.CANCELLED, ready=False, finished_at=timezone.now())
    ada.post("/tasks/", {"a": 1, "b": 2})

    assert ada.post(f"/tasks/{task.id}/run/").status_code == 429


def test_what_a_schedule_makes_up_for_at_once_counts_as_unfinished_jobs(
    as_user: Callable[..., Api], settings: Settings
) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, CLIENT_MAX_UNFINISHED=2)
    since = (timezone.now() - timedelta(hours=2, minutes=30)).isoformat()
    body = HOURLY | {"scheduled_at": since, "misfire_policy": "all"}
    ada = as_user()

    refused = ada.post("/task-schedules/", body)
    twice = ada.post("/task-schedules/", body | {"schedule_x_times": 2})
    latest = ada.post("/task-schedules/", body | {"misfire_policy": "latest"})

    assert (refused.status_code, twice.status_code, latest.status_code) == (429, 201, 201)
