"""A great many schedules that are due at once."""

from __future__ import annotations

import os
import sys
import time

import pytest
from django.db import connection

from orchestrator.models import Job
from scheduler.models import Calendar, TaskSchedule
from scheduler.services.firing import fire_due

pytestmark = [pytest.mark.django_db, pytest.mark.long]

SCHEDULES = int(os.environ.get("MANY_SCHEDULES", "50000"))
MOST_SECONDS = 20
MAKE = """
INSERT INTO scheduler_taskschedule (
    id, kind, payload, owner, scheduled_at, cron, timezone, calendars, misfire_policy, overlap, enabled, next_run_at
)
SELECT gen_random_uuid(), 'demo.slices', '{"slices": 1}', 'ada', date_trunc('minute', statement_timestamp()),
       '* * * * *', 'Europe/Berlin', '{holidays,office}', 'latest', 'allow', true,
       date_trunc('minute', statement_timestamp())
FROM generate_series(1, %s)
"""


@pytest.mark.timeout(600)
def test_fifty_thousand_schedules_with_calendars_that_are_due_at_once_are_fired_in_time() -> None:
    Calendar.objects.create(name="holidays", country="DE", open_days=["2020-01-01/2090-12-31"])
    Calendar.objects.create(name="office", weekdays=["MO", "TU", "WE", "TH", "FR", "SA", "SU"], hours=["00:00-24:00"])
    with connection.cursor() as cursor:
        cursor.execute(MAKE, [SCHEDULES])
    began_at, cpu_began_at = time.perf_counter(), time.process_time()

    while TaskSchedule.objects.filter(run_count=0).exists():
        fire_due()

    seconds, cpu = time.perf_counter() - began_at, time.process_time() - cpu_began_at
    sys.stdout.write(f"{SCHEDULES:,} schedules: {seconds:.1f} s, {cpu:.1f} s of them on this process's processor")
    assert Job.objects.count() == SCHEDULES
    # What others take of the machine meanwhile is not counted.
    assert cpu < MOST_SECONDS
