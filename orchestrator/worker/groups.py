"""Groups of leased jobs: claimed together, run in turn by one slot, and completed together if they wrote nothing."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from django.db import connection

from orchestrator.failpoints import Failpoint
from orchestrator.queue import endings
from orchestrator.running import BaseRunningJob, RunningJob
from orchestrator.telemetry import attempts
from orchestrator.worker import completions
from orchestrator.worker.completions import Returned
from orchestrator.worker.running_jobs import RunningJobs

T = TypeVar("T")

# How long the rest of a group waits for its turn before it is handed back; it was meant to take half as long.
WAIT_SECONDS = 0.1
# How long a job whose handler has returned waits for others to be completed with.
GATHER_SECONDS = 0.02

handed_back = Failpoint("group-handed-back")


class Group:
    """Jobs of one claim, in the order in which their slot runs them.

    Who takes a job out of those that wait, which is one atomic step, may start it or hand it back: so a job that is
    handed back never starts here.
    """

    def __init__(self, jobs: Sequence[RunningJob], register: RunningJobs) -> None:
        # Whether the slot has failed, and the heartbeat sees to what is left.
        self.is_abandoned = False
        self._claimed_at = time.monotonic()
        self._register = register
        self._waiting = deque(jobs)
        self._returned: deque[Returned] = deque()
        self._gathers_since = 0.0
        self._completing = threading.Lock()

    @property
    def is_late(self) -> bool:
        """Whether its jobs take longer than they were meant to."""
        return time.monotonic() - self._claimed_at >= WAIT_SECONDS

    @property
    def is_over(self) -> bool:
        return not self._waiting and not self._returned

    def next(self) -> RunningJob | None:
        """Takes the next job, which must be started or handed back; None if no job waits."""
        return _first_of(self._waiting)

    def hand_back_waiting(self) -> None:
        """Returns the jobs that have not started to the queue. Any thread may call it."""
        if taken := _all_of(self._waiting):
            self.hand_back(*taken)

    def hand_back(self, *taken: RunningJob) -> None:
        """Returns jobs to the queue that were taken and not started; what is to be cancelled is cancelled."""
        # Nobody tries again if it fails: the heartbeat will find jobs without handlers, and end their attempts.
        try:
            endings.hand_back_unstarted([running.row for running in taken])
            handed_back()
        finally:
            self.leave(*taken)

    def returned(self, running: RunningJob, result: str) -> None:
        """Its handler has returned and used no transaction, so it is completed together with others."""
        running.keep_progress()
        if not self._returned:
            self._gathers_since = time.monotonic()
        self._returned.append((running, result))

    @property
    def is_due(self) -> bool:
        """Whether the first of those that have returned has waited long enough for others."""
        return bool(self._returned) and time.monotonic() - self._gathers_since >= GATHER_SECONDS

    def complete_returned(self) -> None:
        """Completes the jobs whose handlers have returned. For the slot, outside its transaction."""
        with self._completing:
            if returned := _all_of(self._returned):
                try:
                    completions.complete_or_end(returned)
                finally:
                    self.leave(*(running for running, _ in returned))

    def try_to_complete_returned(self) -> None:
        """Does so while the slot is busy. If it fails, the slot does it, or the next beat if there is none."""
        with self._completing:
            returned = _all_of(self._returned)
            if not returned:
                return
            try:
                completed = completions.complete(returned)
            except BaseException:
                self._returned.extendleft(reversed(returned))
                raise
            completions.report(returned, completed)
            self.leave(*(running for running, _ in returned))

    def leave(self, *ended: BaseRunningJob) -> None:
        """Nothing more is to be done for them here."""
        self._register.unregister(*ended)
        for running in ended:
            attempts.left(running)


class Groups:
    """The groups of this process, for the heartbeat, which sees to those whose slots are busy."""

    def __init__(self, draining: threading.Event) -> None:
        self._draining = draining
        self._groups: set[Group] = set()
        self._lock = threading.Lock()

    def add(self, group: Group) -> None:
        with self._lock:
            self._groups.add(group)

    def discard(self, group: Group) -> None:
        with self._lock:
            self._groups.discard(group)

    def release_late(self) -> None:
        """Hands back what waits behind a long job, or in a process that drains, and completes what has returned."""
        self._release(lambda group: group.is_late or group.is_abandoned or self._draining.is_set())

    def release_all(self) -> None:
        """Hands back and completes all that does not run just now."""
        self._release(lambda group: True)

    def _release(self, is_due: Callable[[Group], bool]) -> None:
        with self._lock:
            groups = [group for group in self._groups if is_due(group) and (group.is_abandoned or not group.is_over)]
        if groups:
            # While the database is away nothing is taken from a group, so nothing is lost.
            connection.ensure_connection()
        failed: BaseException | None = None
        for group in groups:
            try:
                self._see_to(group)
            except BaseException as error:
                failed = error
        if failed:
            raise failed

    def _see_to(self, group: Group) -> None:
        group.hand_back_waiting()
        if group.is_abandoned:
            group.complete_returned()
            self.discard(group)
        else:
            group.try_to_complete_returned()


def _first_of(jobs: deque[T]) -> T | None:
    try:
        return jobs.popleft()
    except IndexError:
        return None


def _all_of(jobs: deque[T]) -> list[T]:
    taken = []
    while (first := _first_of(jobs)) is not None:
        taken.append(first)
    return taken
