"""A test's clock fires schedules, whatever their recurrence."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from orchestrator.testing import Jobs, drain
from scheduler.models import Task
from scheduler.services.occurrences import database_now
from tests.scheduler.factories import make_schedule

DAY_SECONDS = 86_400


@pytest.mark.parametrize("recurrence", [{"every_x_days": 1}, {"cron": "0 8 * * *"}, {"rrule": "FREQ=DAILY"}])
def test_a_daily_schedule_fires_once_for_each_day_that_passes(jobs: Jobs, recurrence: dict[str, Any]) -> None:
    schedule = make_schedule(database_now() + timedelta(hours=1), **recurrence)
    jobs.travel(3_600)
    begun = Task.objects.filter(schedule=schedule).count()

    jobs.travel(DAY_SECONDS)
    jobs.travel(DAY_SECONDS)

    assert Task.objects.filter(schedule=schedule).count() == begun + 2


@pytest.mark.django_db(transaction=True)
def test_what_a_schedule_makes_is_run_by_drain(jobs: Jobs) -> None:
    make_schedule(database_now() + timedelta(hours=1), interval=3_600)

    jobs.travel(3_601)
    drain()

    assert Task.objects.get().job.status == "COMPLETED"
