"""Schedules that have the same rule share what is due of them, and get what each of them would get alone."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pytest

from scheduler.models import Calendar, TaskSchedule
from scheduler.recurrence.calendars import Calendar as BusinessCalendar
from scheduler.recurrence.rules import Recurrence
from scheduler.services.calendars import change_calendar
from scheduler.services.due import DueTimes
from scheduler.services.firing import fire_due
from tests.scheduler.factories import MINUTE, MONDAY, SECOND, again, make_job_schedule

RULES: list[dict[str, Any]] = [
    {"cron": "*/20 * * * *"},
    {"cron": "30 2 * * *"},
    {"cron": "0 9 L * *"},
    {"interval": 3600},
    {"interval": 100},
    {"every_x_hours": 5},
    {"every_x_days": 2},
    {"rrule": "FREQ=DAILY;INTERVAL=2"},
]
LATENESS = [timedelta(0), MINUTE, timedelta(hours=3), timedelta(days=3)]
WEEKDAYS = BusinessCalendar("weekdays", weekdays=frozenset(range(5)), hours=())


def some_schedule(chance: random.Random) -> TaskSchedule:
    start = MONDAY - chance.choice([timedelta(0), timedelta(days=20), timedelta(days=80)])
    schedule = TaskSchedule(
        scheduled_at=start - chance.choice([timedelta(0), timedelta(hours=1)]),
        timezone=chance.choice(["UTC", "Europe/Berlin"]),
        misfire_policy=chance.choice(["all", "latest", "skip"]),
        calendars=chance.choice([[], [], ["weekdays"]]),
        ends_at=chance.choice([None, None, MONDAY + MINUTE]),
        exclude=chance.choice([[], ["2096-04-02"]]),
        **chance.choice(RULES),
    )
    if schedule.cron in ("30 2 * * *", "0 9 L * *"):
        schedule.on_closed = chance.choice(["skip", "next", "previous"])
    schedule.loaded_calendars = {"weekdays": WEEKDAYS}
    schedule.next_run_at = max(MONDAY, schedule.scheduled_at)
    return schedule


def count_computed(monkeypatch: pytest.MonkeyPatch) -> list[Recurrence]:
    """Those of which it is computed what is due, from now on."""
    computed: list[Recurrence] = []
    compute = Recurrence.due

    def counted(recurrence: Recurrence, *args: Any, **limit: Any) -> Any:
        computed.append(recurrence)
        return compute(recurrence, *args, **limit)

    monkeypatch.setattr(Recurrence, "due", counted)
    return computed


def test_a_schedule_gets_what_it_would_get_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    chance, computed = random.Random(8), count_computed(monkeypatch)
    shared = DueTimes()
    now = MONDAY
    for lateness in LATENESS:
        now = MONDAY + lateness
        for _ in range(100):
            schedule = some_schedule(chance)

            together, alone = shared.of(schedule, now), DueTimes().of(schedule, now)

            assert together == alone, vars(schedule)
    # All were computed alone, and many of them not a second time.
    assert len(computed) < 400 * 1.9


def test_an_occurrence_is_computed_once_for_all_schedules_of_a_rule(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = count_computed(monkeypatch)
    schedules = [make_job_schedule(MONDAY - number * SECOND, interval=None, cron="0 * * * *") for number in range(5)]

    fire_due(now=MONDAY)

    assert {again(schedule).next_run_at for schedule in schedules} == {MONDAY + timedelta(hours=1)}
    assert len(computed) == 1


def test_a_calendar_that_changes_between_two_passes_holds_for_the_second_one(db: None) -> None:
    Calendar.objects.create(name="office")
    due_times = DueTimes()
    schedule = make_job_schedule(MONDAY, interval=None, cron="0 * * * *", calendars=["office"])
    due_times.load([schedule])
    open_then = due_times.of(schedule, MONDAY)

    change_calendar("office", {"hours": ["15:00-16:00"]})
    due_times.load([schedule])
    closed_now = due_times.of(schedule, MONDAY)

    assert list(open_then.times) == [MONDAY]
    assert list(closed_now.times) == []
    assert closed_now.following == MONDAY + timedelta(hours=3)
