"""What `manage.py doctor` finds of the schedules."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from orchestrator.diagnosis import Level
from scheduler import doctor
from scheduler.models import TaskSchedule
from tests.scheduler.desk import make_schedule

pytestmark = pytest.mark.django_db


def test_a_schedule_that_is_due_and_not_fired_fails() -> None:
    schedule = make_schedule()
    assert doctor.schedules.look().level == Level.OK

    TaskSchedule.objects.update(next_run_at=timezone.now() - timedelta(hours=1))

    finding = doctor.schedules.look()
    assert finding.level == Level.FAIL
    assert str(schedule.id) in finding.found


def test_a_paused_schedule_is_not_overdue() -> None:
    make_schedule()
    TaskSchedule.objects.update(next_run_at=timezone.now() - timedelta(hours=1), enabled=False)

    assert doctor.schedules.look().level == Level.OK


def test_a_schedule_that_was_stopped_by_an_error_is_noticed() -> None:
    make_schedule()
    assert doctor.stopped_schedules.look().level == Level.OK

    TaskSchedule.objects.update(next_run_at=None, last_error="ValueError: no")

    finding = doctor.stopped_schedules.look()
    assert finding.level == Level.WARN
    assert "ValueError: no" in finding.found
