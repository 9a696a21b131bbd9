"""Jobs that a schedule submits: they name it, and the time of it that they are."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.db import IntegrityError, transaction

from orchestrator.ids import uuid7
from orchestrator.models import Job
from orchestrator.submission import Occurrence, Submission, submit, submit_many
from tests.api import Api, api, pointers

__all__ = ["api"]

pytestmark = pytest.mark.django_db

NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)


def test_a_job_of_a_schedule_says_which_and_for_when(api: Api) -> None:
    schedule = uuid7()
    job = submit("demo.slices", occurrence=Occurrence(schedule, NOON))
    submit("demo.slices")

    shown = api.get(f"/jobs/{job.id}").json()
    listed = api.get(f"/jobs?schedule={schedule}").json()["results"]

    assert (shown["schedule"], shown["scheduled_for"]) == (str(schedule), "2030-01-31T12:00:00Z")
    assert [each["job_id"] for each in listed] == [str(job.id)]


def test_jobs_submitted_in_bulk_have_occurrences_and_starts_of_their_own() -> None:
    schedule = uuid7()
    first, second = submit_many(
        "demo.slices",
        [Submission(payload={}, occurrence=Occurrence(schedule, NOON), run_at=NOON), Submission(payload={})],
    )

    jobs = Job.objects.in_bulk([first, second])
    assert (jobs[first].schedule_id, jobs[first].scheduled_for, jobs[first].run_at) == (schedule, NOON, NOON)
    assert (jobs[second].schedule_id, jobs[second].scheduled_for) == (None, None)


def test_an_occurrence_is_one_job_but_a_schedule_may_run_without_one_as_often_as_it_likes() -> None:
    schedule = uuid7()
    submit("demo.slices", occurrence=Occurrence(schedule, NOON))

    with pytest.raises(IntegrityError, match="job_once_an_occurrence"), transaction.atomic():
        submit("demo.slices", occurrence=Occurrence(schedule, NOON))

    for _ in range(2):
        submit("demo.slices", occurrence=Occurrence(schedule))


def test_a_schedule_to_look_for_is_an_id(api: Api) -> None:
    assert pointers(api.get("/jobs?schedule=nightly")) == ["/schedule"]
