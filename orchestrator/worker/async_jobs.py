"""The async jobs of a worker process: claimed as slots are free, run on its event loop, completed in groups."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

from django.conf import settings
from django.db import connection

from orchestrator.async_running import AsyncRunningJob
from orchestrator.attempt import session
from orchestrator.kinds import Kind
from orchestrator.queue import bell
from orchestrator.running import BaseRunningJob
from orchestrator.telemetry import attempts
from orchestrator.worker import async_attempts
from orchestrator.worker.async_attempts import Handled
from orchestrator.worker.calling import end
from orchestrator.worker.completing import Completing, not_recorded
from orchestrator.worker.completions import NotEnded, Transaction
from orchestrator.worker.database_threads import DatabaseThreads, Statements
from orchestrator.worker.event_loop import EventLoop
from orchestrator.worker.lease import Lease
from orchestrator.worker.running_jobs import RunningJobs

logger = logging.getLogger(__name__)

# Jobs that one statement claims, at most.
MAX_GROUP = 500
# Threads that record what became of attempts that did not complete.
RECORDERS = 2
# The most connections of a process beside ASYNC_CONNECTIONS: those, the one that claims, and the one that completes.
OWN_CONNECTIONS = RECORDERS + 2
# Waiting for jobs pauses so often: a signal that arrives just before Python begins to wait is handled after that only.
LOOK_SECONDS = 0.5
# How long claiming pauses after it has failed.
RETRY_SECONDS = 1.0


class AsyncJobs:
    """Its slots bound how many jobs run at once, hence also their memory. Its threads begin with the first job."""

    def __init__(self, lease: Lease, running: RunningJobs, claims: Callable[[Kind], bool]) -> None:
        """claims: whether the process still claims jobs of a kind."""
        self._lease, self._running, self._claims = lease, running, claims
        self._changed = threading.Condition()
        self._slots = self._free = settings.ENV.ASYNC_SLOTS
        # Those for which the bell has rung, or of which more are ready, in this order.
        self._wanted: dict[str, Kind] = {}
        self._threads: _Threads | None = None

    def want(self, kind: Kind) -> None:
        """Has ready jobs of the kind claimed as soon as slots are free, until there are none."""
        with self._changed:
            self._begun().start_claiming(self._serve)
            self._wanted[kind.name] = kind
            self._changed.notify_all()

    def run_ready(self, kind: Kind, at_most: int = MAX_GROUP) -> int:
        """Runs ready jobs of the kind, as many as slots are free, until all have ended; returns how many."""
        count, _ = self._start_ready(kind, at_most)
        self._wait_until_idle()
        return count

    def claim_one(self, kind: Kind, id: UUID) -> AsyncRunningJob | None:
        """Claims the job of that id, which runs here from now on; None if it is not ready."""
        claimed, _ = self._claim(kind, 1, self._begun(), id)
        return claimed[0] if claimed else None

    def run_claimed(self, running: AsyncRunningJob) -> None:
        """Runs a job that `claim_one` has claimed, to its end."""
        threads = self._begun()
        self._give_back(-1)
        threads.loop.call(self._start, [running], threads)
        self._wait_until_idle()

    def _wait_until_idle(self) -> None:
        while not self.wait_until_idle(LOOK_SECONDS):
            pass

    def wait_until_idle(self, timeout_seconds: float) -> bool:
        """Whether nothing runs any more, at the latest after so long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._free == self._slots, timeout_seconds)

    def stop(self, timeout_seconds: float) -> None:
        """Ends the threads, once nothing runs."""
        with self._changed:
            threads, self._threads = self._threads, None
            self._changed.notify_all()
        if threads:
            threads.stop(timeout_seconds)

    def _begun(self) -> _Threads:
        with self._changed:
            if self._threads is None:
                self._threads = _Threads(Completing(self._running, self._free_slots))
            return self._threads

    # In the thread that claims.

    def _serve(self) -> None:
        try:
            while kind := self._next_wanted():
                if self._claims(kind):
                    self._start_wanted(kind)
        finally:
            connection.close()

    def _next_wanted(self) -> Kind | None:
        with self._changed:
            self._changed.wait_for(lambda: not self._threads or (self._wanted and self._free))
            # Taken out before claiming, so that a bell that rings meanwhile is not overlooked.
            return self._wanted.pop(next(iter(self._wanted))) if self._threads else None

    def _start_wanted(self, kind: Kind) -> None:
        try:
            _, has_more = self._start_ready(kind, MAX_GROUP)
        except Exception as error:
            logger.warning("Jobs of kind %s could not be claimed; trying again: %s", kind.name, error)
            session.discard()
            time.sleep(RETRY_SECONDS)
            has_more = True
        if has_more:
            self.want(kind)
            bell.ring(kind.name)  # Others may have slots free.

    def _start_ready(self, kind: Kind, at_most: int) -> tuple[int, bool]:
        """Starts as many as slots are free; returns how many, and whether more are ready."""
        with self._changed:
            count = min(self._free, at_most)
            self._free -= count
            threads = self._begun()
        claimed: list[AsyncRunningJob] = []
        try:
            claimed, has_more = self._claim(kind, count, threads)
        finally:
            self._give_back(count - len(claimed))
        threads.loop.call(self._start, claimed, threads)
        return len(claimed), has_more

    def _claim(
        self, kind: Kind, at_most: int, threads: _Threads, id: UUID | None = None
    ) -> tuple[list[AsyncRunningJob], bool]:
        make = partial(AsyncRunningJob, kind=kind, blocked_by=threads.loop.blocked_by)
        return self._running.claim(kind, self._lease, make, at_most=at_most, id=id)

    def _give_back(self, slots: int) -> None:
        with self._changed:
            self._free += slots
            self._changed.notify_all()

    # On the event loop.

    def _start(self, jobs: Sequence[AsyncRunningJob], threads: _Threads) -> None:
        for running in jobs:
            statements = Statements(threads.transactions, partial(self._attempt_in_thread, running, threads))
            task = threads.loop.start_task(async_attempts.handle(running, statements), running)
            task.add_done_callback(partial(self._handled, running, statements, threads))

    def _handled(
        self, running: AsyncRunningJob, statements: Statements, threads: _Threads, task: asyncio.Task[Handled]
    ) -> None:
        threads.loop.restore()
        outcome = partial(async_attempts.outcome_of, running, task)
        if statements.end(outcome):
            return
        try:
            result = outcome()
        except BaseException as error:
            threads.recorders.submit(self._end, running, error)
        else:
            if running.awaits:
                threads.recorders.submit(self._attempt_in_thread, running, threads, lambda own: result)
            else:
                threads.completions.add(running, result)

    # In threads with a connection.

    def _attempt_in_thread(
        self, running: AsyncRunningJob, threads: _Threads, serve: Callable[[Transaction], str]
    ) -> None:
        try:
            result = async_attempts.attempt_in_thread(running, serve)
        except NotEnded:
            raise
        except BaseException as error:
            not_recorded(error)
        else:
            if result is not None:
                threads.completions.add(running, result)
                return
        self._leave(running)

    def _end(self, running: AsyncRunningJob, error: BaseException) -> None:
        try:
            end(running, error)
        except BaseException as failure:
            not_recorded(failure)
        self._leave(running)

    def _leave(self, running: BaseRunningJob) -> None:
        self._running.unregister(running)
        attempts.left(running)
        self._free_slots([running])

    def _free_slots(self, jobs: Sequence[BaseRunningJob]) -> None:
        for running in jobs:
            if running.row.runs_alone and self._threads and self._threads.is_claiming:
                self.want(running.kind)  # The next that runs alone could not be claimed meanwhile.
        self._give_back(len(jobs))


class _Threads:
    """What runs async jobs."""

    def __init__(self, completions: Completing) -> None:
        self.loop = EventLoop().start()
        self.transactions = DatabaseThreads(settings.ENV.ASYNC_CONNECTIONS, "async-transaction")
        self.recorders = DatabaseThreads(RECORDERS, "async-recorder")
        self.completions = completions
        self._claiming: threading.Thread | None = None

    def start_claiming(self, serve: Callable[[], None]) -> None:
        if self._claiming is None:
            self._claiming = threading.Thread(target=serve, name="async-claims", daemon=True)
            self._claiming.start()

    @property
    def is_claiming(self) -> bool:
        return self._claiming is not None

    def stop(self, timeout_seconds: float) -> None:
        if self._claiming:
            self._claiming.join(timeout_seconds)
        self.loop.stop(timeout_seconds)
        self.completions.stop(timeout_seconds)
        self.transactions.stop(timeout_seconds)
        self.recorders.stop(timeout_seconds)
