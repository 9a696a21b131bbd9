"""Schedules declared in code: what a deploy writes, and leaves as operators have it."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler import declarations
from scheduler.models import TaskSchedule
from scheduler.services.declared import sync
from scheduler.services.schedules import DeclaredInCode, change_schedule, delete_schedule, set_enabled
from tests.scheduler.factories import make_job_schedule

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declarations, "declared", {})


def deploy(**options: Any) -> TaskSchedule:
    """As a release that declares nothing else would."""
    declarations.declared.clear()
    declarations.schedule("nightly", "demo.slices", **{"cron": "0 3 * * *"} | options)
    sync(declarations.declared.values())
    return TaskSchedule.objects.get(name="nightly")


def test_a_declared_schedule_is_created_once() -> None:
    first, second = deploy(timezone="Europe/Berlin"), deploy(timezone="Europe/Berlin")

    assert first.id == second.id
    assert (first.cron, first.timezone, first.owner, first.payload) == ("0 3 * * *", "Europe/Berlin", "", {})
    assert first.next_run_at is not None


def test_a_later_declaration_is_followed_where_nobody_has_changed_anything() -> None:
    deploy()

    followed = deploy(cron="0 4 * * *", priority=1)

    assert (followed.cron, followed.priority) == ("0 4 * * *", 1)


def test_what_operators_changed_is_not_undone_by_the_next_deploys() -> None:
    schedule = deploy()
    change_schedule(schedule.id, {"cron": None, "interval": 60, "enabled": False})

    deploy(cron="0 4 * * *", priority=1)
    kept = deploy(cron="0 4 * * *", priority=1)

    assert (kept.interval, kept.cron, kept.enabled, kept.priority) == (60, None, False, 1)


def test_a_change_back_to_what_is_declared_is_none() -> None:
    schedule = deploy()
    change_schedule(schedule.id, {"priority": 1})
    change_schedule(schedule.id, {"priority": 5})

    assert deploy(priority=3).priority == 3


def test_one_that_is_no_longer_declared_is_paused_and_goes_on_when_it_is_again() -> None:
    deploy()

    sync([])
    paused = TaskSchedule.objects.get()
    assert (paused.enabled, paused.next_run_at) == (False, None)
    assert deploy().enabled

    set_enabled(paused.id, False)
    sync([])
    assert not deploy().enabled


def test_a_declared_schedule_cannot_be_deleted_while_it_is_declared() -> None:
    schedule = deploy()

    with pytest.raises(DeclaredInCode, match="pause it"):
        delete_schedule(schedule.id)

    sync([])
    delete_schedule(schedule.id)
    assert not TaskSchedule.objects.exists()


def test_a_schedule_that_has_the_name_already_becomes_the_declared_one_as_it_is() -> None:
    made = make_job_schedule(name="nightly", interval=60)

    adopted = deploy()

    assert (adopted.id, adopted.interval, adopted.cron) == (made.id, 60, None)


@pytest.mark.parametrize(
    "options", [{"cron": "99 * * * *"}, {"colour": "red"}, {"interval": 60}, {"timezone": "Mars"}]
)
def test_a_bad_declaration_is_refused_when_it_is_made(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        deploy(**options)


def test_a_name_is_declared_once() -> None:
    declarations.schedule("nightly", "demo.slices", cron="0 3 * * *")
    declarations.schedule("nightly", "demo.slices", cron="0 3 * * *")

    with pytest.raises(ValueError, match="declared twice"):
        declarations.schedule("nightly", "demo.slices", cron="0 4 * * *")
