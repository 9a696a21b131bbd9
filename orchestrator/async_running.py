"""What an async handler is given: the running job, whose waits and steps are awaited."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from orchestrator.attempt.timeouts import Frame
from orchestrator.claimed import Claimed
from orchestrator.kind import R
from orchestrator.progress import checked_progress
from orchestrator.running import BaseRunningJob, check_sleep
from orchestrator.spawning import AfterChildren, ChildEnd
from orchestrator.stops import Stop

if TYPE_CHECKING:
    from orchestrator.kinds import Kind


class AsyncRunningJob(BaseRunningJob):
    """A job while its async handler runs, on the event loop of its worker process.

    A request to end arrives as asyncio.CancelledError at whatever the handler awaits, and once a second again until
    it has ended; `check` and `progress` raise as in other handlers.
    """

    def __init__(
        self,
        row: Claimed,
        kind: Kind,
        blocked_by: Callable[[], AsyncRunningJob | None] = lambda: None,
    ) -> None:
        """blocked_by: the job, if there is one, that has kept the event loop busy for so long that others wait."""
        super().__init__(row, kind)
        self.is_at_work = False
        # The handler's own task, while it runs, and all that were started from it; only used on the event loop.
        self.task: asyncio.Task[Any] | None = None
        self.tasks: set[asyncio.Task[Any]] = set()
        self._blocked_by = blocked_by
        self._loop: asyncio.AbstractEventLoop | None = None
        # The handler's, so that what cancels it can be told from other jobs.
        self._context: contextvars.Context | None = None
        self._coroutine: CoroutineType[Any, Any, Any] | None = None

    async def inputs(self) -> dict[str, Any]:
        """The results of the jobs that this one waited for, by name: a child's `after`, a parent's children."""
        return await sync_to_async(self.read_inputs)()

    async def children(self) -> tuple[ChildEnd, ...]:
        """How the children have ended that the job has added so far, in the order in which it did; at first none."""
        return await sync_to_async(self.read_children)()

    def after_children(self, function: Callable[..., Awaitable[R]] | None = None) -> AfterChildren[R]:
        """To be returned, as in other handlers: see `RunningJob.after_children`. The function is async, too."""
        return self.spawning.after(function)

    async def signals(self) -> dict[str, Any]:
        """The signals that were sent to the job, or to its pipeline, by name."""
        return await sync_to_async(self.read_signals)()

    async def sleep(self, seconds: float) -> None:
        """Waits, and is a checkpoint all the while."""
        self.check()
        check_sleep(seconds)
        await asyncio.sleep(seconds)
        self.check()

    @asynccontextmanager
    async def step(self, done: int | None = None, total: int | None = None, message: str = "") -> AsyncIterator[None]:
        """A part of the work that is kept: what was written until its end is committed with the progress, once.

        A job that runs again finds `done` as its last finished step left it. Raises LeaseLost, and nothing is kept, if
        the job is no longer this worker's.
        """
        self.check()
        progress = None if done is None else checked_progress(done, total, message)
        step = self.stepping(progress)
        if self.kind.atomic:
            yield
            await sync_to_async(_pass)(step)
        else:
            await sync_to_async(step.__enter__)()
            try:
                yield
            except BaseException as error:
                await sync_to_async(step.__exit__)(type(error), error, error.__traceback__)
                raise
            await sync_to_async(step.__exit__)(None, None, None)

    async def checkpoint(self, name: str, fn: Callable[[], Awaitable[Any] | Any]) -> Any:
        """What `fn` returns, as JSON, awaited if need be: it is called once, and its result committed with all that
        was written until then. A later attempt is returned that result, and does not call it.

        name: unique in the job. Raises as `step` does, and ValueError for a name or a result that cannot be stored.
        """
        self.check()
        checkpoints = self.named_checkpoints
        with checkpoints.using(name):
            kept = await sync_to_async(checkpoints.kept)(name) if checkpoints.may_have_some else None
            if kept is None:
                began_at = time.monotonic()
                async with self.step():
                    result = fn()
                    if inspect.isawaitable(result):
                        result = await result
                    kept = await sync_to_async(checkpoints.store)(name, result, began_at=began_at)
        return json.loads(kept)

    def stop(self, reason: type[Stop]) -> None:
        super().stop(reason)
        if self._loop:
            with suppress(RuntimeError):  # The loop is closed, so the handler has ended.
                self._loop.call_soon_threadsafe(self._cancel, context=self._context)

    async def call(self) -> Any:
        """Calls the handler in the current task, which requests to end cancel meanwhile; returns what it returns."""
        self.clock_begins()
        self._loop, self.task = asyncio.get_running_loop(), asyncio.current_task()
        self._context = contextvars.copy_context()
        try:
            if self._stop:
                raise self._stop
            if self.kind.resumes and self.attempt > 1:
                self.function = await sync_to_async(self.spawning.function)()
            coroutine: CoroutineType[Any, Any, Any] = self.kind.called(self.function, self)
            self._coroutine = coroutine
            return await coroutine
        finally:
            self.task = None
            self.ends()
            self.runtime_seconds = time.monotonic() - self.began_at

    @property
    def culprit(self) -> BaseRunningJob:
        return self._blocked_by() or self

    @property
    def verdict(self) -> str:
        if self.overtime_seconds < 0:
            return "It blocked the event loop, so that another job could not end in time; its process was ended."
        return super().verdict

    def frames(self) -> list[Frame]:
        return self._frames_running() or self._frames_waiting()

    def _frames_running(self) -> list[Frame]:
        """Of its own task, if that runs at this moment."""
        found: list[Frame] = []
        outermost = self._coroutine.cr_frame if self._coroutine else None
        for frame, line in traceback.walk_stack(sys._current_frames().get(self._thread_id)):
            found.append((frame, line))
            if frame is outermost:
                return found
        return []

    def _frames_waiting(self) -> list[Frame]:
        found: list[Frame] = []
        awaited: Any = self._coroutine
        while frame := getattr(awaited, "cr_frame", None):
            found.append((frame, frame.f_lineno))
            awaited = awaited.cr_await
        return found[::-1]

    def _cancel(self) -> None:
        if self.task:
            self.task.cancel(f"The job has to end: {self._stop.__name__ if self._stop else ''}.")


def _pass(step: AbstractContextManager[None]) -> None:
    with step:
        pass
