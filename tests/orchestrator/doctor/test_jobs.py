"""Whether jobs start, end and wait as they should."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from orchestrator.diagnostics.checks import Level, ask
from orchestrator.doctor import jobs
from orchestrator.models import Dependency, Job, Kind, Upkeep, Worker
from orchestrator.rollups import writing
from orchestrator.states import Status
from orchestrator.upkeep import tick
from tests.factories import make_everything_alive, make_job, make_worker_row
from tests.moves import put
from tests.orchestrator.doctor.conftest import AN_HOUR

pytestmark = pytest.mark.django_db(transaction=True)


def long_ready(**columns: Any) -> Job:
    then = timezone.now() - AN_HOUR
    job = make_job(run_at=then, rank=then, **columns)
    Job.objects.filter(id=job.id).update(updated_at=then)
    return job


def test_ready_jobs_that_idle_workers_leave_alone_fail() -> None:
    make_everything_alive()
    make_job()
    assert ask(jobs.waiting_jobs).level == Level.OK

    long_ready(kind="demo.other")

    finding = ask(jobs.waiting_jobs)
    assert finding.level == Level.FAIL
    assert "demo.other for 60 min" in finding.msg


def test_ready_jobs_of_busy_workers_are_a_warning() -> None:
    make_everything_alive()
    long_ready()
    make_job(Status.RUNNING, worker=Worker.objects.get(name="io@here"))

    finding = ask(jobs.waiting_jobs)

    assert finding.level == Level.WARN
    assert "The workers are busy" in finding.msg


def test_every_kind_is_listed_once_however_many_jobs_wait() -> None:
    make_everything_alive()
    for name in ("a.b", "c.d", "e.f"):
        for _ in range(3):
            long_ready(kind=name)

    assert ask(jobs.waiting_jobs).msg.count("for 60 min") == 3


def test_a_kind_that_no_worker_knows_fails() -> None:
    Kind.objects.create(name="demo.slices", queue="io")
    make_job()
    assert ask(jobs.unknown_kinds).level == Level.OK

    make_job(kind="gone.away")

    finding = ask(jobs.unknown_kinds)
    assert finding.level == Level.FAIL
    assert "gone.away" in finding.msg


def test_a_kind_that_only_workers_know_is_a_warning() -> None:
    Kind.objects.create(name="newer.kind", queue="io")
    make_job(kind="newer.kind")

    assert ask(jobs.unknown_kinds).level == Level.WARN


def test_a_queue_that_is_not_configured_fails() -> None:
    Kind.objects.create(name="demo.slices", queue="gpu")
    make_job(queue="gpu")

    finding = ask(jobs.unknown_kinds)

    assert finding.level == Level.FAIL
    assert "demo.slices (gpu)" in finding.msg


def test_a_paused_kind_is_a_warning_once_jobs_wait_for_it() -> None:
    Kind.objects.create(name="demo.slices", queue="io", paused_at=timezone.now())
    assert ask(jobs.paused_kinds).level == Level.OK

    make_everything_alive()
    long_ready()

    assert ask(jobs.paused_kinds).level == Level.WARN
    assert ask(jobs.waiting_jobs).level == Level.OK


def test_a_job_that_is_due_and_not_made_ready_fails() -> None:
    make_job(ready=False, run_at=timezone.now() + AN_HOUR)
    assert ask(jobs.due_jobs).level == Level.OK

    job = make_job(ready=False, run_at=timezone.now() - AN_HOUR)

    assert ask(jobs.due_jobs).level == Level.FAIL
    assert str(job.id) in ask(jobs.due_jobs).msg


def test_more_due_jobs_than_a_tick_makes_ready_are_no_failure_while_it_works_through_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tick, "DUE_BATCH", 1)
    hour_ago = timezone.now() - AN_HOUR
    due = [make_job(ready=False, run_at=hour_ago, created_at=hour_ago - AN_HOUR) for _ in range(3)]

    tick.make_due_ready()

    assert ask(jobs.due_jobs).level == Level.OK
    assert "working through them" in ask(jobs.due_jobs).msg
    Job.objects.update(updated_at=hour_ago)
    assert ask(jobs.due_jobs).level == Level.FAIL
    assert sum(str(job.id) in ask(jobs.due_jobs).msg for job in due) == 2


def test_an_attempt_past_its_deadline_fails() -> None:
    worker = make_worker_row()
    make_job(Status.RUNNING, worker=worker, deadline_at=timezone.now() + AN_HOUR)
    assert ask(jobs.overdue_attempts).level == Level.OK

    make_job(Status.RUNNING, worker=worker, deadline_at=timezone.now() - AN_HOUR)

    assert ask(jobs.overdue_attempts).level == Level.FAIL


def test_a_slot_that_hangs_is_a_warning_at_once() -> None:
    job = make_job(Status.RUNNING, worker=make_worker_row(), deadline_at=timezone.now() - timedelta(seconds=3))

    finding = ask(jobs.overdue_attempts)

    assert finding.level == Level.WARN
    assert f"Jobs past their timeout still hold their slots: demo.slices {job.id}" in finding.msg


def test_an_attempt_without_timeout_and_without_progress_is_a_warning_after_a_day() -> None:
    running: dict[str, Any] = {"worker": make_worker_row(), "deadline_at": None}
    make_job(Status.RUNNING, **running)
    make_job(Status.RUNNING, **running | {"deadline_at": timezone.now() + AN_HOUR}, updated_at=long_ago())
    assert ask(jobs.endless_attempts).level == Level.OK

    job = make_job(Status.RUNNING, **running, updated_at=long_ago())

    assert ask(jobs.endless_attempts).level == Level.WARN
    assert str(job.id) in ask(jobs.endless_attempts).msg


def long_ago() -> datetime:
    return timezone.now() - timedelta(days=2)


def test_a_job_whose_worker_has_ended_fails() -> None:
    make_job(Status.RUNNING, worker=make_worker_row())
    assert ask(jobs.orphaned_jobs).level == Level.OK

    job = make_job(Status.RUNNING, worker=make_worker_row(ended_at=timezone.now() - AN_HOUR))

    assert str(job.id) in ask(jobs.orphaned_jobs).msg


def test_a_job_whose_worker_has_no_row_fails() -> None:
    job = make_job(Status.RUNNING, worker_id=4711)

    assert str(job.id) in ask(jobs.orphaned_jobs).msg


def test_a_pipeline_that_unwinds_and_waits_for_nothing_fails() -> None:
    then = timezone.now() - AN_HOUR
    parent = make_job(Status.RUNNING, unwinding=True, unfinished_dependencies=1, updated_at=then)
    child = make_job(Status.RUNNING, parent=parent, worker=make_worker_row())
    assert ask(jobs.unwinding_pipelines).level == Level.OK

    Job.objects.filter(id=child.id).update(status="FAILED", worker=None, finished_at=Now())

    assert str(parent.id) in ask(jobs.unwinding_pipelines).msg


def test_a_counter_that_is_wrong_fails() -> None:
    parent = make_job(unfinished_dependencies=2)
    first = make_job(parent=parent, name="first")
    second = make_job(parent=parent, name="second", unfinished_dependencies=1)
    Dependency.objects.create(job=second, depends_on=first)
    assert ask(jobs.pipeline_counts).level == Level.OK

    put(Job.objects.filter(id=first.id), status="COMPLETED", ready=False, finished_at=Now())

    finding = ask(jobs.pipeline_counts)
    assert finding.level == Level.FAIL
    assert str(parent.id) in finding.msg
    assert str(second.id) in finding.msg


def test_a_kind_most_of_whose_jobs_fail_is_a_warning_with_its_last_error() -> None:
    Kind.objects.create(name="demo.slices", queue="io")
    at = timezone.now() - timedelta(seconds=20)
    for _ in range(3):
        make_job(Status.FAILED, error="ValueError: 503", started_at=at, finished_at=at)
    assert ask(jobs.failing_kinds).level == Level.OK

    Upkeep.objects.create(part="rollups", ran_at=timezone.now() - timedelta(seconds=40))
    writing.roll_up()

    finding = ask(jobs.failing_kinds)
    assert finding.level == Level.WARN
    assert "demo.slices, 3 of 3: ValueError: 503." in finding.msg
