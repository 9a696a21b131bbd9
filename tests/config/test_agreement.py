"""Readiness, the doctor and the home page tell of the same troubles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orchestrator.diagnostics import readiness
from orchestrator.diagnostics.checks import Check, Level
from orchestrator.doctor import jobs, workers
from orchestrator.models import Kind, Rollup, Worker
from orchestrator.rollups.durations import BUCKETS
from orchestrator.states import Status
from scheduler import doctor as schedules_doctor
from scheduler.models import TaskSchedule
from tests.factories import make_everything_alive, make_job
from tests.scheduler.factories import make_schedule

pytestmark = pytest.mark.django_db
# As `config.urls` does, and now: each page is a test.
admin.autodiscover()


def a_kind_keeps_failing() -> None:
    nothing, now = [0] * BUCKETS, timezone.now()
    Kind.objects.create(name="demo.slices", queue="io")
    for span in ("minute", "hour"):
        begins_at = now.replace(second=0, microsecond=0, minute=now.minute if span == "minute" else 0)
        Rollup.objects.create(
            span=span, begins_at=begins_at, kind="demo.slices", completed=0, failed=3, cancelled=0, errors=3,
            waits=nothing, runs=nothing, first_failure_at=now, last_failure_at=now, last_error="no",
        )  # fmt: skip


def slots_hang() -> None:
    for worker in Worker.objects.filter(name="io@here"):
        make_job(Status.RUNNING, worker=worker, deadline_at=timezone.now() - timedelta(minutes=1))


def a_queue_has_no_worker() -> None:
    Worker.objects.filter(name="io@here").update(ended_at=timezone.now())


def a_schedule_is_overdue() -> None:
    make_schedule()
    TaskSchedule.objects.update(next_run_at=timezone.now() - timedelta(hours=1))


def a_schedule_has_stopped() -> None:
    make_schedule()
    TaskSchedule.objects.update(next_run_at=None, last_error="ValueError: no")


@pytest.mark.parametrize(
    ("trouble", "check", "part", "is_ready", "on_home"),
    [
        (a_kind_keeps_failing, jobs.failing_kinds, "kinds", True, "demo.slices keeps failing"),
        (slots_hang, jobs.overdue_attempts, "workers", False, "Every slot of io"),
        (a_queue_has_no_worker, workers.workers, "workers", False, "No worker serves io."),
        (a_schedule_is_overdue, schedules_doctor.schedules, "schedules", True, "is overdue"),
        (a_schedule_has_stopped, schedules_doctor.stopped_schedules, "schedules", True, "has stopped"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_trouble_is_told_by_all_three(
    trouble: Callable[[], None], check: Check, part: str, is_ready: bool, on_home: str,
    admin_client: Client, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make_everything_alive()
    found = told(monkeypatch)
    assert "detail" not in found[part]

    trouble()

    page = admin_client.get(reverse("admin:index")).content.decode()
    found = told(monkeypatch)
    assert found[part]["detail"]
    assert found[part]["ok"] is is_ready
    assert check.look().level in (Level.WARN, Level.FAIL)
    assert on_home in page
    assert "All is well" not in page


def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What readiness reads of the database, with this test's connection."""
    monkeypatch.setattr(readiness, "impatient_connection", nullcontext)
    return readiness.look_into_database()
