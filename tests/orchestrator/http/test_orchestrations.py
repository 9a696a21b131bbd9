"""POST /orchestrate/{username} and GET /status/{username}/{job_id}."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from pytest_django import DjangoAssertNumQueries

from orchestrator import submission
from orchestrator.models import Job
from orchestrator.states import Status
from tests.api import Api, pointers
from tests.factories import make_job
from tests.orchestrator.workbench import threads

pytestmark = pytest.mark.django_db

KIND = "orchestration.two_batches"
UNKNOWN = "01980c5e-7a00-7000-8000-000000000000"


def make_orchestration(status: Status = Status.CREATED, **columns: Any) -> Job:
    return make_job(status, **{"kind": KIND, "owner": "ada", **columns})


def test_an_orchestration_is_accepted_with_its_id_and_where_to_follow_it(api: Api) -> None:
    response = api.post("/orchestrate/ada")

    job = Job.objects.get(kind=KIND)
    url = f"/status/ada/{job.id}"
    assert response.status_code == 202
    assert response.json() == {"message": "Orchestration started.", "job_id": str(job.id), "status_url": url}
    assert response["Location"] == f"http://testserver{url}"
    assert (job.owner, job.children.count()) == ("ada", 12)


def test_starting_an_orchestration_takes_few_statements(
    api: Api, django_assert_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whose it is, the cap, the INSERTs of jobs and of dependencies, and SAVEPOINT and RELEASE of the request (outside
    # of tests a transaction).
    monkeypatch.setattr("orchestrator.queue.kind_limits.KNOWN_SECONDS", 60)
    api.post("/orchestrate/ada")

    with django_assert_num_queries(6):
        api.post("/orchestrate/ada")


@pytest.mark.parametrize("username", ["a", "ada.l+x@example.com", "ädä-_", "x" * 150])
def test_usernames_are_those_of_django(api: Api, username: str) -> None:
    response = api.post(f"/orchestrate/{username}")

    assert response.status_code == 202
    assert api.get(response.json()["status_url"]).status_code == 200


@pytest.mark.parametrize("username", ["x" * 151, "a%20b", "%FF", "a;b", "%0A", "a%0A"])
def test_invalid_usernames_are_refused(api: Api, username: str) -> None:
    response = api.post(f"/orchestrate/{username}")

    assert response.status_code == 400
    assert response.json()["errors"][0]["in"] == "path"
    assert pointers(response)[0] == "/username"
    assert not Job.objects.exists()


@pytest.mark.parametrize("path", ["/orchestrate/a/b", "/orchestrate/a%2Fb", "/orchestrate/", "/orchestrate"])
def test_a_username_with_a_slash_or_without_a_character_is_no_path(api: Api, path: str) -> None:
    response = api.post(path)

    assert (response.status_code, response["Content-Type"]) == (404, "application/problem+json")


def test_an_orchestration_takes_no_fields(api: Api) -> None:
    response = api.post("/orchestrate/ada", {"speed": 9})

    assert (response.status_code, pointers(response)) == (400, ["/speed"])
    assert not Job.objects.exists()


def test_one_unfinished_orchestration_too_many_is_refused_with_why_and_when(api: Api) -> None:
    for _ in range(settings.ENV.MAX_UNFINISHED_ORCHESTRATIONS):
        assert api.post("/orchestrate/ada").status_code == 202

    response = api.post("/orchestrate/ada")

    assert response.status_code == 429
    assert int(response["Retry-After"]) >= 1
    assert response.json()["type"] == "urn:muster:problem:too-many-unfinished"
    assert "3 unfinished" in response.json()["detail"]
    assert api.post("/orchestrate/grace").status_code == 202


@pytest.mark.django_db(transaction=True)
def test_of_32_at_once_exactly_3_are_accepted() -> None:
    with threads(32) as run:
        answers = [run(Api().post, "/orchestrate/ada") for _ in range(32)]

    statuses = [answer.result().status_code for answer in answers]
    assert sorted(statuses) == [202] * 3 + [429] * 29
    assert Job.objects.filter(kind=KIND, owner="ada").count() == 3


def test_a_status_is_pending_before_it_runs(api: Api) -> None:
    job = make_orchestration()

    response = api.get(f"/status/ada/{job.id}")

    assert response.status_code == 200
    assert response.json() == {
        "job_id": str(job.id),
        "status": "PENDING",
        "created_at": job.created_at.isoformat().replace("+00:00", "Z"),
        "updated_at": job.updated_at.isoformat().replace("+00:00", "Z"),
    }


def test_a_completed_status_has_the_result(api: Api) -> None:
    result = {"first_batch": {"aggregated_sum": 1}, "second_batch": {"aggregated_sum": 2}}
    job = make_orchestration(Status.COMPLETED, result=result)

    shown = api.get(f"/status/ada/{job.id}").json()

    assert (shown["status"], shown["result"]) == ("COMPLETED", result)
    assert "error" not in shown


def test_a_failed_status_is_a_200_with_the_error(api: Api) -> None:
    job = make_orchestration(Status.FAILED, error="ValueError: no")

    response = api.get(f"/status/ada/{job.id}")

    assert (response.status_code, response.json()["error"]) == (200, "ValueError: no")
    assert "result" not in response.json()


@pytest.mark.parametrize("status", [Status.RUNNING, Status.CANCELLED])
def test_other_statuses_have_neither_result_nor_error(api: Api, status: Status) -> None:
    shown = api.get(f"/status/ada/{make_orchestration(status).id}").json()

    assert shown["status"] == status
    assert shown.keys().isdisjoint({"result", "error"})


def test_what_is_not_that_users_orchestration_is_not_found(api: Api) -> None:
    parent = make_orchestration()
    others = [
        UUID(UNKNOWN),
        make_orchestration(owner="grace").id,
        make_job(owner="ada").id,
        make_orchestration(parent=parent, name="child").id,
    ]

    for job_id in others:
        response = api.get(f"/status/ada/{job_id}")

        assert (response.status_code, response["Content-Type"]) == (404, "application/problem+json")


def test_a_malformed_id_is_refused(api: Api) -> None:
    response = api.get("/status/ada/7")

    assert (response.status_code, pointers(response)) == (400, ["/job_id"])


def test_all_errors_of_a_path_are_reported_at_once(api: Api) -> None:
    response = api.get("/status/a%20b/7")

    assert (response.status_code, pointers(response)) == (400, ["/username", "/job_id"])


def test_cancelling_makes_room_for_another(api: Api) -> None:
    started = [api.post("/orchestrate/ada").json()["job_id"] for _ in range(3)]

    submission.cancel(UUID(started[0]))

    assert api.post("/orchestrate/ada").status_code == 202
