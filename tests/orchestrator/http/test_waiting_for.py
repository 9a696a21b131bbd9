"""Jobs are found by what they wait for, which is what the list says of each of them."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orchestrator.models import Job, Kind, OwnerShare, Step
from orchestrator.states import Status
from orchestrator.steering.waiting import REASONS
from tests.api import Api, pointers
from tests.factories import make_job, make_worker_row

pytestmark = pytest.mark.django_db

LATER = timezone.now() + timedelta(hours=2)
WAITING: list[tuple[Status, dict[str, Any]]] = [
    (Status.CREATED, {}),
    (Status.CREATED, {"attempt": 1, "error": "no"}),
    (Status.CREATED, {"unfinished_dependencies": 1}),
    (Status.RUNNING, {"unfinished_dependencies": 1, "owner": "paused"}),
    (Status.CREATED, {"run_at": LATER, "ready": False}),
    (Status.CREATED, {"run_at": LATER, "ready": False, "kind": "tests.paused"}),
    (Status.CREATED, {"run_at": LATER, "ready": False, "attempt": 1, "error": "no"}),
    (Status.CREATED, {"run_at": LATER, "ready": False, "attempt": 1}),
    (Status.CREATED, {"kind": "tests.paused", "owner": "paused"}),
    (Status.CREATED, {"owner": "paused"}),
    (Status.CREATED, {"owner": "paused", "ready": False, "blocked_by": "rate_per_key:a"}),
    (Status.CREATED, {"ready": False, "blocked_by": "max_running_per_owner:ada"}),
    (Status.CREATED, {"ready": False, "blocked_by": "max_running_per_key:rate"}),
    (Status.CREATED, {"ready": False, "blocked_by": "rate_per_owner:ada"}),
    (Status.CREATED, {"ready": False, "blocked_by": "rate_per_key:a"}),
    (Status.CREATED, {"ready": False}),
    (Status.RUNNING, {"ready": True}),
    (Status.COMPLETED, {}),
    (Status.FAILED, {"unfinished_dependencies": 1}),
    (Status.CANCELLED, {"run_at": LATER}),
]


@pytest.fixture
def by_reason(api: Api) -> dict[str, set[str]]:
    """The ids of jobs that wait for everything that there is, by what the list shows."""
    Kind.objects.create(name="tests.paused", queue="io", paused_at=timezone.now())
    OwnerShare.objects.create(owner="paused", paused_at=timezone.now())
    for status, columns in WAITING:
        make_job(status, **columns)
    make_job(Status.RUNNING, worker=make_worker_row(), worker_name="io@here")
    signalled = make_job(unfinished_dependencies=1, unresolved=True, ready=False)
    Step.objects.create(job=signalled, signal="go", waits_since=timezone.now())
    found = defaultdict(set)
    for job in api.get("/jobs?limit=100").json()["results"]:
        found[job["waiting_for"]].add(job["job_id"])
    return found


@pytest.mark.parametrize("reason", REASONS)
def test_the_list_finds_just_the_jobs_of_which_it_says_so(
    reason: str, api: Api, by_reason: dict[str, set[str]]
) -> None:
    listed = api.get(f"/jobs?waiting_for={reason}").json()["results"]

    assert {job["job_id"] for job in listed} == by_reason[reason] != set()


def test_each_reason_that_a_list_shows_can_be_asked_for(by_reason: dict[str, set[str]]) -> None:
    assert by_reason.keys() - {None} == set(REASONS)


def test_bulk_actions_commands_and_the_admin_find_the_same(
    api: Api, by_reason: dict[str, set[str]], admin_client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {"waiting_for": ["retry", "signal"]}
    ids = by_reason["retry"] | by_reason["signal"]

    counted = api.post("/jobs/cancel", {"filter": wanted, "dry_run": True}).json()["matched"]
    call_command("jobs", "list", "--waiting-for", "retry", "--waiting-for", "signal", "--json")
    listed = capsys.readouterr().out
    page = admin_client.get(reverse("admin:orchestrator_job_changelist"), {"waiting_for": "retry"})

    assert counted == len(ids)
    assert {str(job.id) for job in Job.objects.all() if str(job.id) in listed} == ids
    assert {str(job.id) for job in page.context["cl"].result_list} == by_reason["retry"]


@pytest.mark.parametrize("reason", ["max_running", "nothing"])
def test_a_reason_that_no_list_shows_is_refused(reason: str, api: Api) -> None:
    assert pointers(api.get(f"/jobs?waiting_for={reason}")) == ["/waiting_for"]
