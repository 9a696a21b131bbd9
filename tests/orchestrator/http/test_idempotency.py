"""The Idempotency-Key header."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from orchestrator import submission
from orchestrator.models import IdempotencyKey, Job
from orchestrator.states import Status
from tests.api import Api, Response, pointers
from tests.factories import make_job
from tests.orchestrator.workbench import PATIENCE_SECONDS, threads

pytestmark = pytest.mark.django_db


def post(path: str = "/jobs", body: Any = None, key: str = "order 7", api: Api | None = None) -> Response:
    return (api or Api()).post(path, body, Idempotency_Key=key)


def test_a_repeated_request_gets_the_first_response_again() -> None:
    first = post(body={"priority": 1})
    submission.cancel(Job.objects.get().id)

    again = post(body={"priority": 1})

    assert (again.status_code, again.json()) == (202, first.json())
    assert again["Location"] == first["Location"]
    assert again["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first
    assert Job.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_20_of_the_same_at_once_make_one_job() -> None:
    with threads(20) as run:
        answers = [run(post, "/orchestrate/ada") for _ in range(20)]

    responses = [answer.result() for answer in answers]
    assert {response.status_code for response in responses} == {202}
    assert len({response.json()["job_id"] for response in responses}) == 1
    assert sum("Idempotency-Replayed" in response for response in responses) == 19
    assert Job.objects.filter(kind="orchestration.two_batches").count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_second_request_waits_for_the_first_and_takes_over_if_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit, begun, go_on = submission.submit, Event(), Event()

    def fail_the_first(*args: Any, **options: Any) -> Job:
        if begun.is_set():
            return submit(*args, **options)
        begun.set()
        assert go_on.wait(PATIENCE_SECONDS)
        raise RuntimeError("a crash")

    monkeypatch.setattr(submission, "submit", fail_the_first)
    with threads(2) as run:
        first = run(post)
        assert begun.wait(PATIENCE_SECONDS)
        second = run(post)
        go_on.set()

    assert first.result().status_code == 500
    assert second.result().status_code == 202
    assert "Idempotency-Replayed" not in second.result()
    assert Job.objects.count() == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/jobs", {"priority": 2}),
        ("/jobs", None),
        ("/orchestrate/ada", {"priority": 1}),
    ],
)
def test_the_same_key_with_another_request_is_refused(path: str, body: Any) -> None:
    post(body={"priority": 1})

    response = post(path, body)

    assert (response.status_code, response["Content-Type"]) == (422, "application/problem+json")
    assert Job.objects.count() == 1


def test_the_same_key_with_another_query_is_refused() -> None:
    tasks = [{"a": 1, "b": 2}]
    assert post("/tasks/batch-request/", tasks).status_code == 202

    response = post("/tasks/batch-request/?on_error=skip", tasks)

    assert response.status_code == 422
    assert Job.objects.count() == 1


def test_a_slash_more_is_the_same_request() -> None:
    assert post("/jobs").json() == post("/jobs/").json()


def test_a_refused_request_leaves_its_key_free() -> None:
    assert post(body={"priority": 10}).status_code == 400
    assert not IdempotencyKey.objects.exists()

    assert post(body={"priority": 9}).status_code == 202


def test_a_key_refused_for_the_owners_limit_works_later() -> None:
    started = [post("/orchestrate/ada", key=str(n)).json()["job_id"] for n in range(3)]
    assert post("/orchestrate/ada", key="3").status_code == 429

    Api().delete(f"/jobs/{started[0]}")

    assert post("/orchestrate/ada", key="3").status_code == 202


def test_different_keys_are_different_requests() -> None:
    assert post(key="a").json()["job_id"] != post(key="b").json()["job_id"]


@pytest.mark.usefixtures("asks_for_tokens")
def test_the_same_key_of_another_user_is_another_key(as_user: Callable[..., Api]) -> None:
    ada, grace = as_user("ada"), as_user("grace")

    answers = [post(api=api).json() for api in (ada, grace, ada)]

    assert [answer["owner"] for answer in answers] == ["ada", "grace", "ada"]
    assert answers[0]["job_id"] == answers[2]["job_id"]


def test_a_retry_with_a_key_is_done_once() -> None:
    job = make_job(Status.FAILED)

    assert post(f"/jobs/{job.id}/retry").status_code == 202
    assert post(f"/jobs/{job.id}/retry").status_code == 202
    assert post(f"/jobs/{job.id}/retry", key="another").status_code == 409


@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\tb"])
def test_a_malformed_key_is_refused(key: str) -> None:
    response = post(key=key)

    assert (response.status_code, pointers(response)) == (400, ["/Idempotency-Key"])
    assert response.json()["errors"][0]["in"] == "header"
    assert not Job.objects.exists()


def test_a_key_may_have_255_characters() -> None:
    assert post(key="~" * 255).status_code == 202
