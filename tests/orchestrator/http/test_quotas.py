"""What runs again, is forked, sent or postponed is within the limits of clients, as what is submitted is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from django.utils import timezone
from pytest_django import Settings

from orchestrator import stored_bytes
from orchestrator.models import BulkBatch, Job, Signal, Step
from orchestrator.states import Status
from orchestrator.steering.selection import BULK_ACTION
from tests.api import Api, pointers
from tests.factories import make_job

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("asks_for_tokens", "measures_anew")]

EXCEED = "exceed_client_limits"
SLICES: dict[str, Any] = {"kind": "demo.slices"}
ALL_FAILED = {"filter": {"status": ["FAILED"]}}
# It is stored uncompressed.
LONG = {"text": "".join(chr(33 + place * 7919 % 90) for place in range(1_000))}


def limit(settings: Settings, **values: Any) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, **values)


def failed(count: int, **columns: Any) -> list[Job]:
    return [make_job(Status.FAILED, owner="ada", **columns) for _ in range(count)]


def statuses() -> list[str]:
    return sorted(Job.objects.exclude(kind=BULK_ACTION).values_list("status", flat=True))


def test_a_retry_of_many_jobs_counts_each_of_them(as_user: Callable[..., Api], settings: Settings) -> None:
    limit(settings, CLIENT_MAX_UNFINISHED=2)
    failed(3)
    ada = as_user()

    refused = ada.post("/jobs/retry", ALL_FAILED)
    counted = ada.post("/jobs/retry", ALL_FAILED | {"dry_run": True})

    assert (refused.status_code, refused["Retry-After"]) == (429, "10")
    assert "more than 2 unfinished jobs" in refused.json()["detail"]
    assert EXCEED in refused.json()["detail"]
    assert (counted.status_code, counted.json()["matched"]) == (200, 3)
    assert statuses() == ["FAILED"] * 3
    assert not Job.objects.filter(kind=BULK_ACTION).exists()


def test_so_it_does_for_others_jobs(as_user: Callable[..., Api], settings: Settings) -> None:
    limit(settings, CLIENT_MAX_UNFINISHED=2)
    failed(3)

    refused = as_user("bob", permissions=["view_job", "retry_job"]).post("/jobs/retry", ALL_FAILED)
    allowed = as_user("grace", permissions=["view_job", "retry_job", EXCEED]).post("/jobs/retry", ALL_FAILED)

    assert (refused.status_code, allowed.status_code) == (429, 202)
    assert "'ada' would have" in refused.json()["detail"]


def test_a_retry_of_as_many_as_there_is_room_for_is_done(
    as_user: Callable[..., Api], settings: Settings, django_capture_on_commit_callbacks: Any
) -> None:
    limit(settings, CLIENT_MAX_UNFINISHED=3)  # One is for the job that does it.
    failed(2)

    with django_capture_on_commit_callbacks(execute=True):
        accepted = as_user().post("/jobs/retry", ALL_FAILED)

    assert accepted.status_code == 202
    assert statuses() == ["CREATED"] * 2


def test_what_is_submitted_before_a_retry_has_been_done_leaves_less_room_for_it(
    as_user: Callable[..., Api], settings: Settings, django_capture_on_commit_callbacks: Any
) -> None:
    limit(settings, CLIENT_MAX_UNFINISHED=3)
    first, *_ = failed(2)
    ada = as_user()

    with django_capture_on_commit_callbacks() as helping:
        assert ada.post("/jobs/retry", ALL_FAILED).status_code == 202
    make_job(owner="ada", kind="tests.in_between")
    for callback in helping:
        callback()

    assert Job.objects.get(id=first.id).status == Status.CREATED
    assert statuses() == ["CREATED", "CREATED", "FAILED"]
    [batch] = BulkBatch.objects.all()
    assert [("more than 3 unfinished jobs" in reason) for reason in batch.refusals.values()] == [True]


@pytest.mark.parametrize("path", ["/jobs/{}/retry", "/jobs/retry"])
def test_what_is_stored_for_a_job_counts_when_it_is_to_run_again(
    path: str, as_user: Callable[..., Api], settings: Settings
) -> None:
    [job] = failed(1)
    make_job(Status.FAILED, owner="ada", parent=job, name="a child", payload=LONG)
    body = ALL_FAILED if path == "/jobs/retry" else {}
    ada = as_user()

    limit(settings, CLIENT_MAX_STORED_BYTES=1_000)
    refused = ada.post(path.format(job.id), body)
    limit(settings, CLIENT_MAX_STORED_BYTES=2_000)
    accepted = ada.post(path.format(job.id), body)

    assert (refused.status_code, accepted.status_code) == (429, 202)
    assert "bytes stored for unfinished jobs" in refused.json()["detail"]


def test_what_is_stored_for_retried_jobs_counts_once(
    as_user: Callable[..., Api],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:
    monkeypatch.setattr(stored_bytes, "KNOWN_SECONDS", 600)
    limit(settings, CLIENT_MAX_STORED_BYTES=3_500)
    failed(2, payload=LONG)

    with django_capture_on_commit_callbacks(execute=True):
        as_user().post("/jobs/retry", ALL_FAILED)

    assert statuses() == ["CREATED"] * 2


def test_what_is_said_of_steps_and_the_bodies_of_signals_are_stored_for_a_job(as_user: Callable[..., Api]) -> None:
    def stored() -> int:
        stored_bytes.forget()
        return stored_bytes.stored_bytes("ada")

    pipeline = make_job(owner="ada", kind="pipeline.run", unfinished_dependencies=1)
    child = make_job(owner="ada", parent=pipeline, name="a", unresolved=True, ready=False)
    found = [stored()]
    Step.objects.create(job=child, payload=LONG)
    found.append(stored())
    Signal.objects.create(job=pipeline, name="go", body=LONG)
    found.append(stored())

    assert found[1] > found[0] + 1_000
    assert found[2] > found[1] + 1_000


def test_a_signal_counts_as_stored(as_user: Callable[..., Api], settings: Settings) -> None:
    ada = as_user()
    url = f"/jobs/{ada.post('/jobs', SLICES | {'wait_for': 'go'}).json()['job_id']}/signals/go"

    limit(settings, CLIENT_MAX_STORED_BYTES=1_000)
    refused = ada.post(url, LONG)
    limit(settings, CLIENT_MAX_STORED_BYTES=3_000)
    accepted = ada.post(url, LONG)

    assert (refused.status_code, accepted.status_code) == (429, 202)


def test_an_orchestration_counts_as_an_unfinished_job(as_user: Callable[..., Api], settings: Settings) -> None:
    limit(settings, CLIENT_MAX_UNFINISHED=1)
    make_job(owner="ada")

    assert as_user().post("/orchestrate/ada").status_code == 429


@pytest.mark.parametrize(
    ("wait", "pointer"),
    [
        ({"wait_seconds": 86_401}, "/unique/wait_seconds"),
        ({"wait_seconds": 60, "max_wait_seconds": 864_001}, "/unique/max_wait_seconds"),
    ],
)
def test_nor_is_a_job_postponed_for_longer_than_its_start_may_be_ahead(
    wait: dict[str, float], pointer: str, as_user: Callable[..., Api], settings: Settings
) -> None:
    limit(settings, CLIENT_RUN_AT_DAYS=10)
    body = SLICES | {"unique": {"key": "a", "on_conflict": "postpone"} | wait}
    ada = as_user()

    refused = ada.post("/jobs", body)
    together = ada.post("/jobs/bulk", {"jobs": [SLICES, body]})
    limit(settings, CLIENT_RUN_AT_DAYS=10.01)

    assert (refused.status_code, pointers(refused)) == (400, [pointer])
    assert "in 10 days at the latest" in refused.json()["detail"]
    assert pointers(together) == [f"/jobs/1{pointer}"]
    assert ada.post("/jobs", body).status_code == 202


def urgent_pipeline() -> Job:
    """One that an operator has made the most urgent, and of which a step has had many attempts."""
    pipeline = make_job(Status.FAILED, owner="ada", kind="pipeline.run", priority=0)
    make_job(Status.FAILED, owner="ada", parent=pipeline, name="a", priority=1, max_attempts=900)
    nested = make_job(
        owner="ada", parent=pipeline, name="b", kind="pipeline.run", unresolved=True, ready=False, priority=9,
        payload={"name": "", "result": None, "input": {}},
    )  # fmt: skip
    inner = SLICES | {"name": "c", "priority": 2, "max_attempts": 30}
    Step.objects.create(job=nested, nested={"steps": [inner]})
    return pipeline


@pytest.mark.parametrize(
    ("permissions", "expected"),
    [([], (3, 3, 25, 3, 25)), ([EXCEED], (0, 1, 900, 2, 30))],
)
def test_a_fork_gets_the_nearest_priorities_and_attempts_that_the_client_may_ask_for(
    permissions: list[str], expected: tuple[int, ...], as_user: Callable[..., Api]
) -> None:
    old = urgent_pipeline()

    forked = as_user(permissions=permissions).post(f"/pipelines/{old.id}/fork?from=a")

    new = Job.objects.get(id=forked.json()["pipeline_id"])
    step, nested = Job.objects.get(parent=new, name="a"), Job.objects.get(parent=new, name="b")
    [[inner]] = Step.objects.filter(job=nested).values_list("nested__steps", flat=True)
    assert nested.priority == 9
    assert (new.priority, step.priority, step.max_attempts, inner["priority"], inner["max_attempts"]) == expected


def test_a_fork_keeps_what_its_kinds_have_of_themselves(as_user: Callable[..., Api], kind: Any) -> None:
    urgent = kind(priority=0, max_attempts=100)
    old = make_job(Status.FAILED, owner="ada", kind="pipeline.run")
    make_job(Status.FAILED, owner="ada", parent=old, name="a", kind=urgent.name, priority=0, max_attempts=101)

    forked = as_user().post(f"/pipelines/{old.id}/fork?from=a")

    step = Job.objects.get(parent=forked.json()["pipeline_id"])
    assert (step.priority, step.max_attempts) == (0, 100)


def test_a_fork_counts_as_stored(as_user: Callable[..., Api], settings: Settings) -> None:
    old = make_job(Status.FAILED, owner="ada", kind="pipeline.run")
    make_job(Status.FAILED, owner="ada", parent=old, name="a", payload=LONG, finished_at=timezone.now())
    limit(settings, CLIENT_MAX_STORED_BYTES=1_000)

    assert as_user().post(f"/pipelines/{old.id}/fork?from=a").status_code == 429
