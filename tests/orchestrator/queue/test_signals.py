"""Signals: jobs and steps that wait for something from outside, and hold nothing meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.db.models.functions import Now

from orchestrator import submission
from orchestrator.kinds import Child, Kind
from orchestrator.models import Job, Signal, Step
from orchestrator.queue import pipelines, steps
from orchestrator.running import RunningJob
from orchestrator.signalling import AlreadySent, BadSignal, NotAwaited, send_signal
from orchestrator.submission import BadSubmission, submit
from orchestrator.testing import drain
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.concurrency import held_open, waiting
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, again

pytestmark = pytest.mark.django_db(transaction=True)

APPROVE = {"signal": "approve", "fields": {"approved": "boolean", "note": "string?"}}


@pytest.fixture
def told(kind: DeclareKind) -> Kind:
    """Returns the signals that came."""

    def handler(running: RunningJob) -> Any:
        return running.signals

    return kind(handler, max_attempts=1)


@pytest.fixture
def echo(kind: DeclareKind) -> Kind:
    def handler(running: RunningJob, payload: Any) -> Any:
        return payload

    return kind(handler, payload=Any, max_attempts=1)


def columns(job: Job) -> tuple[str, bool, int]:
    job = again(job)
    return job.status, job.ready, job.unfinished_dependencies


def time_is_over() -> None:
    Step.objects.filter(waits_until__isnull=False).update(waits_until=Now())
    tick.run_parts()


def test_a_job_waits_until_its_signal_comes(told: Kind, worker: WorkerProcess) -> None:
    job = submit(told, wait_for="approve")
    drain(worker=worker)
    assert columns(job) == ("CREATED", False, 1)

    send_signal(job.id, "approve", {"by": "grace"})
    drain(worker=worker)

    assert (again(job).status, again(job).result) == ("COMPLETED", {"approve": {"by": "grace"}})


def test_a_step_takes_the_body_of_a_signal_to_its_pipeline(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    payload = {"ok": {"$from": "$signal.approved"}, "n": {"$from": "a.n"}}
    children = [
        Child(name="a", kind=echo.name, payload={"n": 1}),
        Child(name="b", kind=echo.name, payload=payload, wait_for=APPROVE),
    ]
    parent = submit(last, children=children)
    drain(worker=worker)

    send_signal(parent.id, "approve", {"approved": True})
    drain(worker=worker)

    assert again(parent).status == "COMPLETED"
    assert Job.objects.get(name="b").result == {"ok": True, "n": 1}


def test_a_signal_that_comes_before_the_wait_is_kept(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    children = [
        Child(name="a", kind=echo.name),
        Child(name="b", kind=echo.name, after=["a"], wait_for="approve"),
    ]
    parent = submit(last, children=children)

    send_signal(Job.objects.get(name="b").id, "approve", {})
    drain(worker=worker)

    assert again(parent).status == "COMPLETED"


def test_a_skipped_step_asks_nobody(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    children = [
        Child(name="a", kind=echo.name, payload={"n": 1}),
        Child(name="b", kind=echo.name, when={"$from": "a.n", "gt": 1}, wait_for="approve"),
    ]
    parent = submit(last, children=children)

    drain(worker=worker)

    assert again(parent).status == "COMPLETED"


def test_when_time_is_over_the_default_is_taken(told: Kind, worker: WorkerProcess) -> None:
    job = submit(told, wait_for=APPROVE | {"within_seconds": 60, "default": {"approved": False}})

    time_is_over()
    drain(worker=worker)

    assert again(job).result == {"approve": {"approved": False}}
    assert Signal.objects.get().is_default


def test_without_a_default_the_job_fails_and_a_retry_waits_anew(told: Kind, worker: WorkerProcess) -> None:
    job = submit(told, wait_for={"signal": "approve", "within_seconds": 60})
    time_is_over()
    assert again(job).error == "The signal 'approve' did not come within 60 s."

    submission.retry(job.id)

    assert columns(job) == ("CREATED", False, 1)
    send_signal(job.id, "approve", {})
    drain(worker=worker)
    assert again(job).status == "COMPLETED"


def test_a_waiting_job_is_cancelled_at_once_and_waits_anew_when_retried(told: Kind) -> None:
    job = submit(told, wait_for={"signal": "approve", "within_seconds": 60})

    submission.cancel(job.id)
    assert again(job).status == "CANCELLED"
    time_is_over()
    assert again(job).status == "CANCELLED"
    submission.retry(job.id)

    assert columns(job) == ("CREATED", False, 1)


def test_a_signal_counts_once(told: Kind) -> None:
    job = submit(told, wait_for="approve")
    send_signal(job.id, "approve", {"n": 1})

    with pytest.raises(AlreadySent):
        send_signal(job.id, "approve", {"n": 2})

    assert Signal.objects.get().body == {"n": 1}


def test_what_nothing_waits_for_is_refused_with_what_is_waited_for(told: Kind, worker: WorkerProcess) -> None:
    job = submit(told, wait_for="approve")

    with pytest.raises(NotAwaited, match="waits for: approve"):
        send_signal(job.id, "aprove", {})
    submission.cancel(job.id)
    with pytest.raises(NotAwaited, match="CANCELLED"):
        send_signal(job.id, "approve", {})


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/approved"),
        ({"approved": "yes"}, "/approved"),
        ({"approved": 1}, "/approved"),
        ({"approved": True, "note": None}, "/note"),
        ({"approved": True, "more": 1}, "/more"),
        ({"approved": True, "note": "x" * 70_000}, ""),
        ([], ""),
    ],
)
def test_a_body_that_is_not_what_is_waited_for_is_refused(told: Kind, body: Any, pointer: str) -> None:
    job = submit(told, wait_for=APPROVE)

    with pytest.raises(BadSignal) as refused:
        send_signal(job.id, "approve", body)

    assert refused.value.problems[0].pointer == pointer
    assert not Signal.objects.exists()


@pytest.mark.parametrize(
    "wait",
    [
        "",
        "a b",
        7,
        {},
        {"signal": "a", "more": 1},
        {"signal": "a", "within_seconds": 0},
        {"signal": "a", "default": {}},
        {"signal": "a", "fields": {"n": "text"}},
        APPROVE | {"within_seconds": 1, "default": {"approved": "no"}},
    ],
)
def test_a_wait_that_could_not_end_as_meant_is_refused(told: Kind, wait: Any) -> None:
    with pytest.raises(BadSubmission) as refused:
        submit(told, wait_for=wait)

    assert refused.value.problems[0].pointer.startswith("/wait_for")
    assert not Job.objects.exists()


def test_a_signal_that_comes_while_the_wait_begins_is_not_overlooked(told: Kind, worker: WorkerProcess) -> None:
    """Whoever begins the wait has the job locked, and has not seen the signal."""
    with pytest.MonkeyPatch.context() as later:
        later.setattr(pipelines, "resolve", lambda family_id: None)
        job = submit(told, wait_for="approve")

    with held_open(lambda: begin_wait(job)):
        sending = waiting(lambda: send_signal(job.id, "approve", {}))
    sending.result(PATIENCE_SECONDS)

    assert columns(job) == ("CREATED", True, 0)


def begin_wait(job: Job) -> None:
    """As `pipelines.resolve` does, within a transaction that is left open."""
    waiting_steps = steps.lock(job.id, expandable=[])
    decided = steps.decide(waiting_steps)
    steps.begin_waits(decided.waiting)
    assert connection.in_atomic_block
