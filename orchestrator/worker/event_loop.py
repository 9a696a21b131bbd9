"""The event loop of a worker process, in a thread of its own, and the thread that notices when it is blocked."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from orchestrator.async_running import AsyncRunningJob
from orchestrator.attempt.process_state import end_if_forked
from orchestrator.attempt.timeouts import stack_of
from orchestrator.job_log import logged_for

logger = logging.getLogger(__name__)

# How long one handler may keep all others waiting before that is logged.
BLOCKED_SECONDS = 1.0
# How often it is looked at.
LOOK_SECONDS = 0.25
# Of the stack that blocks the loop: so many innermost frames are logged.
MAX_FRAMES = 50

# The job whose handler runs, in its task and in all tasks that it starts.
_running_job: contextvars.ContextVar[AsyncRunningJob] = contextvars.ContextVar("running_job")


class JobTask(asyncio.Task[Any]):
    """A task of a job's: its handler's, or one that this has started. No handler cancels those of other jobs."""

    job: AsyncRunningJob

    def cancel(self, msg: Any = None) -> bool:
        """Raises RuntimeError in a handler of another job. If only what such a handler awaits is cancelled, returns
        False.
        """
        by = _running_job.get(None)
        if by in (None, self.job):
            return super().cancel(msg)
        if _is_running(by):
            raise RuntimeError("This task is another job's. Cancel only those that your handler has started.")
        return False


def _is_running(job: AsyncRunningJob | None) -> bool:
    task = asyncio.current_task()
    return isinstance(task, JobTask) and task.job is job


class EventLoop:
    """Runs coroutines for all threads. Whatever a task raises, the loop goes on."""

    def __init__(self) -> None:
        self._loop = asyncio.SelectorEventLoop(_Selector())
        self._set_up()
        self._log_level_disabled = logging.root.manager.disable
        self._thread = threading.Thread(target=self._serve, name="event-loop", daemon=True)
        self._stopped = threading.Event()
        # When the loop was asked for something that it has not come to yet.
        self._asked_at: float | None = None
        self._reported = False

    def start(self) -> EventLoop:
        self._thread.start()
        threading.Thread(target=self._watch, name="event-loop-watch", daemon=True).start()
        return self

    def stop(self, timeout_seconds: float) -> None:
        """Ends both threads; the tasks that are left never run again."""
        self._stopped.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout_seconds)

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Has the loop call the function soon."""
        self._loop.call_soon_threadsafe(function, *args)

    def start_task(self, coroutine: Coroutine[Any, Any, Any], job: AsyncRunningJob) -> asyncio.Task[Any]:
        """Starts the job's task, in a context that has nothing of other jobs. Called on the loop."""
        context = contextvars.Context()
        context.run(_running_job.set, job)
        context.run(logged_for.set, job)
        task = JobTask(coroutine, loop=self._loop, context=context)
        task.job = job
        return task

    def restore(self) -> None:
        """Undoes what a handler may have changed for all that follow. Called on the loop."""
        if logging.root.manager.disable != self._log_level_disabled:  # Otherwise failures would not be logged.
            logging.disable(self._log_level_disabled)
        asyncio._set_running_loop(self._loop)
        self._set_up()

    def _set_up(self) -> None:
        loop: Any = self._loop
        loop.set_task_factory(_make_task)
        # A handler that shuts it down, as asyncio.run() does, would end asyncio.to_thread() for all others.
        if loop._executor_shutdown_called or getattr(loop._default_executor, "_shutdown", False):
            loop._executor_shutdown_called, loop._default_executor = False, None

    @property
    def blocked_seconds(self) -> float:
        """For how long the loop has not come to what it was asked for."""
        asked_at = self._asked_at
        return time.monotonic() - asked_at if asked_at else 0.0

    def blocked_by(self) -> AsyncRunningJob | None:
        """The job that has blocked the loop for long, if it is blocked."""
        return self._job_now() if self.blocked_seconds >= BLOCKED_SECONDS else None

    def _job_now(self) -> AsyncRunningJob | None:
        """The job of the task that runs at this moment."""
        task = asyncio.current_task(self._loop)
        return task.job if isinstance(task, JobTask) else None

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                self._loop.run_forever()
            # A KeyboardInterrupt or SystemExit of a task that a handler has started.
            except BaseException:
                logger.exception("A task ended the event loop, which goes on without it.")
        self._loop.close()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            if self._asked_at is None:
                self._asked_at, self._reported = time.monotonic(), False
                with suppress(RuntimeError):  # It has just been closed.
                    self.call(self._had_turn)
            elif self.blocked_seconds >= BLOCKED_SECONDS and not self._reported:
                self._reported = True
                self._report()

    def _had_turn(self) -> None:
        if self._reported:
            logger.warning("The event loop goes on; it was blocked for %.1f s.", self.blocked_seconds)
        self._asked_at = None

    def _report(self) -> None:
        job = self._job_now()
        logger.error(
            "%s has blocked the event loop for over %g s; all other async jobs of this process wait. Await instead, "
            "or use asyncio.to_thread(). It is here:\n%s",
            job or "Something", BLOCKED_SECONDS, stack_of(self._thread, MAX_FRAMES),
            extra={"job_id": job.id, "kind": job.kind.name} if job else None,
        )  # fmt: skip


class _Selector(selectors.DefaultSelector):
    """Ends a child that a handler has forked, which would run all jobs a second time."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        end_if_forked(self._pid)
        return super().select(timeout)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """Notes what a handler starts with its job, so that nothing of it outlives the job."""
    job = _running_job.get(None)
    if job is None:
        return asyncio.Task(coroutine, loop=loop, **options)
    task = JobTask(coroutine, loop=loop, **options)
    task.job = job
    job.tasks.add(task)
    task.add_done_callback(job.tasks.discard)
    return task
