"""Signals over HTTP: who may send them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.models import Job, Signal
from tests.api import Api

pytestmark = pytest.mark.django_db

SLICES = {"kind": "demo.slices"}
WAITING = SLICES | {"wait_for": {"signal": "approve", "fields": {"approved": "boolean"}}}


def submitted(api: Api, body: Any) -> str:
    response = api.post("/jobs", body)
    assert response.status_code == 202
    return str(response.json()["job_id"])


def test_a_job_says_what_it_waits_for_and_goes_on_when_that_comes(
    api: Api, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        id = submitted(api, WAITING)
    job = api.get(f"/jobs/{id}").json()
    assert (job["waiting_for"], job["signal"]) == ("signal", "approve")

    with django_capture_on_commit_callbacks(execute=True):
        response = api.post(f"/jobs/{id}/signals/approve", {"approved": True})

    assert (response.status_code, response.json()) == (202, {"job_id": id, "signal": "approve"})
    job = api.get(f"/jobs/{id}").json()
    assert (job["waiting_for"], job["signal"]) == ("worker", None)


@pytest.mark.parametrize(
    ("body", "pointer"), [([], ""), ({"approved": "yes"}, "/approved"), ({}, "/approved"), ({"a": 1}, "/a")]
)
def test_a_body_that_is_not_what_is_waited_for_is_a_400(body: Any, pointer: str, api: Api) -> None:
    response = api.post(f"/jobs/{submitted(api, WAITING)}/signals/approve", body)

    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (400, pointer)


def test_what_nothing_waits_for_and_what_came_already_is_a_409(api: Api) -> None:
    id = submitted(api, SLICES | {"wait_for": "approve"})

    statuses = [api.post(f"/jobs/{id}/signals/{name}").status_code for name in ("other", "approve", "approve")]

    assert statuses == [409, 202, 409]


def test_a_wait_is_checked_when_it_is_submitted(api: Api) -> None:
    job = api.post("/jobs", SLICES | {"wait_for": {"signal": "a", "default": {}}})
    step = api.post("/pipelines", {"steps": {"a": SLICES | {"wait_for": {"signal": ""}}}})

    assert (job.status_code, job.json()["errors"][0]["pointer"]) == (400, "/wait_for/default")
    assert (step.status_code, step.json()["errors"][0]["pointer"]) == (400, "/steps/a/wait_for/signal")
    assert not Job.objects.exists()


def test_a_step_may_take_a_signals_body_only_if_it_waits_for_it(api: Api) -> None:
    payload = {"slices": {"$from": "$signal.slices"}}

    waits = api.post("/pipelines", {"steps": {"a": SLICES | {"payload": payload, "wait_for": "go"}}})
    does_not = api.post("/pipelines", {"steps": {"a": SLICES | {"payload": payload}}})

    assert (waits.status_code, does_not.status_code) == (202, 400)


def test_a_pipeline_shows_which_step_waits(api: Api, django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        id = api.post("/pipelines", {"steps": {"a": WAITING}}).json()["pipeline_id"]

    [step] = api.get(f"/pipelines/{id}").json()["steps"]

    assert step["signal"] == "approve"
    assert api.post(f"/jobs/{id}/signals/approve", {"approved": True}).status_code == 202


def test_owners_send_signals_to_their_jobs_and_others_need_a_permission(
    as_user: Callable[..., Api], asks_for_tokens: None
) -> None:
    id = submitted(as_user("ada"), SLICES | {"wait_for": "approve"})

    assert as_user("lin").post(f"/jobs/{id}/signals/approve").status_code == 404
    assert as_user("vi", permissions=["view_job"]).post(f"/jobs/{id}/signals/approve").status_code == 403
    assert as_user("op", permissions=["view_job", "signal_job"]).post(f"/jobs/{id}/signals/approve").status_code == 202
    assert Signal.objects.get().sent_by == "op"
