"""PeriodicTasks that name a kind: Beat submits jobs with their kwargs, once, however many Beats there are."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_beat.schedulers import ModelEntry

from config.celery import app
from orchestrator.kind_problems import BadPayload
from orchestrator.models import Job
from orchestrator.submission import BadSubmission
from scheduler import doctor
from scheduler.beat import Scheduler
from tests.scheduler.test_beat import LIST

pytestmark = pytest.mark.django_db


def make_row(**columns: Any) -> PeriodicTask:
    """Due, every minute, of the demo kind."""
    every_minute, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.MINUTES)
    defaults = {"name": "nightly", "task": "demo.slices", "kwargs": '{"slices": 3}'}
    last = timezone.now() - timedelta(minutes=2)
    return PeriodicTask.objects.create(**defaults | {"interval": every_minute, "last_run_at": last} | columns)


def entry(row: PeriodicTask) -> ModelEntry:
    return ModelEntry(PeriodicTask.objects.get(pk=row.pk), app=app)


def run(*entries: ModelEntry) -> None:
    """Each by a Beat of its own."""
    for each in entries:
        Scheduler(app, lazy=True).apply_async(each)


def test_a_row_that_names_a_kind_submits_a_job_with_its_kwargs() -> None:
    row = make_row(priority=2)

    run(entry(row))

    job = Job.objects.get()
    assert (job.kind, job.payload["slices"], job.owner, job.priority) == ("demo.slices", 3, "", 2)
    ran = PeriodicTask.objects.get(pk=row.pk)
    assert ran.total_run_count == 1
    assert ran.last_run_at > row.last_run_at


def test_two_beats_submit_one_job_and_another_when_it_is_due_again() -> None:
    row = make_row()

    run(entry(row), entry(row))
    both_saw_it_due = [entry(row), entry(row)]
    assert Job.objects.count() == 1

    PeriodicTask.objects.filter(pk=row.pk).update(last_run_at=timezone.now() - timedelta(minutes=2))
    run(*both_saw_it_due)
    assert Job.objects.count() == 2


@pytest.mark.parametrize(
    ("columns", "error"), [({"args": "[1]"}, BadSubmission), ({"kwargs": '{"slices": "many"}'}, BadPayload)]
)
def test_what_is_no_payload_is_an_error_and_no_job(columns: dict[str, str], error: type[Exception]) -> None:
    row = make_row(**columns)

    with pytest.raises(error):
        run(entry(row))

    assert not Job.objects.exists()
    assert "nightly" in doctor.periodic_tasks.look().msg


def test_running_a_row_in_beats_admin_submits_a_job_at_once(admin_client: Client) -> None:
    row = make_row(last_run_at=timezone.now())

    admin_client.post(reverse(LIST), {"action": "run_tasks", "_selected_action": [row.pk]}, follow=True)

    assert Job.objects.get().payload["slices"] == 3
