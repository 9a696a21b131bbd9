"""Rollups: what the tick adds up, and what a page reads from it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from orchestrator.models import Backlog, Job, Kind, Rollup, Upkeep
from orchestrator.rollups import durations, reading, writing
from orchestrator.rollups.reading import HOUR, MINUTE
from orchestrator.states import Status
from orchestrator.submission import submit
from orchestrator.upkeep import retention
from tests.factories import make_attempt, make_job, make_worker_row
from tests.orchestrator.workbench import threads

pytestmark = pytest.mark.django_db

KIND = "demo.slices"


@pytest.fixture(autouse=True)
def known_kind(db: None) -> None:
    Kind.objects.create(name=KIND, queue="io")


def lately(seconds: float = 20) -> datetime:
    """About so long ago: all that a test calls so lies in one minute, also when the test runs into the next one."""
    now = timezone.now()
    into_the_minute = timedelta(seconds=(now - timedelta(seconds=20)).second)
    if into_the_minute < timedelta(seconds=5):
        now -= into_the_minute + timedelta(seconds=1)
    return now - timedelta(seconds=seconds)


def covered(seconds: float = 40) -> None:
    """The rollups go so far."""
    Upkeep.objects.update_or_create(part="rollups", defaults={"ran_at": lately(seconds)})


def ended(status: Status = Status.COMPLETED, *, waited: float = 1, ran: float = 2, **columns: Any) -> Job:
    """A job that ended within what is rolled up next."""
    end = lately()
    began = end - timedelta(seconds=ran)
    made = began - timedelta(seconds=waited)
    times = {"created_at": made, "run_at": made, "started_at": began, "finished_at": end}
    return make_job(status, **times | columns)


def rolled_up(span: Rollup.Span = MINUTE) -> Rollup:
    covered()
    writing.roll_up()
    return Rollup.objects.get(span=span, kind=KIND)


def test_what_has_ended_is_counted_by_how_it_ended() -> None:
    for status in (Status.COMPLETED, Status.COMPLETED, Status.FAILED, Status.CANCELLED):
        ended(status, error="no" if status == Status.FAILED else "")

    row = rolled_up()

    assert (row.completed, row.failed, row.cancelled) == (2, 1, 1)


def test_a_minute_counts_in_its_hour() -> None:
    ended()

    assert rolled_up(HOUR).completed == 1


def test_what_is_counted_is_not_counted_again() -> None:
    ended()
    rolled_up()

    Upkeep.objects.filter(part="rollups").update(ran_at=lately(19))
    writing.roll_up()

    assert Rollup.objects.get(span=MINUTE).completed == 1


def test_what_ends_later_is_added() -> None:
    ended()
    rolled_up()

    covered()
    writing.roll_up()

    row = Rollup.objects.get(span=HOUR)
    assert row.completed == 2
    assert sum(row.waits) == sum(row.runs) == 2


def test_children_of_pipelines_are_counted_but_not_for_how_long_jobs_wait() -> None:
    parent = make_job(Status.RUNNING)
    ended(parent=parent, name="a")

    row = rolled_up()

    assert row.completed == 1
    assert sum(row.waits) == 0
    assert sum(row.runs) == 1


def test_nothing_is_done_while_another_tick_does_it(transactional_db: None) -> None:
    Kind.objects.get_or_create(name=KIND, defaults={"queue": "io"})
    ended()
    covered()
    with connection.cursor() as cursor, threads(1) as call:
        cursor.execute("BEGIN")
        cursor.execute("SELECT FROM orchestrator_upkeep WHERE part = 'rollups' FOR UPDATE")
        call(writing.roll_up).result()
        cursor.execute("ROLLBACK")

    assert not Rollup.objects.exists()


def test_after_an_outage_a_run_covers_a_minute_at_a_time() -> None:
    covered(seconds=600)

    writing.roll_up()

    assert Upkeep.objects.get(part="rollups").ran_at < lately(500)


def test_failed_attempts_are_counted_with_the_last_error() -> None:
    job = make_job(Status.CREATED, attempt=2)
    make_attempt(job, number=1, error="ValueError: first", ended_at=lately(22))
    make_attempt(job, number=2, error="ValueError: last", ended_at=lately(21))
    make_attempt(job, number=3, outcome="INTERRUPTED", error="shut down", ended_at=lately(20))

    row = rolled_up()

    assert (row.errors, row.failed) == (2, 0)
    assert (row.last_error, row.last_failed) == ("ValueError: last", job.id)
    assert row.first_failure_at is not None
    assert row.first_failure_at < row.last_failure_at  # type: ignore[operator]


def test_what_waits_and_runs_is_counted_anew_each_time() -> None:
    waiting = submit(KIND)
    worker = make_worker_row()
    make_job(Status.RUNNING, worker=worker)
    covered()

    writing.roll_up()
    now = Backlog.objects.get()
    Job.objects.all().delete()
    covered()
    writing.roll_up()

    assert (now.kind, now.waiting, now.running) == (KIND, 1, 1)
    assert abs((now.oldest_since - waiting.created_at).total_seconds()) < 1  # type: ignore[operator]
    assert not Backlog.objects.exists()


@pytest.mark.parametrize("seconds", [0.0005, 0.004, 0.9, 30, 3_600])
def test_a_percentile_is_a_fifth_off_at_the_most(seconds: float) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {durations.bucket('%s::float')}", [seconds] * 2)
        [number] = cursor.fetchone()
    counts = [0] * durations.BUCKETS
    counts[number] = 7

    found = durations.percentile(counts, 0.95)

    assert found == pytest.approx(max(seconds, 0.001), rel=0.2)


def test_no_durations_have_no_percentile() -> None:
    assert durations.percentile([0] * durations.BUCKETS, 0.5) is None


def test_what_ended_is_read_as_charts_and_by_kind() -> None:
    ended()
    ended(Status.FAILED, error="no")
    rolled_up()

    found = reading.ended(timezone.now())

    assert [len(found.charts[span]) for span in (MINUTE, HOUR)] == [60, 24]
    assert found.total(MINUTE).ended == found.by_kind[HOUR][KIND].ended == 2


def test_how_long_jobs_wait_and_run_is_read_for_each_kind_and_for_all() -> None:
    ended(waited=1, ran=60)
    rolled_up()

    found = reading.times(timezone.now())

    assert found[""] == found[KIND]
    waits, runs = found[KIND]
    assert waits.median == pytest.approx(1, rel=0.25)
    assert runs.p95 == pytest.approx(60, rel=0.25)


def hour_row(hours_ago: int, **columns: Any) -> Rollup:
    begins = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours_ago)
    nothing = [0] * durations.BUCKETS
    given = {"completed": 0, "failed": 0, "cancelled": 0, "errors": 0, "waits": nothing, "runs": nothing}
    return Rollup.objects.create(span=HOUR, begins_at=begins, kind=KIND, **given | columns)


def test_a_kind_fails_since_the_first_hour_without_a_good_one_after_it() -> None:
    def failed(hours_ago: int) -> Rollup:
        at = timezone.now() - timedelta(hours=hours_ago)
        return hour_row(hours_ago, failed=1, first_failure_at=at, last_failure_at=at, last_error=f"{hours_ago} ago")

    failed(5)
    beginning, _ = failed(2), failed(1)

    [found] = reading.failing(timezone.now(), reading.ended(timezone.now()))

    assert found.since == beginning.first_failure_at
    assert found.last_error == "1 ago"
    assert found.day.failed == 3


@pytest.mark.parametrize(("failed", "completed", "keeps"), [(3, 3, True), (2, 0, False), (3, 4, False)])
def test_a_kind_keeps_failing_when_most_of_its_jobs_do(failed: int, completed: int, keeps: bool) -> None:
    for _ in range(failed):
        ended(Status.FAILED, error="no")
    for _ in range(completed):
        ended()
    rolled_up()

    [found] = reading.failing(timezone.now(), reading.ended(timezone.now()))

    assert found.keeps_failing is keeps


def test_old_rollups_are_pruned() -> None:
    hour_row(1)
    old = hour_row(24 * 40)

    retention.rollups()

    assert not Rollup.objects.filter(id=old.id).exists()
    assert Rollup.objects.count() == 1
