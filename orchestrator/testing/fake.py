"""A running job for unit tests of a handler: it needs no database and never waits."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Generic, NamedTuple, cast, overload
from uuid import UUID

from asgiref.sync import async_to_sync
from django.conf import settings

from orchestrator.async_running import AsyncRunningJob
from orchestrator.claimed import Claimed
from orchestrator.ended import EndedJob
from orchestrator.ids import uuid7
from orchestrator.job_log import JobLog
from orchestrator.kind import P, R
from orchestrator.kinds import Kind, kind_named
from orchestrator.models import Attempt
from orchestrator.pg_values import as_json
from orchestrator.progress import checked_progress
from orchestrator.running import BaseRunningJob, RunningJob, check_sleep
from orchestrator.spawning import ChildEnd, Spawn
from orchestrator.states import Status
from orchestrator.stops import Cancelled, Interrupted, Stop, TimedOut


class Progress(NamedTuple):
    """What a handler reported by `progress` or `step`."""

    done: int
    total: int | None
    message: str


class _Fake(BaseRunningJob):
    """What a running job that no worker runs has, whether its handler is async or not.

    reported: the progress that the handler reported, in order.
    steps: how many steps were finished.
    slept: the seconds of each `sleep`.
    seconds: what its clock shows: the time since the handler began, as far as it slept or `advance` was called.
    checkpoints: how many it has passed.
    records: what it logged.
    spawned: the children that it has added.
    kept: the results of its checkpoints, by name, as JSON values; a test puts in those of an earlier attempt.
    """

    def __init__(self, row: Claimed, kind: Kind[Any, Any, ...]) -> None:
        super().__init__(row, kind)
        self.reported: list[Progress] = []
        self.steps = 0
        self.kept: dict[str, Any] = {}
        self.slept: list[float] = []
        self.seconds = 0.0
        self.checkpoints = 0
        self.records: list[logging.LogRecord] = []
        self._stops: dict[int, type[Stop]] = {}
        vars(self)["log"] = self._captured_log()

    @property
    def messages(self) -> list[str]:
        """What it logged, as text."""
        return [record.getMessage() for record in self.records]

    @property
    def spawned(self) -> list[Spawn]:
        """The children that it has added by `spawn`."""
        return self.spawning.spawned

    @property
    def overtime_seconds(self) -> float:
        limit = self.time_limit
        return super().overtime_seconds if limit is None else self.seconds - limit.total_seconds()

    def advance(self, seconds: float) -> None:
        """Sets the clock forward. Past the kind's timeout, the next checkpoint raises TimedOut."""
        self.seconds += seconds

    def cancel(self) -> None:
        """The next checkpoint raises Cancelled."""
        self.stop(Cancelled)

    def time_out(self) -> None:
        """The next checkpoint raises TimedOut."""
        self.stop(TimedOut)

    def interrupt(self) -> None:
        """The next checkpoint raises Interrupted, as while a worker shuts down."""
        self.stop(Interrupted)

    def stop_at_checkpoint(self, number: int, reason: type[Stop] = Cancelled) -> None:
        """The checkpoint of that number raises: from 1, each progress, check, sleep and beginning of a step."""
        self._stops[number] = reason

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        self._report(checked_progress(done, total, message))
        self.check()

    def check(self) -> None:
        self.checkpoints += 1
        if reason := self._stops.get(self.checkpoints):
            self.stop(reason)
        self._stop_if_asked()

    def _sleep(self, seconds: float) -> None:
        self.check()
        check_sleep(seconds)
        self.slept.append(seconds)
        self.advance(seconds)
        self._stop_if_asked()

    @contextmanager
    def _step(self, done: int | None, total: int | None, message: str) -> Iterator[None]:
        self.check()
        progress = None if done is None else checked_progress(done, total, message)
        yield
        self.steps += 1
        if progress:
            self._report(progress)

    def _keep(self, name: str, result: Any) -> None:
        self.kept[name] = json.loads(as_json(result, at_most=settings.ENV.MAX_RESULT_BYTES))

    def _stop_if_asked(self) -> None:
        if self.overtime_seconds > 0:
            self.stop(TimedOut)
        super().check()

    def _report(self, progress: tuple[int, int | None, str]) -> None:
        self.reported.append(Progress(*progress))
        self.row.progress_done, self.row.progress_total, self.row.progress_message = progress

    def _captured_log(self) -> JobLog:
        """A logger of its own below the kind's, so that `caplog` and others see its records, too."""
        logger = logging.Logger(self.kind.name, logging.DEBUG)
        logger.parent = logging.getLogger(self.kind.name)
        logger.addHandler(_Recorder(self.records))
        return JobLog(logger, {"job_id": self.id, "attempt": self.attempt})


class FakeJob(_Fake, RunningJob, Generic[R]):
    """A RunningJob that no worker runs. Made by `fake_job`."""

    def run(self) -> R:
        """Calls the handler as a worker does: with the payload, where it takes one; a batch has this one job."""
        if self.kind.takes_batch:
            [result] = self.kind.handler([self])
        else:
            result = self.kind.called(self.function, self)
        return cast("R", result)

    def sleep(self, seconds: float) -> None:
        """Sets the clock forward at once."""
        self._sleep(seconds)

    @contextmanager
    def step(self, done: int | None = None, total: int | None = None, message: str = "") -> Iterator[None]:
        """Commits nothing: what the handler writes is in the test's own transaction."""
        if self.kind.execution == "transactional":
            raise RuntimeError(f"A {self.kind.execution} job has one transaction and no steps.")
        with self._step(done, total, message):
            yield

    def checkpoint(self, name: str, fn: Callable[[], Any]) -> Any:
        """Calls `fn` unless `kept` has its result."""
        with self.named_checkpoints.using(name), self.step():
            if name not in self.kept:
                self._keep(name, fn())
        return self.kept[name]


class AsyncFakeJob(_Fake, AsyncRunningJob, Generic[R]):
    """An AsyncRunningJob that no worker runs. Made by `fake_job` of an async kind."""

    given_inputs: dict[str, Any]
    given_children: tuple[ChildEnd, ...]

    def run(self) -> R:
        """Calls the handler, and returns its result once it has ended. In an async test: `await job.call()`."""
        return cast("R", async_to_sync(self.call)())

    async def inputs(self) -> dict[str, Any]:
        return self.given_inputs

    async def children(self) -> tuple[ChildEnd, ...]:
        return self.given_children

    async def sleep(self, seconds: float) -> None:
        """Sets the clock forward at once; other tasks have their turn."""
        self._sleep(seconds)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def step(self, done: int | None = None, total: int | None = None, message: str = "") -> AsyncIterator[None]:
        """Commits nothing: what the handler writes is in the test's own transaction."""
        with self._step(done, total, message):
            yield

    async def checkpoint(self, name: str, fn: Callable[[], Awaitable[Any] | Any]) -> Any:
        """Calls `fn` unless `kept` has its result."""
        with self.named_checkpoints.using(name):
            async with self.step():
                if name not in self.kept:
                    result = fn()
                    self._keep(name, await result if inspect.isawaitable(result) else result)
        return self.kept[name]


class _Recorder(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


@overload
def fake_job(  # type: ignore[overload-overlap]  # R may be a coroutine, too.
    kind: Kind[P, Coroutine[Any, Any, R], ...],
    payload: P | dict[str, Any] | None = None,
    *,
    attempt: int = 1,
    done: int = 0,
    inputs: Mapping[str, Any] | None = None,
    children: Sequence[ChildEnd] = (),
    owner: str = "",
    id: UUID | None = None,
) -> AsyncFakeJob[R]: ...


@overload
def fake_job(
    kind: str | Kind[P, R, ...],
    payload: P | dict[str, Any] | None = None,
    *,
    attempt: int = 1,
    done: int = 0,
    inputs: Mapping[str, Any] | None = None,
    children: Sequence[ChildEnd] = (),
    owner: str = "",
    id: UUID | None = None,
) -> FakeJob[R]: ...


def fake_job(
    kind: str | Kind[Any, Any, ...],
    payload: Any = None,
    *,
    attempt: int = 1,
    done: int = 0,
    inputs: Mapping[str, Any] | None = None,
    children: Sequence[ChildEnd] = (),
    owner: str = "",
    id: UUID | None = None,
) -> FakeJob[Any] | AsyncFakeJob[Any]:
    """A running job of the kind for a unit test of its handler, which is called by `.run()`.

    payload: as it would be submitted; BadPayload is raised for one that does not fit the kind.
    attempt: 1 for the first. done: what the last finished step of an earlier attempt left.
    inputs: the results of what the job waited for, by name. children: those that an earlier attempt has added.
    id: also its idempotency key; made up if not given.
    """
    kind = kind if isinstance(kind, Kind) else kind_named(kind)
    fitting = kind.read_payload({} if payload is None else payload)
    row = Claimed(
        id=id or uuid7(),
        kind=kind.name,
        owner=owner,
        name="",
        priority=kind.priority,
        payload=as_json(fitting, at_most=settings.ENV.MAX_BODY_BYTES),
        # A transactional claim leaves the row as the attempt before left it.
        attempt=attempt - 1 if kind.execution == "transactional" else attempt,
        max_attempts=kind.max_attempts,
        parent_id=None,
        runs_alone=False,
        worker_id=None,
        worker_name="",
        progress_done=done,
        progress_total=None,
        progress_message="",
        limit_key=kind.key_of(fitting),
        notify=None,
        traceparent=None,
        waited_since=None,
        watched_since=None,
        began_at=0,
        claimed_at=datetime.now(UTC),
    )
    if kind.is_async:
        async_job: AsyncFakeJob[Any] = AsyncFakeJob(row, kind)
        async_job.given_inputs, async_job.given_children = dict(inputs or {}), tuple(children)
        return async_job
    job: FakeJob[Any] = FakeJob(row, kind)
    vars(job).update(inputs=dict(inputs or {}), children=tuple(children))
    return job


def ended_job(
    kind: str | Kind[P, Any, ...],
    payload: P | dict[str, Any] | None = None,
    *,
    attempt: int = 1,
    status: Status = Status.FAILED,
    outcome: str = Attempt.Outcome.RAISED,
    exception: BaseException | None = None,
    owner: str = "",
    id: UUID | None = None,
) -> EndedJob[P]:
    """A job as `on_failure` and `on_retry` are given it, for a unit test of them. The payload is checked as it is by
    `fake_job`; the other arguments are as in EndedJob.
    """
    kind = kind if isinstance(kind, Kind) else kind_named(kind)
    fitting = kind.read_payload({} if payload is None else payload)
    text = as_json(fitting, at_most=settings.ENV.MAX_BODY_BYTES)
    return EndedJob(
        id=str(id or uuid7()),
        kind=kind.name,
        owner=owner,
        name="",
        parent_id=None,
        attempt=attempt,
        max_attempts=kind.max_attempts,
        status=str(status),
        outcome=str(outcome),
        exception=exception,
        read_payload=partial(kind.decode_payload, text),
    )
