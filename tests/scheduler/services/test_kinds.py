"""Schedules of any kind of job: their jobs, what happens while those have not ended, and when they start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from orchestrator import kinds
from orchestrator.kinds import job
from orchestrator.models import Job
from orchestrator.pipelines import Pipeline, pipeline
from orchestrator.running import RunningJob
from scheduler.models import Task, TaskSchedule
from scheduler.recurrence.jitter import delay
from scheduler.services.firing import fire_due, release_queued
from scheduler.services.overlap import MAX_QUEUED
from scheduler.services.schedules import change_schedule, run_now, set_enabled
from tests.moves import put
from tests.scheduler.factories import MINUTE, MONDAY, SECOND, again, make_job_schedule

pytestmark = pytest.mark.django_db


@pytest.fixture
def declare() -> Iterator[Callable[..., None]]:
    """Declares a kind of that name for the test."""
    names = set()

    def declared(name: str, **options: Any) -> None:
        @job(name, **options)
        def handler(job: RunningJob) -> None:
            pass

        names.add(name)

    yield declared
    for name in names:
        kinds.forget_kind(name)


def jobs_of(schedule: TaskSchedule) -> list[Job]:
    return list(Job.objects.filter(schedule_id=schedule.id).order_by("id"))


def times(schedule: TaskSchedule) -> list[datetime | None]:
    return [job.scheduled_for for job in jobs_of(schedule)]


def statuses(schedule: TaskSchedule) -> list[str]:
    return [job.status for job in jobs_of(schedule)]


def lease(job: Job) -> None:
    """As if a worker ran it."""
    put(Job.objects.filter(id=job.id), status="RUNNING", ready=False, worker=1)


def finish(*ended: Job) -> None:
    put(Job.objects.filter(id__in=[job.id for job in ended]), status="COMPLETED", ready=False, finished_at=Now())


def minutes(*numbers: int) -> list[Any]:
    return [MONDAY + number * MINUTE for number in numbers]


# One occurrence, one job


def test_an_occurrence_becomes_a_job_of_its_kind_that_knows_its_schedule() -> None:
    schedule = make_job_schedule(payload={"slices": 3}, priority=1, owner="ada")

    fire_due(now=MONDAY + SECOND)

    [job] = jobs_of(schedule)
    assert (job.kind, job.payload["slices"], job.priority, job.owner) == ("demo.slices", 3, 1, "ada")
    assert (job.scheduled_for, job.ready) == (MONDAY, True)
    assert not Task.objects.exists()
    assert again(schedule).run_count == 1


def test_a_task_of_a_schedule_is_such_a_job_too() -> None:
    schedule = make_job_schedule(kind="scheduler.add", payload=None, a=1, b=2)

    fire_due(now=MONDAY)

    assert times(schedule) == [MONDAY]


def test_a_schedule_starts_pipelines_that_code_defines() -> None:
    def plan(payload: dict[str, Any]) -> Pipeline:
        return Pipeline().step("a", "demo.slices", payload).step("b", "demo.slices", after=["a"])

    pipeline("defined.twice", payload=dict[str, Any])(plan)
    schedule = make_job_schedule(kind="defined.twice", payload={"slices": 3})
    try:
        fire_due(now=MONDAY)
    finally:
        kinds.forget_kind("defined.twice")

    [job] = jobs_of(schedule)
    children = Job.objects.filter(parent=job).order_by("id")
    assert [(child.name, child.payload["slices"]) for child in children] == [("a", 3), ("b", 5)]


def test_an_occurrence_that_is_a_job_already_is_not_submitted_again() -> None:
    schedule = make_job_schedule()
    fire_due(now=MONDAY)
    TaskSchedule.objects.filter(id=schedule.id).update(next_run_at=MONDAY)

    fire_due(now=MONDAY + MINUTE)

    assert times(schedule) == minutes(0, 1)


def test_a_kind_that_this_process_does_not_know_stays_due_for_one_that_does(declare: Callable[..., None]) -> None:
    declare("newer.kind")
    schedule = make_job_schedule(kind="newer.kind", payload={})
    kinds.forget_kind("newer.kind")

    assert fire_due(now=MONDAY) == 0
    assert again(schedule).last_error == ""

    declare("newer.kind")
    fire_due(now=MONDAY)
    assert times(schedule) == [MONDAY]


def test_a_payload_that_its_kind_refuses_by_now_stops_the_schedule_and_no_other() -> None:
    broken, other = make_job_schedule(), make_job_schedule()
    TaskSchedule.objects.filter(id=broken.id).update(payload={"slices": "many"})

    fire_due(now=MONDAY)

    assert "/payload/slices" in again(broken).last_error
    assert (times(broken), times(other)) == ([], [MONDAY])


# Overlap


def test_skip_leaves_out_what_would_be_more_than_max_running() -> None:
    schedule = make_job_schedule(overlap="skip", max_running=2)

    for minute in range(4):
        fire_due(now=MONDAY + minute * MINUTE)

    assert times(schedule) == minutes(0, 1)
    assert again(schedule).missed_count == 2


def test_a_queued_occurrence_waits_until_an_earlier_job_has_ended_and_keeps_its_time() -> None:
    schedule = make_job_schedule(overlap="queue")
    for minute in range(3):
        fire_due(now=MONDAY + minute * MINUTE)
    assert (times(schedule), again(schedule).queued) == (minutes(0), minutes(1, 2))

    assert release_queued(now=MONDAY + 2 * MINUTE) == 0
    finish(*jobs_of(schedule))
    assert release_queued(now=MONDAY + 2 * MINUTE) == 1

    assert (times(schedule), again(schedule).queued) == (minutes(0, 1), minutes(2))
    assert (again(schedule).run_count, again(schedule).missed_count) == (2, 0)


def test_what_waits_goes_before_what_is_due_now() -> None:
    schedule = make_job_schedule(overlap="queue")
    fire_due(now=MONDAY)
    fire_due(now=MONDAY + MINUTE)
    finish(*jobs_of(schedule))

    fire_due(now=MONDAY + 2 * MINUTE)

    assert (times(schedule), again(schedule).queued) == (minutes(0, 1), minutes(2))


def test_a_queue_has_an_end() -> None:
    schedule = make_job_schedule(overlap="queue", misfire_policy="all", interval=1)
    run_now(schedule.id)

    fire_due(now=MONDAY + (MAX_QUEUED - 1) * SECOND)
    fire_due(now=MONDAY + (MAX_QUEUED + 9) * SECOND)

    assert len(again(schedule).queued) == MAX_QUEUED
    assert again(schedule).missed_count == 10


def test_a_paused_schedule_keeps_its_queue_until_it_is_resumed() -> None:
    schedule = make_job_schedule(overlap="queue")
    fire_due(now=MONDAY)
    fire_due(now=MONDAY + MINUTE)
    set_enabled(schedule.id, False)
    finish(*jobs_of(schedule))

    assert release_queued() == 0
    set_enabled(schedule.id, True)
    assert release_queued() == 1


def test_a_queue_is_released_at_once_where_overlap_is_allowed_from_now_on() -> None:
    schedule = make_job_schedule(overlap="queue")
    for minute in range(3):
        fire_due(now=MONDAY + minute * MINUTE)
    change_schedule(schedule.id, {"overlap": "allow"})

    assert release_queued() == 2
    assert (times(schedule), again(schedule).queued) == (minutes(0, 1, 2), [])


def test_what_waits_counts_toward_schedule_x_times() -> None:
    schedule = make_job_schedule(overlap="queue", schedule_x_times=2)

    for minute in range(4):
        fire_due(now=MONDAY + minute * MINUTE)

    assert again(schedule).queued == minutes(1)
    assert again(schedule).next_run_at is None
    finish(*jobs_of(schedule))
    release_queued()
    assert (times(schedule), again(schedule).run_count) == (minutes(0, 1), 2)


def test_cancel_running_cancels_what_has_not_started_and_runs_at_once() -> None:
    schedule = make_job_schedule(overlap="cancel_running")

    fire_due(now=MONDAY)
    fire_due(now=MONDAY + MINUTE)

    assert (times(schedule), statuses(schedule)) == (minutes(0, 1), ["CANCELLED", "CREATED"])


def test_cancel_running_waits_for_a_running_job_to_stop_and_then_runs_the_latest_only() -> None:
    schedule = make_job_schedule(overlap="cancel_running")
    fire_due(now=MONDAY)
    [job] = jobs_of(schedule)
    lease(job)

    fire_due(now=MONDAY + MINUTE)
    fire_due(now=MONDAY + 2 * MINUTE)

    assert Job.objects.get(id=job.id).cancel_requested_at is not None
    assert (times(schedule), again(schedule).queued, again(schedule).missed_count) == (minutes(0), minutes(2), 1)
    put(Job.objects.filter(id=job.id), status="CANCELLED", worker=None, finished_at=Now())
    release_queued()
    assert times(schedule) == minutes(0, 2)


def test_what_was_queued_when_a_schedule_stopped_is_kept_and_not_tried_again_and_again() -> None:
    schedule = make_job_schedule(overlap="queue")
    fire_due(now=MONDAY)
    fire_due(now=MONDAY + MINUTE)
    finish(*jobs_of(schedule))
    TaskSchedule.objects.filter(id=schedule.id).update(payload={"slices": "many"})

    assert release_queued() == 0

    stopped = again(schedule)
    assert (stopped.queued, stopped.next_run_at) == (minutes(1), None)
    assert "slices" in stopped.last_error
    with CaptureQueriesContext(connection) as captured:
        release_queued()
    reads = [query for query in captured.captured_queries if "SELECT" in query["sql"]]
    # Whether others are held back, and what waits.
    assert len(reads) == 2


# Jitter


def test_an_occurrence_starts_later_always_by_the_same_time() -> None:
    schedule = make_job_schedule(jitter_seconds=3_600)
    expected = MONDAY + delay(schedule.id, MONDAY, 3_600)

    fire_due(now=MONDAY)

    [job] = jobs_of(schedule)
    assert (job.scheduled_for, job.run_at, job.ready) == (MONDAY, expected, False)
    assert MONDAY < expected < MONDAY + timedelta(hours=1)


def test_delays_are_spread_over_the_whole_time() -> None:
    schedule = make_job_schedule()
    delays = [delay(schedule.id, MONDAY + number * MINUTE, 100).total_seconds() for number in range(200)]

    assert min(delays) < 10 < 90 < max(delays) < 100
    assert 40 < sum(delays) / 200 < 60


def test_what_is_fired_after_its_delay_goes_before_nobody_for_that() -> None:
    schedule = make_job_schedule(jitter_seconds=30)

    fire_due(now=MONDAY + 50 * SECOND)

    [job] = jobs_of(schedule)
    assert job.run_at < MONDAY
    assert job.ready
