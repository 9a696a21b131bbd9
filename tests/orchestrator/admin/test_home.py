"""The home page: what fails, waits and runs, to whom it is shown, and what it costs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orchestrator.diagnostics import queries
from orchestrator.models import HeldBack, Job, Kind, Upkeep
from orchestrator.rollups import writing
from orchestrator.states import Status
from orchestrator.submission import submit, submit_many
from tests.factories import make_attempt, make_everything_alive, make_job, make_worker_row, staff_with

pytestmark = pytest.mark.django_db
# As `config.urls` does, and now: each page is a test.
admin.autodiscover()

KIND = "demo.slices"
MAX_QUERIES = 12


@pytest.fixture(autouse=True)
def known_kind(db: None) -> Kind:
    return Kind.objects.create(name=KIND, queue="io")


def home(client: Client, **headers: str) -> str:
    response = client.get(reverse("admin:index"), headers=headers)
    assert response.status_code == 200
    return response.content.decode()


def roll_up() -> None:
    Upkeep.objects.update_or_create(part="rollups", defaults={"ran_at": timezone.now() - timedelta(seconds=40)})
    writing.roll_up()


def ended(status: Status = Status.COMPLETED, **columns: Any) -> Job:
    at = timezone.now() - timedelta(seconds=20)
    return make_job(status, created_at=at, run_at=at, started_at=at, finished_at=at, **columns)


def failed(error: str = "ValueError: 503 from the bank") -> Job:
    job = ended(Status.FAILED, error=error)
    make_attempt(job, error=error, ended_at=job.finished_at)
    return job


def test_it_costs_as_few_queries_however_many_jobs_there_are(
    admin_client: Client, django_assert_max_num_queries: Any
) -> None:
    make_everything_alive()
    submit_many(KIND, [{}] * 100)
    for _ in range(20):
        failed()
    roll_up()

    with django_assert_max_num_queries(MAX_QUERIES):
        home(admin_client)


def test_it_costs_viewers_as_few(django_assert_max_num_queries: Any) -> None:
    client = staff_with("view_job", "view_taskschedule", "view_ingestion")

    with django_assert_max_num_queries(MAX_QUERIES):
        home(client)


def test_what_fails_is_named_with_its_last_error_and_leads_to_it(admin_client: Client) -> None:
    job = failed()
    roll_up()

    page = home(admin_client)

    assert "ValueError: 503 from the bank" in page
    assert reverse("admin:orchestrator_job_change", args=[job.id]) in page
    assert f"?kind={KIND}&amp;status__exact=FAILED" in page


def test_a_kind_that_keeps_failing_is_among_what_to_look_at(admin_client: Client) -> None:
    make_everything_alive()
    for _ in range(3):
        failed()
    roll_up()

    assert f"{KIND} keeps failing: 3 of 3 jobs in the last hour." in home(admin_client)


def test_all_is_well_when_nothing_is_wrong(admin_client: Client) -> None:
    make_everything_alive()

    assert "All is well" in home(admin_client)


def test_a_few_failed_jobs_are_said_although_work_goes_on(admin_client: Client) -> None:
    make_everything_alive()
    failed()
    roll_up()

    page = home(admin_client)

    assert "Work goes on; 1 job failed in the last hour" in page
    assert "All is well" not in page


def test_a_queue_without_a_worker_and_a_stopped_tick_are_told(admin_client: Client) -> None:
    make_worker_row("io")

    page = home(admin_client)

    assert "No worker serves default." in page
    assert "The tick has never run" in page


def test_a_paused_kind_with_waiting_jobs_is_told(admin_client: Client) -> None:
    Kind.objects.update(paused_at=Now())
    submit(KIND)
    roll_up()

    assert f"{KIND} is paused, and a job waits." in home(admin_client)


def test_what_limits_hold_back_is_told_with_the_limit_and_since_when(admin_client: Client) -> None:
    Kind.objects.update(declared_limits={"max_running": 2, "rate": "10/m", "rate_per": "owner"})
    hour_ago = timezone.now() - timedelta(hours=1, minutes=5)
    HeldBack.objects.create(kind=KIND, limit="max_running", jobs=3, oldest_since=hour_ago)
    HeldBack.objects.create(kind=KIND, limit="rate", jobs=1_204, oldest_since=hour_ago)

    page = home(admin_client)

    assert "Held back by limits" in page
    assert "max_running = 2" in page
    assert "rate = 10/m per owner" in page
    assert "1,204" in page
    assert f"?kind={KIND}&amp;waiting_for=rate" in page
    assert f"?kind={KIND}&amp;waiting_for=worker" in page


def test_without_limits_that_hold_anything_back_there_is_no_such_card(admin_client: Client) -> None:
    assert "Held back by limits" not in home(admin_client)


def test_workers_show_what_they_run_and_which_slots_hang(admin_client: Client) -> None:
    worker = make_worker_row("io", slots=8)
    for _ in range(2):
        make_job(Status.RUNNING, worker=worker, deadline_at=timezone.now() - timedelta(minutes=1))

    page = home(admin_client)

    assert "2 of 8" in page
    assert "2 slots hang" in page


def test_a_group_behind_a_job_that_hangs_holds_no_more_slots_than_its_worker_has(admin_client: Client) -> None:
    make_everything_alive()
    hanging, _ = make_worker_row("io", slots=2), make_worker_row("io", slots=2)
    for _ in range(9):
        make_job(Status.RUNNING, worker=hanging, deadline_at=timezone.now() - timedelta(minutes=1))

    page = home(admin_client)

    assert queries.workers()["ok"]
    assert "Every slot of io" not in page
    assert "2 slots hang" in page


def test_only_what_somebody_may_see_is_shown_to_them() -> None:
    failed()
    roll_up()

    page = home(staff_with("view_taskschedule"))

    assert "503 from the bank" not in page
    assert KIND not in page


def test_whoever_may_see_nothing_is_told_so() -> None:
    assert "see nothing yet" in home(staff_with())


def test_it_refreshes_itself_without_the_frame_around_it(admin_client: Client) -> None:
    whole, part = home(admin_client), home(admin_client, HX_Request="true")

    assert 'id="nav-sidebar"' in whole
    assert 'id="nav-sidebar"' not in part
    assert 'id="home"' in part


def test_failures_are_counted_in_the_sidebar_of_other_pages(admin_client: Client) -> None:
    failed()
    roll_up()

    page = admin_client.get(reverse("admin:orchestrator_kind_changelist")).content.decode()

    sidebar = page[page.index('id="nav-sidebar"') :]
    assert sidebar.index("Jobs") < sidebar.index("Tasks") < sidebar.index("Kinds") < sidebar.index("Crontabs")
    assert "bg-red-100" in sidebar[sidebar.index("Jobs") : sidebar.index("Tasks")]


def test_kinds_are_listed_with_what_became_of_their_jobs(admin_client: Client) -> None:
    ended()
    failed()
    roll_up()

    page = admin_client.get(reverse("admin:orchestrator_kind_changelist"))

    [kind] = page.context["cl"].result_list
    assert (kind.hour.completed, kind.hour.failed) == (1, 1)
    assert len(kind.day) == 24
    assert "Last day: 1 completed, 1 failed" in page.content.decode()
    assert "Show all" not in page.content.decode()
