"""The admin in a browser: what an operator does there, on a desk and on a phone, in light and dark, by keyboard."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now
from django.utils import timezone
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from ingestion.models import Ingestion, RecordError
from orchestrator.models import Attempt, AttemptLog, Job, Kind, Upkeep
from orchestrator.rollups import writing
from orchestrator.states import Status
from orchestrator.submission import cancel, submit
from tests.browser.conftest import PHONE, Browser
from tests.factories import make_attempt, make_job, make_worker_row
from tests.moves import put
from tests.scheduler.factories import make_schedule

TRACEBACK = """Traceback (most recent call last):
  File "/srv/venv/lib/python3.13/site-packages/requests/api.py", line 59, in request
    return session.request(method=method, url=url, **kwargs)
  File "/srv/shop/jobs.py", line 12, in charge
    raise PaymentRefused("503 from the bank")
shop.PaymentRefused: 503 from the bank
"""


@pytest.fixture
def busy(operator: User) -> dict[str, Any]:
    """Something of everything: jobs that failed, wait and run, a pipeline, workers, a schedule, rollups."""
    Kind.objects.create(name="demo.slices", queue="io")
    worker = make_worker_row(slots=8)
    for queue in ("default", "control"):
        make_worker_row(queue)
    ago = timezone.now() - timedelta(seconds=30)
    times = {"created_at": ago, "run_at": ago, "started_at": ago, "finished_at": ago + timedelta(seconds=5)}
    failed = make_job(Status.FAILED, error="shop.PaymentRefused: 503 from the bank", owner="ada", **times)
    make_attempt(failed, error=failed.error, traceback=TRACEBACK, started_at=ago, ended_at=ago + timedelta(seconds=5))
    make_job(Status.COMPLETED, result={"sum": 3}, **times)
    running = make_job(
        Status.RUNNING, worker=worker, worker_name=worker.name, progress_done=3, progress_total=5, started_at=ago
    )
    pipeline = submit("orchestration.two_batches", owner="ada")
    AttemptLog.objects.create(job=failed, attempt=1, lines=[[1, ago.timestamp(), "WARNING", "shop", "slow bank"]])
    ingestion = Ingestion.objects.create(job=make_job(kind="ingestion.ingest"), total_records=2)
    RecordError.objects.create(
        ingestion=ingestion, index=1, errors=[{"field": "grade", "code": "invalid", "message": "Must be 1 to 12."}]
    )
    schedule = make_schedule()
    Upkeep.objects.create(part="tick", ran_at=timezone.now())
    Upkeep.objects.create(part="rollups", ran_at=timezone.now() - timedelta(seconds=50))
    writing.roll_up()
    return {"failed": failed, "running": running, "pipeline": pipeline, "schedule": schedule, "ingestion": ingestion}


def pages(busy: dict[str, Any]) -> list[str]:
    jobs = [f"/admin/orchestrator/job/{busy[name].id}/change/" for name in ("failed", "running", "pipeline")]
    lists = ["orchestrator/job", "orchestrator/kind", "orchestrator/worker", "scheduler/task", "ingestion/ingestion"]
    schedule = f"/admin/scheduler/taskschedule/{busy['schedule'].id}/change/"
    others = [f"ingestion/ingestion/{busy['ingestion'].id}", "orchestrator/kind/demo.slices"]
    shown = [*lists, *(f"{name}/change" for name in others)]
    return ["/", "/admin/", *(f"/admin/{name}/" for name in shown), *jobs, schedule, "/admin/nowhere/"]


def test_an_operator_logs_in_and_sees_what_fails(browser: Browser, busy: dict[str, Any]) -> None:
    browser.open("/admin/")
    browser.find("[name=username]").send_keys("root")
    browser.find("[name=password]").send_keys("long enough to be one", Keys.ENTER)

    browser.wait_for("#home")

    assert "demo.slices" in browser.text()
    assert "503 from the bank" in browser.text()
    assert browser.complaints() == []
    assert browser.foreign_requests() == []


def test_a_job_is_cancelled_by_its_button(logged_in: Browser, busy: dict[str, Any]) -> None:
    job = submit("demo.slices")
    logged_in.open(f"/admin/orchestrator/job/{job.id}/change/")

    logged_in.wait_for("[hx-get$='/cancel_this/']").click()
    logged_in.wait_for("#dialog button[type=submit]").click()
    logged_in.wait_for_text("Requested cancellation of 1 job.")

    assert Job.objects.get(id=job.id).status == Status.CANCELLED
    assert logged_in.complaints() == []


def test_all_failed_jobs_are_retried_at_once(logged_in: Browser, busy: dict[str, Any]) -> None:
    for _ in range(59):
        make_job(Status.FAILED, error="no")
    logged_in.open("/admin/orchestrator/job/?status__exact=FAILED")

    # By keys: the bar with the actions slides in, and a click would miss what it was meant for.
    logged_in.wait_for("#action-toggle").send_keys(Keys.SPACE)
    logged_in.wait_for(".actions .question a").send_keys(Keys.ENTER)
    Select(logged_in.wait_for("select[name=action]")).select_by_value("retry_selected")
    logged_in.wait_for(".actions button[type=submit]").send_keys(Keys.ENTER)
    logged_in.wait_for_text("Retry 60 jobs")
    logged_in.wait_for(".m-button.m-main").send_keys(Keys.ENTER)
    logged_in.wait_for_text("Retry 60 jobs: this job does it.")

    assert not Job.objects.filter(status=Status.FAILED).exists()


def test_a_pipelines_graph_turns_from_waiting_to_done(logged_in: Browser, busy: dict[str, Any]) -> None:
    parent = busy["pipeline"]
    logged_in.open(f"/admin/orchestrator/job/{parent.id}/change/")
    logged_in.wait_for(".m-graph .m-step.m-created")

    children = Job.objects.filter(parent=parent)
    put(children, status=Status.COMPLETED, ready=False, started_at=Now(), finished_at=Now())

    logged_in.wait_for(".m-graph .m-step.m-completed")
    logged_in.wait_for_text("12 of 12 done")


def test_every_page_fits_a_phone(logged_in: Browser, busy: dict[str, Any]) -> None:
    logged_in.resize(PHONE)

    too_wide = {}
    for path in pages(busy):
        logged_in.open(path)
        if pixels := logged_in.overflow():
            too_wide[path] = pixels

    assert too_wide == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_and_its_own(logged_in: Browser, busy: dict[str, Any], axe: str, scheme: str) -> None:
    logged_in.prefer(scheme)

    found = {}
    for path in pages(busy):
        logged_in.open(path)
        found[path] = logged_in.findings(axe)

    assert {path: each for path, each in found.items() if each} == {}
    assert [each for each in logged_in.complaints() if "404" not in each] == []
    assert logged_in.foreign_requests() == []


def test_a_failed_job_is_reached_from_the_home_page_by_keyboard_alone(
    logged_in: Browser, busy: dict[str, Any]
) -> None:
    logged_in.open("/admin/")
    for _ in range(60):
        logged_in.driver.switch_to.active_element.send_keys(Keys.TAB)
        if "503 from the bank" in logged_in.driver.switch_to.active_element.text:
            break
    logged_in.driver.switch_to.active_element.send_keys(Keys.ENTER)

    logged_in.wait_for("#job")

    assert str(busy["failed"].id) in logged_in.driver.current_url
    assert Attempt.objects.count() == 1


def test_redoc_asks_no_foreign_host(browser: Browser, transactional_db: None) -> None:
    browser.open("/api/docs/")
    browser.wait_for("[role=navigation], .menu-content")

    assert browser.complaints() == []
    assert browser.foreign_requests() == []


def test_a_jobs_page_follows_its_event_stream(
    logged_in: Browser, busy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # By polling it would not be refreshed within the test.
    monkeypatch.setattr("orchestrator.admin.job_page.REFRESH_SECONDS", 1_000)
    monkeypatch.setattr("orchestrator.live.watching.POLL_SECONDS", 0.02)
    job = submit("demo.slices")
    logged_in.open(f"/admin/orchestrator/job/{job.id}/change/")
    logged_in.wait_for("#job[data-events]")

    cancel(job.id)

    logged_in.wait_for_text("CANCELLED")
    assert logged_in.complaints() == []
