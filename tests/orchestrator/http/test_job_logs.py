"""What a handler has logged, over HTTP."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.models import AttemptLog, Job
from tests.api import Api, pointers
from tests.factories import make_job

pytestmark = pytest.mark.django_db


def log(job: Job, attempt: int, *messages: str, first: int = 1) -> None:
    lines = [[number, 1_900_000_000.25, "INFO", job.kind, text] for number, text in enumerate(messages, first)]
    AttemptLog.objects.create(job=job, attempt=attempt, lines=lines)


def test_lines_come_in_their_order_page_by_page(api: Api) -> None:
    job = make_job()
    log(job, 1, "one", "two")
    log(job, 1, "three", first=3)
    log(job, 2, "four")

    first = api.get(f"/jobs/{job.id}/logs?limit=3").json()
    second = api.get(first["next"]).json()

    assert [line["message"] for line in first["results"]] == ["one", "two", "three"]
    assert [(line["attempt"], line["number"], line["message"]) for line in second["results"]] == [(2, 1, "four")]
    assert second["next"] is None


def test_a_line_is_shown_with_all_its_fields(api: Api) -> None:
    job = make_job()
    log(job, 1, "one")

    [line] = api.get(f"/jobs/{job.id}/logs").json()["results"]

    row = AttemptLog.objects.get()
    assert line == {
        "id": f"{row.id}-1", "attempt": 1, "number": 1, "at": "2030-03-17T17:46:40.250000Z", "level": "INFO",
        "logger": job.kind, "message": "one",
    }  # fmt: skip


def test_who_has_read_the_last_line_continues_from_its_id(api: Api) -> None:
    job = make_job()
    log(job, 1, "one")
    [line] = api.get(f"/jobs/{job.id}/logs").json()["results"]
    log(job, 1, "two", first=2)

    more = api.get(f"/jobs/{job.id}/logs?cursor={line['id']}").json()["results"]

    assert [line["message"] for line in more] == ["two"]


def test_the_lines_of_one_attempt_can_be_asked_for(api: Api) -> None:
    job = make_job()
    log(job, 1, "one")
    log(job, 2, "two")

    assert [line["message"] for line in api.get(f"/jobs/{job.id}/logs?attempt=2").json()["results"]] == ["two"]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [("cursor=x", "/cursor"), ("cursor=1", "/cursor"), ("attempt=0", "/attempt"), ("level=INFO", "/level")],
)
def test_a_wrong_query_is_refused(query: str, pointer: str, api: Api) -> None:
    response = api.get(f"/jobs/{make_job().id}/logs?{query}")

    assert response.status_code == 400
    assert pointers(response) == [pointer]


def test_the_logs_of_a_job_that_is_not_there_are_not_found(api: Api) -> None:
    assert api.get("/jobs/01980c5e-7a00-7000-8000-000000000000/logs").status_code == 404


@pytest.mark.usefixtures("asks_for_tokens")
def test_only_who_sees_the_job_sees_its_logs(as_user: Callable[..., Api]) -> None:
    job = make_job(owner="ada")
    log(job, 1, "one")

    assert len(as_user("ada").get(f"/jobs/{job.id}/logs").json()["results"]) == 1
    assert as_user("eve").get(f"/jobs/{job.id}/logs").status_code == 404
    assert as_user("grace", permissions=["view_job"]).get(f"/jobs/{job.id}/logs").status_code == 200
