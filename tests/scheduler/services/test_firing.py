"""What the tick makes of schedules: every occurrence once, whatever is late, broken, or running at the same time."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from decimal import Decimal
from threading import Barrier
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from orchestrator.models import Job
from orchestrator.upkeep import tick
from scheduler.models import Task, TaskSchedule
from scheduler.services import firing
from scheduler.services.backfills import backfill
from scheduler.services.due import OCCURRENCES_AT_ONCE
from scheduler.services.firing import fire_due, fire_one
from scheduler.services.occurrences import Occurrence, database_now, task_of
from scheduler.services.overlap import UNFINISHED_JOBS, unfinished_jobs
from scheduler.services.schedules import delete_schedule, run_now
from scheduler.services.tasks import create_tasks
from scheduler.tasks import follow_beat
from tests.orchestrator.workbench import PATIENCE_SECONDS, threads
from tests.scheduler.factories import MINUTE, MONDAY, SECOND, again, end, make_schedule, occurrences

pytestmark = pytest.mark.django_db
threaded = pytest.mark.django_db(transaction=True)

MANY_SCHEDULES = """
INSERT INTO scheduler_taskschedule (id, a, b, scheduled_at, interval, misfire_policy, overlap, enabled, next_run_at)
SELECT gen_random_uuid(), 1, 2, statement_timestamp(), 60, 'latest', 'allow', true,
       statement_timestamp() + %s * interval '1 second'
FROM generate_series(1, %s)
"""


def many_schedules(count: int, *, due_in_seconds: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(MANY_SCHEDULES, [due_in_seconds, count])


def minutes(*numbers: int) -> list[Any]:
    return [MONDAY + number * MINUTE for number in numbers]


def break_row(schedule: TaskSchedule, **columns: Any) -> None:
    """Changes the row as nobody should, past all checks."""
    TaskSchedule.objects.filter(id=schedule.id).update(**columns)


@pytest.fixture
def refuses_the_number_666(db: None) -> None:
    """The database takes no task that adds 666, until the test's transaction is rolled back."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE scheduler_task ADD CONSTRAINT no_666 CHECK (a <> 666)")


# One occurrence, one task


def test_an_occurrence_becomes_a_task_of_its_schedule() -> None:
    schedule = make_schedule(a=Decimal("1.5"), priority=1, owner="ada")

    fire_due(now=MONDAY + SECOND)

    [task] = Task.objects.filter(schedule=schedule.id)
    assert (task.a, task.b, task.priority, task.owner) == (Decimal("1.5"), 2, 1, "ada")
    assert task.scheduled_for == MONDAY
    fired = again(schedule)
    assert (fired.next_run_at, fired.last_run_at, fired.run_count) == (MONDAY + MINUTE, MONDAY + SECOND, 1)


def test_nothing_fires_before_its_time_nor_while_it_is_paused() -> None:
    early, paused = make_schedule(), make_schedule(enabled=False)

    assert fire_due(now=MONDAY - SECOND) == 0
    fire_due(now=MONDAY)

    assert (occurrences(early), occurrences(paused)) == ([MONDAY], [])


def test_postgresqls_clock_decides_what_is_due() -> None:
    past = make_schedule(database_now() - SECOND)
    future = make_schedule(database_now() + 10 * MINUTE)

    fire_due()

    assert (len(occurrences(past)), len(occurrences(future))) == (1, 0)


def test_ticks_that_come_again_fire_nothing_twice() -> None:
    schedule = make_schedule()

    for _ in range(3):
        fire_due(now=MONDAY + SECOND)
        fire_one(schedule.id, now=MONDAY + SECOND)

    assert occurrences(schedule) == [MONDAY]


@threaded
def test_three_ticks_and_two_bells_at_once_fire_every_occurrence_once() -> None:
    schedules = [make_schedule(misfire_policy="all", interval=1 + number % 3) for number in range(30)]
    now = MONDAY + 59 * SECOND
    together = Barrier(5)

    def tick() -> None:
        together.wait(PATIENCE_SECONDS)
        while fire_due(now=now):
            pass

    def ring() -> None:
        together.wait(PATIENCE_SECONDS)
        for schedule in schedules:
            fire_one(schedule.id, now=now)

    with threads(5) as start:
        for ended in [start(tick), start(tick), start(tick), start(ring), start(ring)]:
            ended.result(PATIENCE_SECONDS)

    fire_due(now=now)
    for schedule in schedules:
        seconds = schedule.interval or 0
        expected = [MONDAY + step * seconds * SECOND for step in range(59 // seconds + 1)]
        assert occurrences(schedule) == expected
        assert again(schedule).run_count == len(expected)


@threaded
def test_a_tick_leaves_a_schedule_that_someone_is_changing_to_the_next_one() -> None:
    changing, other = make_schedule(), make_schedule()

    with threads(1) as start, transaction.atomic():
        TaskSchedule.objects.select_for_update(no_key=True).get(id=changing.id)
        start(fire_due, now=MONDAY).result(PATIENCE_SECONDS)

        assert (occurrences(changing), occurrences(other)) == ([], [MONDAY])

    fire_due(now=MONDAY)
    assert occurrences(changing) == [MONDAY]


@threaded
def test_a_schedule_can_be_run_now_while_it_fires() -> None:
    schedule = make_schedule()

    with threads(1) as start, transaction.atomic():
        TaskSchedule.objects.select_for_update(no_key=True).get(id=schedule.id)
        start(run_now, schedule.id).result(PATIENCE_SECONDS)

    assert Task.objects.filter(schedule=schedule.id, scheduled_for=None).count() == 1


def test_the_database_itself_refuses_an_occurrence_twice() -> None:
    schedule = make_schedule()
    fire_due(now=MONDAY)

    with pytest.raises(IntegrityError), transaction.atomic():
        create_tasks([task_of(Occurrence(schedule, MONDAY), MONDAY)])


# What was missed. Beat is off for the ten minutes after noon.


@pytest.mark.parametrize(
    ("policy", "expected", "missed"),
    [("all", range(11), 0), ("latest", [10], 10), ("skip", [], 11)],
)
def test_after_ten_minutes_off_a_misfire_policy_is_obeyed(policy: str, expected: Any, missed: int) -> None:
    schedule = make_schedule(misfire_policy=policy)

    fire_due(now=MONDAY + 10 * MINUTE + 30 * SECOND)

    assert occurrences(schedule) == minutes(*expected)
    assert again(schedule).missed_count == missed
    assert again(schedule).next_run_at == MONDAY + 11 * MINUTE


@pytest.mark.parametrize("policy", ["all", "latest", "skip"])
def test_after_the_missed_runs_it_runs_as_before(policy: str) -> None:
    schedule = make_schedule(misfire_policy=policy)
    fire_due(now=MONDAY + 10 * MINUTE + 30 * SECOND)
    before = occurrences(schedule)

    for number in (11, 12, 13):
        fire_due(now=MONDAY + number * MINUTE + SECOND)

    assert occurrences(schedule) == before + minutes(11, 12, 13)


def test_an_occurrence_that_is_a_little_late_is_not_missed() -> None:
    often, seldom = (make_schedule(misfire_policy="skip", interval=seconds) for seconds in (7, 3_600))

    fire_due(now=MONDAY + timedelta(seconds=2.9))
    assert occurrences(often) == [MONDAY]
    fire_due(now=MONDAY + 29 * SECOND)
    assert occurrences(seldom) == [MONDAY]


@pytest.mark.parametrize(("policy", "expected"), [("all", [0, 1, 2, 3]), ("latest", [3]), ("skip", [])])
def test_a_start_that_is_past_is_a_matter_of_the_misfire_policy(policy: str, expected: list[int]) -> None:
    start = (database_now() - timedelta(seconds=200)).replace(microsecond=0)
    schedule = make_schedule(start, misfire_policy=policy)

    fire_due()

    assert occurrences(schedule) == [start + number * MINUTE for number in expected]


@pytest.mark.parametrize("policy", ["latest", "skip"])
def test_missing_a_year_costs_no_more_than_missing_a_minute(policy: str) -> None:
    schedule = make_schedule(misfire_policy=policy, interval=1)

    fire_due(now=MONDAY + timedelta(days=365))

    assert occurrences(schedule) == [MONDAY + timedelta(days=365)]
    assert again(schedule).next_run_at == MONDAY + timedelta(days=365, seconds=1)


def test_what_is_too_much_for_one_tick_is_made_up_for_by_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "FIRING_SECONDS", 0)
    long_off, other = make_schedule(misfire_policy="all", interval=1), make_schedule(MONDAY + 3_000 * SECOND)
    now = MONDAY + 3_000 * SECOND

    fired = [fire_due(now=now) for _ in range(4)]

    assert max(fired) <= OCCURRENCES_AT_ONCE + 1
    assert occurrences(long_off) == [MONDAY + number * SECOND for number in range(3_001)]
    assert occurrences(other) == [now]


def test_a_tick_ends_although_its_schedules_stay_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "fire_locked", lambda *_: 1)
    monkeypatch.setattr(firing, "FIRING_SECONDS", 0.05)
    make_schedule()

    assert fire_due(now=MONDAY) > 0


# How often


@pytest.mark.parametrize("policy", ["all", "latest", "skip"])
@pytest.mark.parametrize("seconds_between_ticks", [1, 7, 100, 3_600])
def test_a_schedule_runs_exactly_as_many_times_as_it_should(policy: str, seconds_between_ticks: int) -> None:
    schedule = make_schedule(interval=5, schedule_x_times=10, misfire_policy=policy)

    ticks = 12 * max(seconds_between_ticks, 5) // seconds_between_ticks
    for step in range(ticks):
        fire_due(now=MONDAY + step * seconds_between_ticks * SECOND)

    done = again(schedule)
    assert done.run_count == len(occurrences(schedule)) == 10
    assert done.next_run_at is None
    assert fire_due(now=MONDAY + timedelta(days=1)) == 0


def test_nothing_runs_after_the_end() -> None:
    schedule = make_schedule(ends_at=MONDAY + 2 * MINUTE, misfire_policy="all")

    fire_due(now=MONDAY + timedelta(days=1))

    assert occurrences(schedule) == minutes(0, 1, 2)
    assert again(schedule).next_run_at is None


def test_seven_days_of_irregular_ticks_leave_a_seven_second_interval_on_its_second() -> None:
    schedule = make_schedule(interval=7)
    lags = random.Random(7)
    now = MONDAY

    while now < MONDAY + timedelta(days=7):
        fire_due(now=now)
        now += timedelta(seconds=lags.uniform(0.5, 6_900))

    run = occurrences(schedule)
    assert {(at - MONDAY) % (7 * SECOND) for at in run} == {timedelta(0)}
    assert len(run) > 100
    assert again(schedule).run_count + again(schedule).missed_count == (run[-1] - MONDAY) // (7 * SECOND) + 1


def test_an_occurrence_is_left_out_while_the_last_task_has_not_ended() -> None:
    schedule = make_schedule(overlap="skip")
    fire_due(now=MONDAY)
    fire_due(now=MONDAY + MINUTE)

    end()
    fire_due(now=MONDAY + 2 * MINUTE)

    assert occurrences(schedule) == minutes(0, 2)
    assert again(schedule).missed_count == 1


def test_of_many_missed_ones_only_one_runs_where_none_may_overlap() -> None:
    schedule = make_schedule(overlap="skip", misfire_policy="all")

    fire_due(now=MONDAY + 5 * MINUTE)

    assert occurrences(schedule) == [MONDAY]
    assert again(schedule).missed_count == 5


# What cannot fire


@pytest.mark.parametrize(
    "columns",
    [{"timezone": "Mars/Olympus"}, {"interval": 0}, {"interval": None, "cron": "nonsense"}, {"interval": -5}],
)
def test_a_broken_schedule_is_marked_and_stops_no_other(columns: dict[str, Any]) -> None:
    broken, others = make_schedule(), [make_schedule() for _ in range(3)]
    break_row(broken, **columns)

    fire_due(now=MONDAY)
    fire_due(now=MONDAY + MINUTE)

    assert again(broken).last_error
    assert again(broken).next_run_at is None
    assert [occurrences(other) for other in others] == [minutes(0, 1)] * 3


@pytest.mark.parametrize(
    "columns",
    [{"rrule": "FREQ=MONTHLY;BYMONTHDAY=0"}, {"rrule": "FREQ=WEEKLY;BYDAY=2TU"}, {"cron": "*/90 * * * *"}],
)
def test_a_stored_rule_that_is_refused_by_now_stops_its_schedule_with_the_reason(columns: dict[str, Any]) -> None:
    refused, other = make_schedule(), make_schedule()
    break_row(refused, interval=None, **columns)

    fire_due(now=MONDAY)
    fire_due(now=MONDAY + MINUTE)

    [value] = columns.values()
    assert value.rpartition(";")[2][:4] in again(refused).last_error
    assert again(refused).next_run_at is None
    assert occurrences(refused) == []
    assert occurrences(other) == minutes(0, 1)


def test_a_schedule_whose_next_occurrence_is_not_found_soon_enough_is_stopped_and_stops_no_other() -> None:
    rare, other = make_schedule(), make_schedule()
    break_row(rare, interval=None, rrule="FREQ=SECONDLY;INTERVAL=86399;BYHOUR=12;BYMINUTE=0;BYSECOND=0")

    fire_due(now=MONDAY)
    fire_due(now=MONDAY + MINUTE)

    assert "none soon enough" in again(rare).last_error
    assert again(rare).next_run_at is None
    assert occurrences(other) == minutes(0, 1)


@pytest.mark.usefixtures("refuses_the_number_666")
def test_a_schedule_whose_tasks_the_database_refuses_is_found_out_and_stops_no_other() -> None:
    good, bad, late = make_schedule(), make_schedule(a=Decimal(666)), make_schedule()

    fired = fire_due(now=MONDAY)

    assert fired == 2
    assert (occurrences(good), occurrences(bad), occurrences(late)) == ([MONDAY], [], [MONDAY])
    assert "no_666" in again(bad).last_error
    assert again(bad).run_count == 0
    assert Job.objects.count() == 2


def test_an_outage_of_the_database_stops_no_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError("deadlock detected")

    schedule = make_schedule()
    with monkeypatch.context() as patch:
        patch.setattr(firing, "submit_occurrences", fail)
        with pytest.raises(OperationalError):
            fire_due(now=MONDAY)

    fire_due(now=MONDAY)

    assert occurrences(schedule) == [MONDAY]
    assert again(schedule).last_error == ""


def test_an_occurrence_that_is_a_task_already_is_not_made_again_and_stops_nothing() -> None:
    filled, other = make_schedule(misfire_policy="all"), make_schedule(misfire_policy="all")
    backfill(filled.id, MONDAY, MONDAY + 2 * MINUTE, now=MONDAY + 3 * MINUTE)

    fire_due(now=MONDAY + 3 * MINUTE)

    assert occurrences(filled) == occurrences(other) == minutes(0, 1, 2, 3)
    assert again(filled).run_count == 1
    assert again(filled).last_error == ""


def test_a_time_that_is_no_occurrence_any_more_is_passed_over() -> None:
    """As when a country gives up daylight saving, and tzdata is updated."""
    schedule = make_schedule()
    break_row(schedule, next_run_at=MONDAY + 10 * SECOND)

    fire_due(now=MONDAY + 20 * SECOND)

    assert occurrences(schedule) == []
    assert again(schedule).next_run_at == MONDAY + MINUTE
    assert again(schedule).last_error == ""


# How much it costs


def test_a_thousand_due_of_a_hundred_thousand_fire_by_a_few_statements() -> None:
    many_schedules(99_000, due_in_seconds=3_600)
    many_schedules(1_000, due_in_seconds=0)

    with CaptureQueriesContext(connection) as captured:
        while fire_due():
            pass

    assert Task.objects.count() == 1_000
    assert len(captured) <= 50, [query["sql"][:100] for query in captured]


def idle_tick() -> list[dict[str, str]]:
    """The statements of a tick that finds nothing to do."""
    tick.run_parts()
    with CaptureQueriesContext(connection) as captured:
        follow_beat()
        fire_due()
    return [query for query in captured.captured_queries if query["sql"].partition(" ")[0] not in ("BEGIN", "COMMIT")]


def buffers_of_an_idle_pass() -> int:
    """How many pages PostgreSQL reads to see that nothing is due."""
    due = TaskSchedule.objects.filter(enabled=True, next_run_at__lte=Now()).order_by("next_run_at")[:500]
    plan = due.explain(analyze=True, buffers=True, format="json")
    [root] = json.loads(plan)
    assert "schedule_by_next_run" in plan
    return int(root["Plan"]["Shared Hit Blocks"]) + int(root["Plan"]["Shared Read Blocks"])


@threaded  # As in a worker, what a part of the tick sets for its transaction ends with it.
def test_a_tick_with_nothing_due_costs_the_same_with_a_hundred_thousand_schedules_as_with_ten() -> None:
    many_schedules(10, due_in_seconds=3_600)
    few = idle_tick()
    many_schedules(99_990, due_in_seconds=3_600)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE scheduler_taskschedule")

    many = idle_tick()

    assert len(many) == len(few) == 2
    assert buffers_of_an_idle_pass() <= 5


def test_firing_five_hundred_takes_as_few_statements_as_firing_five() -> None:
    many_schedules(5, due_in_seconds=-1)
    with CaptureQueriesContext(connection) as few:
        fire_due()
    many_schedules(490, due_in_seconds=-1)

    with CaptureQueriesContext(connection) as many:
        fire_due()

    assert Task.objects.count() == 495
    assert len(many) <= len(few) + 1


def test_how_many_jobs_have_not_ended_is_seen_without_reading_those_that_have() -> None:
    schedule = make_schedule(overlap="skip")
    backfill(schedule.id, MONDAY, MONDAY + 300 * MINUTE, now=MONDAY + 300 * MINUTE)
    end()
    run_now(schedule.id)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE orchestrator_job")
        cursor.execute("SET LOCAL enable_seqscan = off; EXPLAIN " + UNFINISHED_JOBS, [[schedule.id]])
        plan = str(cursor.fetchall())

    assert unfinished_jobs([schedule.id]) == {schedule.id: 1}
    assert "job_unfinished_by_schedule" in plan


# Deleting


def test_deleting_a_schedule_leaves_its_tasks_alone_however_many_they_are() -> None:
    schedule = make_schedule()
    backfill(schedule.id, MONDAY, MONDAY + 300 * MINUTE, now=MONDAY + 300 * MINUTE)

    with CaptureQueriesContext(connection) as captured:
        delete_schedule(schedule.id)

    assert Task.objects.filter(schedule=schedule.id).count() == 301
    assert not any('"scheduler_task"' in query["sql"] for query in captured.captured_queries)
    assert not TaskSchedule.objects.exists()
