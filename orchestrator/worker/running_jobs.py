"""What runs in this process: leased jobs, and batches of transactional ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

from psycopg2.extras import Json

from orchestrator.attempt.timeouts import InFlightBatch
from orchestrator.claimed import Claimed
from orchestrator.failpoints import Failpoint
from orchestrator.kinds import Kind
from orchestrator.queue import transitions
from orchestrator.queue.costs import costs
from orchestrator.running import BaseRunningJob
from orchestrator.worker.job_logs import JobLogs
from orchestrator.worker.lease import Lease

lease_claimed = Failpoint("lease-claimed")

RECORD_IN_FLIGHT = "UPDATE orchestrator_worker SET trying = %(attempts)s WHERE id = %(id)s"

Running = TypeVar("Running", bound=BaseRunningJob)
# An attempt at a job: a process may run the next one while an earlier one, which timed out, still hangs.
Attempted = tuple[UUID, int]


class RunningJobs:
    """The register of leased jobs whose handlers run in this process, wait for their turn, or have just returned."""

    def __init__(self, logs: JobLogs) -> None:
        self._logs = logs
        self._jobs: dict[Attempted, BaseRunningJob] = {}
        self._lock = threading.Lock()
        self._claiming_isolated = threading.Lock()

    def register(self, *claimed: BaseRunningJob) -> None:
        """Adds jobs that were claimed and start here."""
        with self._lock:
            for running in claimed:
                self._jobs[running.row.id, running.row.attempt] = running

    def unregister(self, *ended: BaseRunningJob) -> None:
        """Removes jobs that do not run here any more."""
        with self._lock:
            for running in ended:
                self._jobs.pop((running.row.id, running.row.attempt), None)
        self._logs.ended(*ended)
        costs().ended((running.row, running.ran_seconds) for running in ended)

    def by_attempt(self) -> dict[Attempted, BaseRunningJob]:
        with self._lock:
            return dict(self._jobs)

    def all(self) -> list[BaseRunningJob]:
        return list(self.by_attempt().values())

    def at_work(self) -> list[BaseRunningJob]:
        """Those whose handlers have begun and have not ended."""
        return [running for running in self.all() if running.is_at_work]

    def claim(
        self,
        kind: Kind,
        lease: Lease,
        make: Callable[[Claimed], Running],
        *,
        at_most: int = 1,
        apart: bool = False,
        id: UUID | None = None,
    ) -> tuple[list[Running], bool]:
        """Claims ready jobs of the kind for the process with that lease, and adds what is made of them.

        Returns it, and whether more are ready. apart, id: as `transitions.claim` takes them.
        """
        assert lease.row_id is not None
        with self.claiming() as isolated:
            claim = transitions.claim(
                kind,
                worker_id=lease.row_id,
                worker_name=lease.name,
                isolated=isolated,
                at_most=at_most,
                apart=apart,
                id=id,
            )
            if claim.jobs:
                lease_claimed()
            claimed = [make(job) for job in claim.jobs]
            self.register(*claimed)
        if id is None:
            costs().claimed(kind.name, claim.jobs)
        return claimed, claim.has_more

    @contextmanager
    def claiming(self) -> Iterator[bool]:
        """Yields whether the claim within may take an isolated job, one that ran in a process when it died: one at a
        time, so that the next crash shows which of them causes it.
        """
        alone = self._claiming_isolated.acquire(blocking=False)
        try:
            yield alone and not any(running.row.runs_alone for running in self.all())
        finally:
            if alone:
                self._claiming_isolated.release()


class InFlightBatches:
    """The batches that run here, which this process records in its row in a transaction of its own.

    If a job kills the process, this is the only record of the attempt: the batch's transaction is rolled back.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._batches: set[InFlightBatch] = set()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        # Kinds whose last batch was a job that runs alone.
        self.alone: set[str] = set()
        # What was last written, and to which row.
        self._recorded: tuple[int | None, dict[str, int]] = (None, {})

    def runs_alone(self, kind: str, alone: bool) -> bool:
        """Notes whether the kind's batch is a job that runs alone; returns whether the one before it was."""
        was_alone = kind in self.alone
        (self.alone.add if alone else self.alone.discard)(kind)
        return was_alone

    def record_in_flight(self, batch: InFlightBatch) -> None:
        """Adds a batch that is about to run here, in a transaction that has its jobs locked, and records it."""
        with self._lock:
            self._batches.add(batch)
        self.keep_recorded()

    def forget(self, batch: InFlightBatch) -> None:
        """Removes a batch that does not run any more. The row is updated with the next batch or beat."""
        with self._lock:
            self._batches.discard(batch)

    def all(self) -> list[InFlightBatch]:
        with self._lock:
            return list(self._batches)

    def keep_recorded(self) -> None:
        """Writes the batches that run here to the row, if they changed."""
        with self._writing:
            attempts = {id: attempts for batch in self.all() for id, attempts in batch.attempts.items()}
            row_id = self._lease.row_id
            if (row_id, attempts) != self._recorded:
                self._lease.connection.execute(RECORD_IN_FLIGHT, {"id": row_id, "attempts": Json(attempts)})
                self._recorded = (row_id, attempts)
