"""What tests of the engine work with: kinds made for one test, workers whose heart beats when told, and threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.db.models.functions import Now

from orchestrator import engine, kinds, moves
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job
from orchestrator.running import Claimed
from orchestrator.submission import Child, submit
from orchestrator.workers import WorkerProcess

# Long enough for a loaded machine; nothing waits for it unless something is broken.
PATIENCE_SECONDS = 20


class DeclareKind(Protocol):
    def __call__(self, handler: Callable[..., Any] = ..., **options: Any) -> Kind: ...


class Hire(Protocol):
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
        del kinds._kinds[name]


@pytest.fixture
def hire(transactional_db: None) -> Iterator[Hire]:
    """Makes worker processes whose heartbeat is the test's to call: `worker._look()`."""
    hired: list[WorkerProcess] = []

    def start(name: str = "tester@here") -> WorkerProcess:
        process = WorkerProcess(name, ["default"])
        hired.append(process)
        process._register()
        return process

    yield start
    for process in hired:
        process._close_row()
        process._close_connections()


@pytest.fixture
def worker(hire: Hire) -> WorkerProcess:
    return hire()


@pytest.fixture
def live_worker(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcess]:
    """A worker process whose heartbeat thread runs, faster than usual."""
    monkeypatch.setattr("orchestrator.workers.LOOK_SECONDS", 0.05)
    process = WorkerProcess("live@here", ["default"]).start()
    assert process.registered.wait(PATIENCE_SECONDS)
    yield process
    process.end()
    process._thread.join(PATIENCE_SECONDS)


def run(kind: Kind, worker: WorkerProcess) -> int:
    """Runs what one claim yields, as an answered bell does; how many jobs were ready."""
    run_next = engine.run_batch if kind.execution == "transactional" else engine.run_leased
    return run_next(kind, worker, "the-bell")


def lease(kind: Kind, worker: WorkerProcess) -> Claimed:
    """Claims a job without running it, as if the handler were at work."""
    job = moves.lease_next(kind, worker_id=worker.row_id, worker_name=worker.name, celery_task_id="the-bell")
    assert job is not None
    return job


def complete(job: Claimed, result: Any = None) -> None:
    with transaction.atomic():
        moves.complete(job, result)


def fail(job: Claimed, error: str = "ValueError: no", *, mendable: bool = False) -> Job | None:
    return moves.end_attempt(job, Attempt.Outcome.RAISED, error=error, mendable=mendable)


def pipeline(parent: Kind, step: Kind, after: dict[str, Sequence[str]], **options: Any) -> tuple[Job, dict[str, Job]]:
    """Submits children, each with what it comes after, and answers the parent and the children by name."""
    children = [Child(name=name, kind=step.name, after=names) for name, names in after.items()]
    job = submit(parent, children=children, **options)
    return job, {child.name: child for child in Job.objects.filter(parent=job)}


def again(job: Job) -> Job:
    """The job as it is now."""
    return Job.objects.get(id=job.id)


def make_due(*jobs: Job) -> None:
    """Lets the time pass that the jobs wait for."""
    Job.objects.filter(id__in=[job.id for job in jobs]).update(run_at=Now())


def write(name: str) -> None:
    """A handler's write to the database."""
    Group.objects.create(name=name)


def written() -> set[str]:
    return set(Group.objects.values_list("name", flat=True))


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
