"""What a client may ask for, and who may ask for more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from pytest_django import Settings

from config.consistency import require_consistent
from orchestrator import stored_bytes
from orchestrator.models import Job
from orchestrator.states import Status
from tests.api import Api, pointers
from tests.factories import make_job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("asks_for_tokens")]

EXCEED = "exceed_client_limits"
SLICES: dict[str, Any] = {"kind": "demo.slices"}
IN_TWO_YEARS = (timezone.now() + timedelta(days=730)).isoformat()


def limit(settings: Settings, **values: Any) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, **values)


@pytest.mark.parametrize(
    ("asked", "would_be_right"),
    [
        ({"priority": 0}, "the priorities 3 to 9"),
        ({"max_attempts": 1_000}, "at most 25 attempts"),
        ({"run_at": IN_TWO_YEARS}, "in 366 days"),
    ],
)
def test_what_is_beyond_the_limits_takes_a_permission(
    asked: dict[str, Any], would_be_right: str, as_user: Callable[..., Api]
) -> None:
    refused = as_user("ada").post("/jobs", SLICES | asked)
    together = as_user("bob").post("/jobs/bulk", {"jobs": [SLICES, SLICES | asked]})
    allowed = as_user("grace", permissions=[EXCEED]).post("/jobs", SLICES | asked)

    assert (refused.status_code, pointers(refused)) == (400, [f"/{next(iter(asked))}"])
    assert would_be_right in refused.json()["detail"]
    assert EXCEED in refused.json()["detail"]
    assert pointers(together) == [f"/jobs/1/{next(iter(asked))}"]
    assert allowed.status_code == 202


def test_the_limits_themselves_may_be_asked_for(as_user: Callable[..., Api]) -> None:
    assert as_user().post("/jobs", SLICES | {"priority": 3, "max_attempts": 25}).status_code == 202


def test_a_job_is_not_moved_beyond_them_either(as_user: Callable[..., Api]) -> None:
    ada = as_user()
    job = make_job(owner="ada")

    assert pointers(ada.send("PATCH", f"/jobs/{job.id}", b'{"priority": 0}')) == ["/priority"]
    refused = ada.post("/jobs/change", {"filter": {"status": ["CREATED"]}, "change": {"priority": 0}})
    assert pointers(refused) == ["/change/priority"]


def test_nor_is_a_task_alone_or_in_a_batch(as_user: Callable[..., Api]) -> None:
    ada, task = as_user(), {"a": 1, "b": 2, "priority": 1}

    assert pointers(ada.post("/tasks/", task)) == ["/priority"]
    assert pointers(ada.post("/tasks/batch-request/", [task | {"priority": 5}, task])) == ["/1/priority"]
    assert as_user("grace", permissions=[EXCEED]).post("/tasks/", task).status_code == 202


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"priority": 0}, "/priority"),
        ({"run_at": IN_TWO_YEARS}, "/run_at"),
        ({"steps": {"a": SLICES, "b": SLICES | {"priority": 2}}}, "/steps/b/priority"),
        ({"steps": {"a": SLICES | {"max_attempts": 26}}}, "/steps/a/max_attempts"),
        (
            {"steps": {"a": SLICES | {"compensate": {"kind": "demo.slices", "max_attempts": 26}}}},
            "/steps/a/compensate/max_attempts",
        ),
        (
            {"steps": {"a": {"pipeline": {"steps": {"b": SLICES | {"priority": 2}}}}}},
            "/steps/a/pipeline/steps/b/priority",
        ),
    ],
)
def test_nor_is_a_pipeline_or_a_step_of_one(asked: dict[str, Any], pointer: str, as_user: Callable[..., Api]) -> None:
    body = PIPELINE | asked

    refused = as_user().post("/pipelines", body)
    allowed = as_user("grace", permissions=[EXCEED]).post("/pipelines", body)

    assert (refused.status_code, pointers(refused)) == (400, [pointer])
    assert EXCEED in refused.json()["detail"]
    assert allowed.status_code == 202


def test_what_no_step_may_ask_for_is_refused_as_that(as_user: Callable[..., Api]) -> None:
    refused = as_user().post(
        "/pipelines", {"steps": {"a": SLICES | {"priority": "0"}, "b": SLICES | {"priority": 10}}}
    )

    assert [each["code"] for each in refused.json()["errors"]] == ["invalid", "invalid"]


@pytest.mark.parametrize("path", ["/jobs/{}/retry", "/pipelines/{}/retry", "/pipelines/{}/fork?from=a"])
def test_a_job_that_runs_again_and_a_fork_count_as_one_more(
    path: str, as_user: Callable[..., Api], settings: Settings
) -> None:
    limit(settings, CLIENT_MAX_UNFINISHED=1)
    ada = as_user(permissions=["retry_job"])
    ended = make_job(Status.FAILED, owner="ada", kind="pipeline.run")
    make_job(Status.FAILED, owner="ada", parent=ended, name="a")
    make_job(owner="ada")

    refused = ada.post(path.format(ended.id))
    Job.objects.filter(owner="ada", status=Status.CREATED).delete()
    accepted = ada.post(path.format(ended.id))

    assert (refused.status_code, accepted.status_code) == (429, 202)


def test_unfinished_jobs_are_counted_and_finished_ones_and_children_are_not(
    as_user: Callable[..., Api], settings: Settings
) -> None:
    limit(settings, CLIENT_MAX_UNFINISHED=2)
    ada = as_user()
    make_job(Status.COMPLETED, owner="ada")
    make_job(owner="ada", parent=make_job(owner="ada"), name="a child")

    accepted, refused = ada.post("/jobs", SLICES), ada.post("/jobs", SLICES)

    assert (accepted.status_code, refused.status_code) == (202, 429)
    assert refused["Retry-After"] == "10"
    assert refused.json()["type"] == "urn:muster:problem:quota-exceeded"
    assert as_user("bob").post("/jobs", SLICES).status_code == 202


@pytest.mark.parametrize(
    ("path", "body"),
    [("/jobs/bulk", {"jobs": [SLICES] * 3}), ("/tasks/batch-request/", [{"a": 1, "b": 2}] * 3)],
)
def test_many_at_once_count_as_many(path: str, body: Any, as_user: Callable[..., Api], settings: Settings) -> None:
    limit(settings, CLIENT_MAX_UNFINISHED=2)

    assert as_user().post(path, body).status_code == 429
    assert not Job.objects.exists()


PIPELINE: dict[str, Any] = {"steps": {"only": SLICES}}
RECORDS: dict[str, Any] = {"records": [{"student_id": str(number)} for number in range(100)]}


@pytest.mark.usefixtures("measures_anew")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/jobs", SLICES | {"payload": {"slices": 1}}),
        ("/jobs/bulk", {"jobs": [SLICES]}),
        ("/pipelines", PIPELINE),
        ("/tasks/", {"a": 1, "b": 2}),
        ("/tasks/batch-request/", [{"a": 1, "b": 2}]),
        ("/api/data/ingest/", RECORDS),
    ],
)
def test_who_has_too_much_stored_for_unfinished_jobs_submits_no_more(
    path: str, body: Any, as_user: Callable[..., Api], settings: Settings
) -> None:
    ada = as_user()
    make_job(owner="ada", payload={"text": "\u00e9" * 1_000})
    limit(settings, CLIENT_MAX_STORED_BYTES=10_000)
    allowed = ada.post(path, body)
    stored_bytes.forget()
    limit(settings, CLIENT_MAX_STORED_BYTES=20)
    count = Job.objects.count()

    refused = ada.post(path, body)

    assert allowed.status_code in (200, 201, 202)
    assert (refused.status_code, refused["Retry-After"]) == (429, "10")
    assert "bytes stored for unfinished jobs" in refused.json()["detail"]
    assert Job.objects.count() == count
    assert as_user("grace", permissions=[EXCEED]).post(path, body).status_code == allowed.status_code


@pytest.mark.usefixtures("measures_anew")
def test_stored_is_what_unfinished_jobs_have_with_their_children_and_ingestions(as_user: Callable[..., Api]) -> None:
    def stored() -> int:
        stored_bytes.forget()
        return stored_bytes.stored_bytes("ada")

    make_job(Status.COMPLETED, owner="ada", payload={"text": "x" * 100})
    make_job(owner="bob", payload={"text": "x" * 100})
    found = [stored()]
    parent = make_job(owner="ada", payload={"text": "x" * 100})
    found.append(stored())
    make_job(owner="ada", parent=parent, name="a child", payload={"text": "x" * 200})
    found.append(stored())
    as_user().post("/api/data/ingest/", RECORDS)
    found.append(stored())

    assert found[0] == 0
    assert found[1] > 100
    assert found[2] > found[1] + 200
    assert found[3] > found[2] + 200


@pytest.mark.usefixtures("measures_anew")
def test_what_is_submitted_between_two_measurements_counts(
    as_user: Callable[..., Api], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_bytes, "KNOWN_SECONDS", 600)
    ada, body = as_user(), SLICES | {"payload": {"slices": 1}}
    limit(settings, CLIENT_MAX_STORED_BYTES=140)

    statuses = [ada.post("/jobs", body).status_code for _ in range(5)]

    assert statuses[0] == 202
    assert statuses[-1] == 429


def test_pipelines_and_ingestions_count_as_unfinished_jobs(as_user: Callable[..., Api], settings: Settings) -> None:
    limit(settings, CLIENT_MAX_UNFINISHED=1)
    ada = as_user()
    make_job(owner="ada")

    assert ada.post("/pipelines", PIPELINE).status_code == 429
    assert ada.post("/api/data/ingest/", RECORDS).status_code == 429


def test_demo_kinds_are_off_in_production(as_user: Callable[..., Api], settings: Settings) -> None:
    limit(settings, DEMO_KINDS=False)

    refused = as_user().post("/jobs")

    assert (refused.status_code, pointers(refused)) == (400, ["/kind"])
    assert "DEMO_KINDS" in refused.json()["detail"]


def test_priorities_that_begin_after_their_end_are_no_setting(settings: Settings) -> None:
    limit(settings, CLIENT_PRIORITIES="9-3")

    with pytest.raises(ImproperlyConfigured, match="write the least first"):
        require_consistent(settings.ENV)
