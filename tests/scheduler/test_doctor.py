"""What `manage.py doctor` finds of the schedules."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from orchestrator.diagnostics.checks import Level
from scheduler import doctor
from scheduler.models import TaskSchedule
from tests.scheduler.factories import make_schedule

pytestmark = pytest.mark.django_db


def test_a_schedule_that_is_due_and_not_fired_fails() -> None:
    schedule = make_schedule()
    assert doctor.schedules.look().level == Level.OK

    TaskSchedule.objects.update(next_run_at=timezone.now() - timedelta(hours=1))

    finding = doctor.schedules.look()
    assert finding.level == Level.FAIL
    assert str(schedule.id) in finding.msg


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
    assert "ValueError: no" in finding.msg


def test_a_stored_rule_that_is_refused_by_now_is_noticed_before_it_is_due() -> None:
    make_schedule(rrule="FREQ=DAILY")
    make_schedule(cron="@daily")
    make_schedule()
    schedule = make_schedule(rrule="FREQ=WEEKLY")
    assert doctor.schedule_rules.look().level == Level.OK

    TaskSchedule.objects.filter(id=schedule.id).update(rrule="FREQ=WEEKLY;BYDAY=2TU")

    finding = doctor.schedule_rules.look()
    assert finding.level == Level.WARN
    assert str(schedule.id) in finding.msg
    assert "BYDAY=2TU" in finding.msg
