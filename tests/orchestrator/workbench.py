"""What tests of the engine work with: kinds of one test, workers whose heartbeats the test calls, and threads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4

import pytest
from celery import current_app
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.db.models.functions import Now

from orchestrator import kinds
from orchestrator.attempt.timeouts import InFlightBatch
from orchestrator.claimed import Claimed
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job
from orchestrator.queue import bell, endings, transitions
from orchestrator.queue.bell import Doorbell
from orchestrator.queue.endings import Ended
from orchestrator.submission import Child, submit
from orchestrator.testing import worker_process
from orchestrator.worker import runner
from orchestrator.worker.process import WorkerProcess

# Long enough for a loaded machine; nothing waits for it unless something is broken.
PATIENCE_SECONDS = 20
# So long after its deadline an attempt is ended by the tick, if its process has not ended it.
LONG_OVERDUE = timedelta(hours=1)


class DeclareKind(Protocol):
    def __call__(self, handler: Callable[..., Any] = ..., **options: Any) -> Kind: ...


class MakeWorker(Protocol):
    def __call__(self, name: str = ...) -> WorkerProcess: ...


def returns_nothing(running: Any) -> None:
    """Does nothing."""


@pytest.fixture
def kind() -> Iterator[DeclareKind]:
    """Declares kinds that are forgotten after the test."""
    names: list[str] = []

    def declare(handler: Callable[..., Any] = returns_nothing, **options: Any) -> Kind:
        declared = kinds.job(f"test.kind_{uuid4().hex}", **options)(handler)
        names.append(declared.name)
        return declared

    yield declare
    for name in names:
        kinds.forget_kind(name)


@pytest.fixture
def make_worker(transactional_db: None) -> Iterator[MakeWorker]:
    """Makes more worker processes like the fixture `worker`."""
    with ExitStack() as made:
        yield lambda name="tester@here": made.enter_context(worker_process(name, ["default"]))


@pytest.fixture
def live_worker(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcess]:
    """A worker process whose heartbeat thread runs, faster than usual."""
    monkeypatch.setattr("orchestrator.worker.heartbeat.BEAT_SECONDS", 0.05)
    process = WorkerProcess("live@here", ["default"]).start()
    assert process.lease.registered.wait(PATIENCE_SECONDS)
    yield process
    process.end(PATIENCE_SECONDS)


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds whose bells were rung."""
    names: list[str] = []
    monkeypatch.setattr(bell, "ring", names.append)
    return names


def doorbell(kind: Kind) -> Doorbell:
    """The Celery task whose message wakes a worker for the kind."""
    bell = current_app.tasks[kind.name]
    assert isinstance(bell, Doorbell)
    return bell


def run(kind: Kind, worker: WorkerProcess) -> int:
    """Runs what one claim yields, as a bell does; returns how many jobs were ready."""
    return runner.run_next(kind, worker)


def claim(kind: Kind, worker: WorkerProcess) -> Claimed | None:
    """Claims a job without running it, if one is ready."""
    return next(iter(transitions.claim(kind, worker_id=worker.row_id, worker_name=worker.name).jobs), None)


def lease(kind: Kind, worker: WorkerProcess) -> Claimed:
    """Claims a job, which must be ready, as if its handler were at work."""
    job = claim(kind, worker)
    assert job is not None
    return job


def record_in_flight(worker: WorkerProcess, *jobs: Job) -> None:
    """As if the worker were about to run each of these jobs in a batch of its own."""
    for job in jobs:
        worker.in_flight.record_in_flight(
            InFlightBatch(kinds.kind_named(job.kind), {str(job.id): job.attempt}, backend_pid=0)
        )


def complete(job: Claimed, result: Any = None) -> None:
    with transaction.atomic():
        endings.complete(job, json.dumps(result))


def fail(job: Claimed, error: str = "ValueError: no", *, retryable: bool = False) -> Job | None:
    return endings.end_attempt(job, Ended(Attempt.Outcome.RAISED, error=error, retryable=retryable))


def pipeline(
    parent: Kind, step: Kind, after: Mapping[str, Sequence[str]], **options: Any
) -> tuple[Job, dict[str, Job]]:
    """Submits children, each with what it comes after, and returns the parent and the children by name."""
    children = [Child(name=name, kind=step.name, after=names) for name, names in after.items()]
    job = submit(parent, children=children, **options)
    return job, {child.name: child for child in Job.objects.filter(parent=job)}


def again(job: Job | Claimed) -> Job:
    """The job as it is now."""
    return Job.objects.get(id=job.id)


def is_in_order(*times: datetime | None) -> bool:
    """Whether each of these times is known, and none is before the one that it follows."""
    known = [time for time in times if time]
    return len(known) == len(times) and known == sorted(known)


def make_due(*jobs: Job) -> None:
    """Lets the time pass that the jobs wait for."""
    Job.objects.filter(id__in=[job.id for job in jobs]).update(run_at=Now())


def write(name: str) -> None:
    """A handler's write to the database."""
    Group.objects.create(name=name)


def written() -> set[str]:
    """What handlers wrote, beside the groups that are always there."""
    return set(Group.objects.values_list("name", flat=True)) - {"operators", "viewers"}


def raise_sqlstate(code: str) -> None:
    """Has PostgreSQL raise an error of that code."""
    with connection.cursor() as cursor:
        cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'as the test wants it' USING ERRCODE = '{code}'; END $$")


def end_own_connection() -> None:
    """Has PostgreSQL end the connection that asks for it, as it does when it is restarted."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


@contextmanager
def threads(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """Runs functions in threads with database connections of their own."""

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        yield lambda function, *args, **kwargs: pool.submit(call, function, *args, **kwargs)


@pytest.fixture
def echo(kind: DeclareKind) -> Kind:
    """Returns its payload; fails if that is a text."""

    def handler(running: Any, payload: Any) -> Any:
        if isinstance(payload, str):
            raise ValueError(payload)
        return payload

    return kind(handler, payload=Any, max_attempts=1, backoff_seconds=0)
