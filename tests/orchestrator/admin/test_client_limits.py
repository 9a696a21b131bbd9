"""What the admin lets those do who may not exceed the limits of clients."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from orchestrator.models import Job, Step
from orchestrator.states import Status
from orchestrator.steering.selection import BULK_ACTION
from tests.factories import make_job, staff_with

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("requires_auth", "measures_anew")]

JOBS = "admin:orchestrator_job_changelist"
OF_OPERATORS = ("view_job", "retry_job", "reschedule_job", "view_payload", "submit_for_others")


@pytest.fixture
def requires_auth(settings: Settings) -> None:
    """As in production; where it is off everyone may ask for everything."""
    settings.ENV = msgspec.structs.replace(settings.ENV, REQUIRE_AUTH=True, DEMO_KINDS=True)


@pytest.fixture
def one_job_each(settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, CLIENT_MAX_UNFINISHED=1)


def act(client: Client, action: str, *jobs: Job, **fields: str) -> str:
    chosen = {"action": action, "_selected_action": [str(job.pk) for job in jobs], "confirmed": "yes"} | fields
    return client.post(reverse(JOBS), chosen, follow=True).content.decode()


def press(client: Client, button: str, job: Job, **fields: Any) -> None:
    url = reverse(f"admin:orchestrator_job_{button}", args=[job.id])
    client.post(url, {"_form_submitted": "True"} | fields)


def messages(client: Client) -> str:
    return client.get(reverse(JOBS)).content.decode()


def statuses() -> list[str]:
    return sorted(Job.objects.exclude(kind=BULK_ACTION).values_list("status", flat=True))


@pytest.mark.usefixtures("one_job_each")
@pytest.mark.parametrize(
    ("across", "then"), [({}, ["CREATED", "FAILED"]), ({"select_across": "1"}, ["FAILED", "FAILED"])]
)
def test_jobs_are_retried_as_far_as_their_owner_may_have_them(across: dict[str, str], then: list[str]) -> None:
    jobs = [make_job(Status.FAILED, owner="ada") for _ in range(2)]

    page = act(staff_with(*OF_OPERATORS), "retry_selected", *jobs, **across)

    assert "would have more than 1 unfinished jobs" in page
    assert statuses() == then


@pytest.mark.usefixtures("one_job_each")
def test_who_may_exceed_the_limits_retries_all() -> None:
    jobs = [make_job(Status.FAILED, owner="ada") for _ in range(2)]

    act(staff_with(*OF_OPERATORS, "exceed_client_limits"), "retry_selected", *jobs)

    assert statuses() == ["CREATED", "CREATED"]


@pytest.mark.parametrize(
    ("permissions", "priority"), [(OF_OPERATORS, 3), ((*OF_OPERATORS, "exceed_client_limits"), 0)]
)
def test_the_most_urgent_is_what_one_may_ask_for(
    permissions: tuple[str, ...], priority: int, django_capture_on_commit_callbacks: Any
) -> None:
    job = make_job()

    with django_capture_on_commit_callbacks(execute=True):
        act(staff_with(*permissions), "urgent_selected", job)

    assert Job.objects.get(id=job.id).priority == priority


def test_a_place_beyond_the_limits_is_refused() -> None:
    client, job = staff_with(*OF_OPERATORS), make_job()

    press(client, "change_place", job, priority="2")

    assert "You may ask for the priorities 3 to 9." in messages(client)
    assert Job.objects.get(id=job.id).priority == 5


@pytest.mark.usefixtures("one_job_each")
def test_a_job_that_is_run_again_is_within_the_limits() -> None:
    client, job = staff_with(*OF_OPERATORS), make_job(Status.FAILED, owner="ada")

    press(client, "run_again", job, priority="2", payload="{}")
    beyond = messages(client)
    press(client, "run_again", job, priority="3", payload="{}")
    press(client, "run_again", job, priority="3", payload="{}")

    assert "You may ask for the priorities 3 to 9." in beyond
    assert "would have more than 1 unfinished jobs" in messages(client)
    assert statuses() == ["CREATED", "FAILED"]


def test_a_signal_counts_as_stored(settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, CLIENT_MAX_STORED_BYTES=1)
    client, job = staff_with("view_job", "signal_job"), make_job(owner="ada", unresolved=True, ready=False)
    Step.objects.create(job=job, signal="go", wait={"signal": "go"})

    press(client, "send_signal", job, name="go", body="{}")

    assert "bytes stored for unfinished jobs" in messages(client)
