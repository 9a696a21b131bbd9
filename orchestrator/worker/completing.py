"""The thread that completes jobs whose handlers have used no transaction, all that ended meanwhile at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from queue import Empty, SimpleQueue

from django.db import connection

from orchestrator.attempt import session
from orchestrator.failures import error_of
from orchestrator.running import BaseRunningJob
from orchestrator.telemetry import attempts
from orchestrator.worker import completions
from orchestrator.worker.completions import Returned
from orchestrator.worker.running_jobs import RunningJobs

logger = logging.getLogger(__name__)

# Jobs that one statement completes, at most.
MAX_GROUP = 500
# While so many are still to be completed, slots claim no more.
MAX_UNFINISHED = 500
# From one group that is completed to the next. A job that ends alone does not wait.
GATHER_SECONDS = 0.01


class Completing:
    """It begins with the first job."""

    def __init__(self, running: RunningJobs, left: Callable[[Sequence[BaseRunningJob]], None] | None = None) -> None:
        """left: is told of jobs of which nothing is left to be done here."""
        self._running, self._left = running, left
        self._returned: SimpleQueue[Returned | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._added = self._done = 0

    def add(self, running: BaseRunningJob, result: str) -> None:
        """The handler of a job has returned this, as JSON."""
        with self._changed:
            self._added += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="completions", daemon=True)
                self._thread.start()
        self._returned.put((running, result))

    def unfinished(self) -> int | None:
        """A mark for `wait_for`, if jobs that were added are not completed yet."""
        with self._changed:
            return self._added if self._done < self._added else None

    @property
    def is_behind(self) -> bool:
        """Whether it completes much more slowly than jobs end."""
        with self._changed:
            return self._added - self._done >= MAX_UNFINISHED

    def wait_for(self, mark: int, timeout_seconds: float) -> bool:
        """Waits until all that was added before the mark is completed; whether it is, after so long at the latest."""
        with self._changed:
            return self._changed.wait_for(lambda: self._done >= mark, timeout_seconds)

    def stop(self, timeout_seconds: float) -> None:
        """Ends the thread, once it has completed what was added before."""
        if self._thread:
            self._returned.put(None)
            self._thread.join(timeout_seconds)

    def _serve(self) -> None:
        try:
            while group := self._next_group():
                # The statement that completes them is fenced by the process's row, of which there may be a new one.
                for _, returned in groupby(group, lambda each: each[0].row.worker_id):
                    self._complete(list(returned))
                time.sleep(GATHER_SECONDS)
        finally:
            connection.close()

    def _next_group(self) -> list[Returned]:
        """Empty when the thread is to end."""
        group: list[Returned] = []
        while len(group) < MAX_GROUP:
            try:
                one = self._returned.get(block=not group)
            except Empty:
                break
            if one is None:
                if group:
                    self._returned.put(None)
                break
            group.append(one)
        return group

    def _complete(self, group: Sequence[Returned]) -> None:
        jobs = [running for running, _ in group]
        try:
            for running in jobs:
                running.keep_progress()
            completions.complete_or_end(group)
        except BaseException as error:
            not_recorded(error)
        self._running.unregister(*jobs)
        for running in jobs:
            attempts.left(running)
        if self._left:
            self._left(jobs)
        with self._changed:
            self._done += len(jobs)
            self._changed.notify_all()


def not_recorded(error: BaseException) -> None:
    """The heartbeat finds jobs without handlers, and ends their attempts."""
    logger.error("The end of an attempt could not be recorded: %s", error_of(error), exc_info=error)
    session.discard()
