"""POST /jobs/cancel, /jobs/retry and /jobs/change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from access.models import AuditEntry
from orchestrator.models import Job
from orchestrator.states import Status
from orchestrator.steering.selection import BULK_ACTION
from tests.api import Api, pointers
from tests.factories import make_job

pytestmark = pytest.mark.django_db

Done = Callable[..., Any]


@pytest.fixture
def done(django_capture_on_commit_callbacks: Any) -> Done:
    """Asks for an action, which is done at once, as it is for few jobs."""

    def ask(api: Api, path: str, body: Any, **headers: str) -> Any:
        with django_capture_on_commit_callbacks(execute=True):
            return api.post(path, body, **headers)

    return ask


def status(job: Job) -> str:
    return Job.objects.get(id=job.id).status


SCHEDULE = "01985f00-0000-7000-8000-000000000001"
FILTERS: list[dict[str, Any]] = [
    {"status": ["FAILED", "CANCELLED"]},
    {"kind": ["tests.echo", "tests.nothing"]},
    {"owner": "ada"},
    {"owner": ["ada", "eve"]},
    {"queue": "slow"},
    {"priority": [1, 2]},
    {"schedule": SCHEDULE},
    {"created_before": "2025-01-02T00:00:00Z"},
    {"finished_after": "2025-01-03T00:00:00Z", "finished_before": "2025-01-04T00:00:00Z"},
    {"owner": "ada", "priority": 1},
]


@pytest.mark.parametrize("wanted", FILTERS)
def test_the_list_of_jobs_takes_the_same_filters(wanted: dict[str, Any], api: Api) -> None:
    in_2025 = datetime(2025, 1, 1, tzinfo=UTC)
    make_job(Status.FAILED, owner="ada", queue="slow", priority=1, schedule_id=SCHEDULE)
    make_job(Status.CANCELLED, owner="eve", priority=2, created_at=in_2025, finished_at=in_2025 + timedelta(days=2.5))
    make_job(Status.COMPLETED, kind="tests.echo", created_at=in_2025)
    make_job(owner="ada", priority=9)

    listed = api.get(f"/jobs?{urlencode(wanted, doseq=True)}").json()["results"]
    counted = api.post("/jobs/cancel", {"filter": wanted, "dry_run": True}).json()["matched"]
    counted += api.post("/jobs/retry", {"filter": wanted, "dry_run": True}).json()["matched"]

    completed = sum(job["status"] == "COMPLETED" for job in listed)
    assert 0 < len(listed) < 4
    assert len(listed) - completed == counted


@pytest.mark.parametrize("query", ["priority=urgent", "priority=1&priority=12", "ids=7", "status=FAILED&status=DONE"])
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_filter(query: str, api: Api) -> None:
    refused = api.get(f"/jobs?{query}")

    assert (refused.status_code, pointers(refused)) == (400, [f"/{query.partition('=')[0]}"])


def test_the_list_of_these_jobs_is_just_of_them(api: Api) -> None:
    first, second, _ = make_job(), make_job(), make_job()

    listed = api.get(f"/jobs?ids={first.id}&ids={second.id}").json()["results"]

    assert [job["job_id"] for job in listed] == [str(second.id), str(first.id)]


def test_what_matches_is_cancelled(api: Api, done: Done) -> None:
    wanted, other = make_job(owner="ada"), make_job(owner="eve")

    response = done(api, "/jobs/cancel", {"filter": {"owner": "ada", "status": ["CREATED", "RUNNING"]}})

    answer = response.json()
    action = Job.objects.get(kind=BULK_ACTION)
    assert (response.status_code, answer["matched"], answer["exact"]) == (202, 1, True)
    assert answer["link"] == f"/jobs/{action.id}"
    assert (status(wanted), status(other)) == ("CANCELLED", "CREATED")


def test_a_dry_run_only_counts(api: Api, done: Done) -> None:
    job = make_job()
    make_job(Status.COMPLETED)

    response = done(api, "/jobs/cancel", {"filter": {"kind": "demo.slices"}, "dry_run": True})

    assert (response.status_code, response.json()["matched"], response.json()["exact"]) == (200, 1, True)
    assert status(job) == "CREATED"
    assert Job.objects.count() == 2


def test_where_nothing_matches_no_job_is_submitted(api: Api, done: Done) -> None:
    response = done(api, "/jobs/retry", {"filter": {"status": "FAILED"}})

    assert (response.status_code, response.json()["matched"], response.json()["job_id"]) == (200, 0, None)
    assert not Job.objects.exists()


def test_what_failed_is_retried(api: Api, done: Done) -> None:
    failed, completed = make_job(Status.FAILED), make_job(Status.COMPLETED)

    done(api, "/jobs/retry", {"filter": {"kind": ["demo.slices"]}})

    assert (status(failed), status(completed)) == ("CREATED", "COMPLETED")


def test_places_are_changed(api: Api, done: Done) -> None:
    job = make_job(priority=5)

    done(api, "/jobs/change", {"filter": {"priority": 5}, "change": {"priority": 0, "run_at": "2030-01-31T12:00:00Z"}})

    changed = Job.objects.get(id=job.id)
    assert (changed.priority, changed.run_at.year, changed.ready) == (0, 2030, False)


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/jobs/cancel", {}, "/filter"),
        ("/jobs/cancel", {"filter": {}}, "/filter"),
        ("/jobs/cancel", {"filter": {"status": []}}, "/filter/status"),
        ("/jobs/cancel", {"filter": {"status": "WAITING"}}, "/filter/status/0"),
        ("/jobs/cancel", {"filter": {"knd": "a"}}, "/filter/knd"),
        ("/jobs/cancel", {"filter": {"created_after": "today"}}, "/filter/created_after"),
        ("/jobs/cancel", {"filter": {"kind": "a"}, "dry_run": "no"}, "/dry_run"),
        ("/jobs/change", {"filter": {"kind": "a"}}, "/change"),
        ("/jobs/change", {"filter": {"kind": "a"}, "change": {"priority": 10}}, "/change/priority"),
    ],
)
def test_what_is_no_filter_is_refused(api: Api, path: str, body: Any, pointer: str) -> None:
    response = api.post(path, body)

    assert (response.status_code, pointers(response)) == (400, [pointer])


def test_a_key_acts_once(api: Api, done: Done) -> None:
    make_job(Status.FAILED)
    body = {"filter": {"status": "FAILED"}}

    first = done(api, "/jobs/retry", body, Idempotency_Key="k")
    make_job(Status.FAILED)
    second = done(api, "/jobs/retry", body, Idempotency_Key="k")

    assert second.json() == first.json()
    assert Job.objects.filter(status="FAILED").count() == 1


def test_users_act_on_their_own_jobs_and_operators_on_all(
    as_user: Callable[..., Api], asks_for_tokens: None, done: Done
) -> None:
    hers, his, theirs = make_job(owner="ada"), make_job(owner="eve"), make_job(owner="viewer")
    every = {"filter": {"kind": "demo.slices"}}

    for_viewer = done(as_user("viewer", group="viewers"), "/jobs/cancel", every | {"dry_run": True})
    done(as_user("ada"), "/jobs/cancel", every)

    assert for_viewer.json()["matched"] == 1
    assert [status(job) for job in (hers, his, theirs)] == ["CANCELLED", "CREATED", "CREATED"]
    done(as_user("op", group="operators"), "/jobs/cancel", every)
    assert [status(job) for job in (his, theirs)] == ["CANCELLED", "CANCELLED"]
    assert AuditEntry.objects.get(object_id=his.id).actor == "op"


def test_another_owner_is_named_only_with_the_permission(as_user: Callable[..., Api], asks_for_tokens: None) -> None:
    make_job(owner="ada")
    body = {"filter": {"owner": "ada"}}

    assert as_user("eve").post("/jobs/cancel", body).status_code == 403
    assert as_user("vi", group="viewers").post("/jobs/cancel", body).status_code == 403


def test_who_sees_the_action_does_not_see_from_where_it_was_asked_for(api: Api, done: Done) -> None:
    make_job(owner="ada")

    answer = done(api, "/jobs/cancel", {"filter": {"owner": "ada"}}).json()

    payload = api.get(answer["link"]).json()["payload"]
    assert payload == {"action": "cancel", "filter": {"owner": ["ada"]}}


@pytest.mark.parametrize(("change", "pointer"), [({}, "/change"), ({"priority": 10}, "/change/priority")])
def test_a_change_that_cannot_be_is_pointed_to(change: Any, pointer: str, api: Api) -> None:
    refused = api.post("/jobs/change", {"filter": {"kind": "demo.slices"}, "change": change})

    assert (refused.status_code, pointers(refused)) == (400, [pointer])
