"""Ends a process whose handlers do not end: when it is shut down, or when they run long past their timeout."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from orchestrator.attempt.timeouts import InFlightBatch, RunningHandler
from orchestrator.database_errors import DATABASE_ERRORS
from orchestrator.models import Attempt, Job, Worker
from orchestrator.queue.endings import Ended, end_attempt
from orchestrator.queue.recovery import ENDED_FOR_ANOTHER, SHUT_DOWN, record_crashed_attempts
from orchestrator.running import BaseRunningJob
from orchestrator.stops import Interrupted
from orchestrator.telemetry import attempts
from orchestrator.worker.groups import Groups
from orchestrator.worker.heartbeat import Heartbeat
from orchestrator.worker.lease import Lease
from orchestrator.worker.running_jobs import InFlightBatches, RunningJobs

logger = logging.getLogger(__name__)

# How long a handler that was asked to stop has to reach a checkpoint before its process ends all the same.
CHECKPOINT_GRACE_SECONDS = 2.0
# A job that was handed back before because another one hung has so many times as long, for each time up to a maximum.
CHECKPOINT_GRACE_FACTOR = 4
MAX_CHECKPOINT_GRACE_INCREASES = 5
# How long handing back waits before it tries again to lock jobs that others have locked.
HAND_BACK_PAUSE_SECONDS = 0.05

# Ends the connection of a batch that hangs, hence the transaction that has its jobs locked.
END_BACKEND = """
SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
WHERE pid = %(pid)s AND usename = current_user AND datname = current_database()
"""


def longest_drain_seconds() -> float:
    """How long a draining process goes on at most; then it ends with the handlers that are left."""
    return settings.ENV.SHUTDOWN_GRACE_SECONDS + 2 * CHECKPOINT_GRACE_SECONDS


class Hanging:
    """Finds the handlers in this process that run long past their timeout.

    There are none while the database is down, since a handler may be waiting for it.
    """

    def __init__(self, running: RunningJobs, in_flight: InFlightBatches, heartbeat: Heartbeat) -> None:
        self._running = running
        self._in_flight = in_flight
        self._heartbeat = heartbeat

    def all(self) -> list[RunningHandler]:
        grace = settings.ENV.HARD_TIMEOUT_GRACE_SECONDS
        if time.monotonic() - self._heartbeat.database_failed_at < grace:
            return []
        return list({each.culprit: None for each in self._at_work() if each.overtime_seconds >= grace})

    def others(self, hanging: Sequence[RunningHandler]) -> list[RunningHandler]:
        return [each for each in self._at_work() if each not in hanging]

    def _at_work(self) -> list[RunningHandler]:
        return [*self._running.at_work(), *self._in_flight.all()]


class ProcessEnd:
    """Hands back the jobs that run in this process, and ends it with their handlers."""

    def __init__(self, lease: Lease, hanging: Hanging, groups: Groups) -> None:
        # Set once jobs may have been handed back whose handlers still run, so that nothing more is recorded of them.
        self.begun = threading.Event()
        self.before_exit: Callable[[], None] = lambda: None
        self._lease = lease
        self._hanging = hanging
        self._groups = groups

    def exit(self, reason: str, *, exit_code: int) -> None:
        self.begun.set()
        try:
            self.hand_back(reason)
        except Exception as error:
            logger.warning("The jobs of %s were not handed back; the tick will do so: %s", self._lease.name, error)
        try:
            attempts.stop_reporting()
            self.before_exit()
        finally:
            os._exit(exit_code)

    def hand_back(self, reason: str) -> None:
        """Ends the attempts that run here and closes the row: what hangs has timed out, the others are not charged."""
        self._groups.release_all()
        hanging = self._hanging.all()
        unrecorded = self._end_batches([each for each in hanging if isinstance(each, InFlightBatch)])
        jobs = [each for each in hanging if isinstance(each, BaseRunningJob)]
        deadline = time.monotonic() + CHECKPOINT_GRACE_SECONDS
        # A locked job is about to complete, or hangs while its own transaction has it locked.
        while not self._hand_back_leased(jobs, reason, unrecorded, even_if_held=time.monotonic() >= deadline):
            time.sleep(HAND_BACK_PAUSE_SECONDS)

    def _hand_back_leased(
        self, hanging: Sequence[BaseRunningJob], reason: str, unrecorded: dict[str, int], *, even_if_held: bool
    ) -> bool:
        """Returns False if one of the jobs is locked; then the worker's row stays open.

        The row is locked meanwhile, so that no job is claimed for it after they were read.
        """
        assert self._lease.row_id is not None
        overtime = {(each.row.id, each.row.attempt): each for each in hanging}
        with transaction.atomic():
            list(Worker.objects.select_for_update().filter(id=self._lease.row_id))
            ended = [
                end_left_behind(job, overtime.get((job.id, job.attempt)), reason)
                for job in Job.objects.filter(worker=self._lease.row_id).order_by("id")
            ]
            is_done = None not in ended or even_if_held
            if is_done:
                Worker.objects.filter(id=self._lease.row_id).update(ended_at=Now(), in_flight_batch=unrecorded)
        return is_done

    def _end_batches(self, batches: Sequence[InFlightBatch]) -> dict[str, int]:
        """Ends the transactions of batches that hang and records their attempts; returns those not recorded."""
        unrecorded: dict[str, int] = {}
        for batch in batches:
            ended = Ended(Attempt.Outcome.TIMED_OUT, error=batch.verdict, traceback=batch.traceback())
            self._lease.connection.fetch(END_BACKEND, {"pid": batch.backend_pid})
            if not record_crashed_attempts(batch.attempts, ended, worker_name=self._lease.name):
                unrecorded |= batch.attempts
        return unrecorded


class ShutdownDeadline:
    """When a process that is shutting down ends, whatever runs in it."""

    def __init__(self, running: RunningJobs, process_end: ProcessEnd) -> None:
        self.began_at: float | None = None
        self._running = running
        self._process_end = process_end

    def begin(self) -> None:
        self.began_at = self.began_at or time.monotonic()

    def enforce_shutdown_deadline(self) -> None:
        """Stops what still runs when the grace period is over, and soon afterwards ends the process with the rest."""
        if self.began_at is None:
            return
        overdue_seconds = time.monotonic() - self.began_at - settings.ENV.SHUTDOWN_GRACE_SECONDS
        if overdue_seconds < 0:
            return
        running = self._running.all()
        for job in running:
            job.stop(Interrupted)
        if running and overdue_seconds >= CHECKPOINT_GRACE_SECONDS:
            logger.warning("The process ends with %d handlers that reach no checkpoint.", len(running))
            self._process_end.exit(SHUT_DOWN, exit_code=0)


class HardTimeout:
    """Ends this process if a handler runs long past its timeout; the others have time to end before."""

    def __init__(self, lease: Lease, hanging: Hanging, process_end: ProcessEnd, draining: threading.Event) -> None:
        # The kinds of the handlers that hang: no more of their jobs are claimed here.
        self.hanging_kinds: set[str] = set()
        self.ends_at: float | None = None
        self._lease = lease
        self._hanging = hanging
        self._process_end = process_end
        self._draining = draining

    def enforce_hard_timeouts(self) -> None:
        hanging = self._hanging.all()
        if hanging and self.ends_at is None:
            self.ends_at = time.monotonic() + self._extra_seconds(hanging)
        self._stop_claiming(hanging)
        if self.ends_at is None:
            return
        left_seconds = self.ends_at - time.monotonic()
        if left_seconds <= CHECKPOINT_GRACE_SECONDS:
            self._draining.set()
        else:
            self._end_attempts(hanging)
        if left_seconds <= 0 or not self._hanging.others(hanging):
            self._process_end.exit(ENDED_FOR_ANOTHER, exit_code=1)

    def _stop_claiming(self, hanging: Sequence[RunningHandler]) -> None:
        for each in hanging:
            if each.kind.name not in self.hanging_kinds:
                self.hanging_kinds.add(each.kind.name)
                logger.error("%s exits because of %s: %s\n%s", self._lease.name, each, each.verdict, each.traceback())

    def _extra_seconds(self, hanging: Sequence[RunningHandler]) -> float:
        """How long the others may take: longer, the more often one of them was interrupted because of another, if the
        database can tell.
        """
        ended = Attempt.objects.filter(outcome=Attempt.Outcome.INTERRUPTED, error=ENDED_FOR_ANOTHER)
        others = [each.row.id for each in self._hanging.others(hanging) if isinstance(each, BaseRunningJob)]
        times: Counter[UUID] = Counter()
        with suppress(*DATABASE_ERRORS):
            times.update(ended.filter(job__in=others).values_list("job", flat=True))
        grown = min(max(times.values(), default=0), MAX_CHECKPOINT_GRACE_INCREASES)
        return CHECKPOINT_GRACE_SECONDS * float(CHECKPOINT_GRACE_FACTOR**grown)

    def _end_attempts(self, hanging: Sequence[RunningHandler]) -> None:
        """Ends the attempts of hanging jobs before their process ends, so that they can run elsewhere meanwhile."""
        for each in hanging:
            if isinstance(each, BaseRunningJob):
                with suppress(Job.DoesNotExist):
                    job = Job.objects.get(id=each.row.id, attempt=each.row.attempt, worker=self._lease.row_id)
                    end_left_behind(job, each, ENDED_FOR_ANOTHER)


def end_left_behind(job: Job, overtime: BaseRunningJob | None, reason: str) -> Job | None:
    """Ends the attempt at a job whose handler may still run: it timed out, or it is handed back for that reason."""
    ended = Ended(Attempt.Outcome.INTERRUPTED, error=reason)
    if overtime:
        ended = Ended(Attempt.Outcome.TIMED_OUT, error=overtime.verdict, traceback=overtime.traceback())
    return end_attempt(job, ended, skip_locked=True)
