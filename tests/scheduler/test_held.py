"""A schedule that the limits of its owner hold back is seen wherever people look."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orchestrator.diagnostics.checks import Level
from scheduler import doctor, health, metrics
from scheduler.models import TaskSchedule
from tests.api import Api
from tests.scheduler.factories import MINUTE, MONDAY, make_job_schedule

pytestmark = pytest.mark.django_db

WHY = "It waits: 'ada' has as many unfinished jobs as allowed."


@pytest.fixture
def held() -> TaskSchedule:
    """For an hour, with seven occurrences that wait."""
    schedule = make_job_schedule(name="nightly", owner="ada")
    TaskSchedule.objects.update(
        held_since=timezone.now() - timedelta(hours=1),
        last_error=WHY,
        queued=[MONDAY + number * MINUTE for number in range(7)],
    )
    return schedule


def values() -> dict[str, float]:
    return {sample.name: sample.value for metric in metrics.schedules() for sample in metric.samples}


def test_the_doctor_names_it_and_whose_it_is(held: TaskSchedule) -> None:
    finding = doctor.held_schedules.look()

    assert finding.level == Level.WARN
    assert f"{held.id} of 'ada'" in finding.msg
    assert doctor.stopped_schedules.look().level == Level.OK


def test_for_a_moment_it_is_nothing_to_speak_of(held: TaskSchedule) -> None:
    TaskSchedule.objects.update(held_since=timezone.now())

    assert doctor.held_schedules.look().level == Level.OK


def test_readiness_counts_it_and_is_ready(held: TaskSchedule) -> None:
    found = health.schedules()

    assert (found["ok"], found["held"]) == (True, 1)
    assert "held back by limits" in found["detail"]


def test_metrics_count_it_apart_from_those_that_have_stopped(held: TaskSchedule) -> None:
    assert (values()["muster_schedules_held"], values()["muster_schedules_stopped"]) == (1, 0)

    TaskSchedule.objects.update(held_since=None, next_run_at=None)
    assert (values()["muster_schedules_held"], values()["muster_schedules_stopped"]) == (0, 1)


def test_the_api_says_since_when_and_what_waits(held: TaskSchedule, api: Api) -> None:
    shown = api.get(f"/task-schedules/{held.id}/").json()

    assert shown["held_since"] is not None
    assert (len(shown["queued"]), shown["last_error"]) == (7, WHY)


def test_the_admin_shows_what_waits_before_what_ran(held: TaskSchedule, admin_client: Client) -> None:
    listed = admin_client.get(reverse("admin:scheduler_taskschedule_changelist")).content.decode()
    page = admin_client.get(reverse("admin:scheduler_taskschedule_change", args=[held.id])).content.decode()

    assert "HELD" in listed
    assert page.count("WAITING") == 6
    assert "2 before these" in page
    assert page.index("12:06:00") < page.index("12:02:00")
    assert "has as many unfinished jobs as allowed" in page


def test_the_admins_home_page_tells_of_it(held: TaskSchedule, admin_client: Client) -> None:
    page = admin_client.get(reverse("admin:index")).content.decode()

    assert "The schedule nightly is held back" in page
