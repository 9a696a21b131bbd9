"""Jobs run in the test's own process, by the engine that runs them in production."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import wraps
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import QuerySet
from django.db.models.functions import Now

from orchestrator.kind import P
from orchestrator.kinds import Kind, all_kinds, kind_named
from orchestrator.models import Attempt, Job
from orchestrator.pipeline_steps import Child
from orchestrator.queue import claims, generations, turns
from orchestrator.running import BaseRunningJob, RunningJob
from orchestrator.states import UNFINISHED, Status
from orchestrator.stops import Interrupted, Stop
from orchestrator.submission import submit
from orchestrator.upkeep import tick
from orchestrator.worker import runner
from orchestrator.worker.process import WorkerProcess

LIMIT_SECONDS = 30.0
# How long the threads of async jobs may take to end.
STOP_SECONDS = 5.0
# How often a handler that goes on after the limit is asked to end.
ASK_SECONDS = 0.05
# How many of the jobs that are left the error names.
MAX_NAMED = 10
# Before any job that was submitted otherwise.
FIRST_OF_ALL = datetime(1970, 1, 1, tzinfo=UTC)


class NotFinished(TimeoutError):
    """There was still work after the limit."""

    def __init__(self, what: str, limit_seconds: float, left: QuerySet[Job]) -> None:
        named = [f"{job} ({job.status}, attempt {job.attempt})" for job in left.order_by("id")[:MAX_NAMED]]
        more = left.count() - len(named)
        if more > 0:
            named.append(f"and {more:,} more")
        super().__init__(
            f"{what} did not finish within {limit_seconds:g} s. Left: {', '.join(named) or 'nothing'}. "
            "Give it a larger limit_seconds if the work takes that long; a job that submits itself again never ends."
        )


_WHY_NOT: dict[str, str] = {
    Status.CREATED: "it was not claimed; is its kind paused?",
    Status.RUNNING: "it waits for a child that was not claimed; is a kind paused?",
    Status.CANCELLED: "someone asked for that.",
}


class NotCompleted(AssertionError):
    """The job did not complete, and it was no exception of its handler that ended it."""

    def __init__(self, job: Job) -> None:
        attempt = Attempt.objects.filter(job=job).last()
        reason = job.error or (attempt.error if attempt else "") or _WHY_NOT.get(job.status, "")
        super().__init__(f"{job} is {job.status}: {reason}\n{attempt.traceback if attempt else ''}".rstrip())


class InsideTransaction(RuntimeError):
    """The engine's own transactions cannot be inside the test's."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} runs jobs in transactions of the engine's own, and the test is inside one: mark it with "
            "@pytest.mark.django_db(transaction=True), or use the fixture transactional_db or TransactionTestCase."
        )


def run_now(
    kind: str | Kind[P, Any, ...],
    payload: P | dict[str, Any] | None = None,
    *,
    owner: str = "",
    max_attempts: int | None = None,
    children: Sequence[Child] | None = None,
    limit_seconds: float = LIMIT_SECONDS,
    worker: WorkerProcess | None = None,
) -> Any:
    """Submits a job, runs it with its children and retries in this process, and returns its result as it is stored.

    If it fails for good, what the handler raised is raised, with its traceback; NotCompleted if it did not end by an
    exception of the handler; NotFinished after `limit_seconds`. Other jobs are left alone.
    """
    with _in_process("run_now()", limit_seconds, worker) as here:
        job = submit(kind, payload, owner=owner, max_attempts=max_attempts, children=children)
        here.run_family(job)
        job.refresh_from_db()
        if job.status != Status.COMPLETED:
            raise here.why_not_completed(job)
        return job.result


def drain(*, limit_seconds: float = LIMIT_SECONDS, worker: WorkerProcess | None = None) -> None:
    """Runs every job that is ready in this process, with what they submit, their children and their retries, at once.

    Jobs whose start time is in the future are left. What failed is in the jobs' rows and in the log.
    Raises NotFinished after `limit_seconds`. Handlers are asked to end then, at their next checkpoint.
    """
    with _in_process("drain()", limit_seconds, worker) as here:
        here.run_all()


@contextmanager
def worker_process(name: str = "tester@here", queues: Sequence[str] = ()) -> Iterator[WorkerProcess]:
    """This process as a worker with a row, whose heartbeat is the caller's to call: `worker.heartbeat.beat()`.

    queues: those it serves; all of QUEUES if none are given.
    """
    process = WorkerProcess(name, list(queues or settings.QUEUES))
    process.register()
    try:
        yield process
    finally:
        process.async_jobs.stop(STOP_SECONDS)
        process.logs.stop(STOP_SECONDS)
        process.lease.close()
        process.lease.connection.close()


@contextmanager
def _in_process(what: str, limit_seconds: float, worker: WorkerProcess | None) -> Iterator[_InProcess]:
    if connection.in_atomic_block:
        raise InsideTransaction(what)
    with nullcontext(worker) if worker else worker_process() as process:
        here = _InProcess(what, limit_seconds, process)
        with here.asked_to_end_at_limit():
            yield here


class _InProcess:
    """Runs jobs until none is left that could, or the limit is reached."""

    def __init__(self, what: str, limit_seconds: float, process: WorkerProcess) -> None:
        self._what, self._limit_seconds, self._process = what, limit_seconds, process
        self._ends_at = time.monotonic() + limit_seconds
        # What the handlers raised at their latest attempts.
        self._raised: dict[UUID, BaseException] = {}
        self._ends_test: BaseException | None = None
        self._jobs = Job.objects.all()

    def run_all(self) -> None:
        while self._run_round() or self._make_retries_due():
            pass

    def run_family(self, job: Job) -> None:
        """The job and all generations below it, one by one, before all others."""
        self._jobs = generations.family([job.id])
        while True:
            tick.make_due_ready()
            ready = self._jobs.filter(ready=True).order_by("rank", "id").first()
            if ready is None and not self._make_retries_due():
                return
            if ready and not self._run_first(ready):
                return

    def why_not_completed(self, job: Job) -> BaseException:
        """What its handler, or that of the child it failed of, raised."""
        failed = self._jobs.filter(status=Status.FAILED).order_by("id").values_list("id", flat=True)
        errors = [self._raised[id] for id in failed if id in self._raised]
        stopped = job.status != Status.FAILED or not errors or isinstance(errors[0], Stop)
        return NotCompleted(job) if stopped else errors[0]

    @contextmanager
    def asked_to_end_at_limit(self) -> Iterator[None]:
        done = threading.Event()
        thread = threading.Thread(target=self._ask_to_end, args=[done], name="limit", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _ask_to_end(self, done: threading.Event) -> None:
        # Again and again, since a job may have been claimed just before the limit.
        asked_in = self._limit_seconds
        while not done.wait(asked_in):
            for running in self._process.running.all():
                running.stop(Interrupted)
            asked_in = ASK_SECONDS

    def _run_round(self) -> bool:
        """Runs each kind until it is dry; whether any job ran."""
        tick.make_due_ready()
        return sum(self._run_kind(kind) for kind in all_kinds()) > 0

    def _run_kind(self, kind: Kind) -> bool:
        ran = False
        while claims.has_ready(kind) and self._run(kind):
            ran = True
        return ran

    def _run_first(self, job: Job) -> int:
        Job.objects.filter(id=job.id).update(rank=FIRST_OF_ALL)
        turns.put_first(job.kind, job.owner)
        return self._run(kind_named(job.kind), at_most=1)

    def _make_retries_due(self) -> int:
        """Lets the delay pass that failed attempts have caused; how many jobs waited for it."""
        self._check_limit()
        # One whose time has come since the last look is not ready either, so no matter what its run_at is.
        waiting = self._jobs.filter(status=Status.CREATED, ready=False, unfinished_dependencies=0, attempt__gt=0)
        return waiting.update(run_at=Now())

    def _check_limit(self) -> None:
        if time.monotonic() >= self._ends_at and (left := self._jobs.filter(status__in=UNFINISHED)).exists():
            raise NotFinished(self._what, self._limit_seconds, left)

    def _run(self, kind: Kind, at_most: int | None = None) -> int:
        self._check_limit()
        ran = runner.run_next(self._observed(kind), self._process, at_most=at_most)
        if self._ends_test:
            raise self._ends_test
        return ran

    def _observed(self, kind: Kind) -> Kind:
        resumes = {name: self._noting_errors(function) for name, function in kind.resumes.items()}
        return replace(kind, handler=self._noting_errors(kind.handler), resumes=resumes)

    def _noting_errors(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(handler):

            @wraps(handler)
            async def noting_async(job: BaseRunningJob, *args: Any) -> Any:
                with self._noted([job.row.id]):
                    return await handler(job, *args)

            return noting_async

        @wraps(handler)
        def noting(jobs: RunningJob | list[RunningJob], *args: Any) -> Any:
            with self._noted([job.row.id for job in (jobs if isinstance(jobs, list) else [jobs])]):
                return handler(jobs, *args)

        return noting

    @contextmanager
    def _noted(self, ids: Sequence[UUID]) -> Iterator[None]:
        for id in ids:
            self._raised.pop(id, None)
        try:
            yield
        except BaseException as error:
            self._raised |= dict.fromkeys(ids, error)
            # Ctrl-C, pytest.fail() and pytest's timeouts are meant for the test, not for the job alone.
            if not isinstance(error, Exception | SystemExit | Stop | asyncio.CancelledError):
                self._ends_test = error
            raise
