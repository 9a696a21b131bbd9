"""What the heartbeat does for the leased jobs of this process: it stops them, and writes their progress."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from orchestrator.models import Attempt, Job
from orchestrator.queue.endings import Ended
from orchestrator.queue.recovery import take_back
from orchestrator.running import BaseRunningJob
from orchestrator.stops import Cancelled, LeaseLost, TimedOut
from orchestrator.worker.lease import Lease
from orchestrator.worker.running_jobs import Attempted, RunningJobs

# How long a job that may have crashed another process runs here before others may run beside it again.
PROBATION_SECONDS = 10.0

# The progress of so many jobs is written at a beat: a beat of 10,000 would take seconds.
MAX_PROGRESS_ROWS = 1_000

# The jobs that this process has leased according to the database, and which of them have to end.
LEASES = """
SELECT id, attempt, cancel_requested_at IS NOT NULL, deadline_at
FROM orchestrator_job
WHERE worker_id = %(id)s
"""

# The progress of jobs that are still this worker's.
WRITE_PROGRESS = """
UPDATE orchestrator_job job
SET progress_done = new.done, progress_total = new.total, progress_message = new.message,
    updated_at = clock_timestamp()
FROM (VALUES %s) AS new (id, attempt, done, total, message)
WHERE job.id = new.id::uuid AND job.status = 'RUNNING' AND job.attempt = new.attempt
"""

# Those jobs have run for a while and their process lives, so they did not crash the other one.
END_ISOLATION = """
UPDATE orchestrator_job SET runs_alone = false
WHERE id = ANY(%(ids)s::uuid[]) AND worker_id = %(worker)s AND status = 'RUNNING'
"""


class JobLeases:
    def __init__(self, lease: Lease, running: RunningJobs) -> None:
        self._lease = lease
        self._running = running
        self._mismatched: set[Attempted] = set()
        # Up to which of the running jobs progress was last written.
        self._written_up_to = 0

    def apply_cancellations_and_timeouts(self) -> None:
        """Stops handlers whose jobs are cancelled, timed out or lost, and hands back jobs that have no handler."""
        running = self._running.by_attempt()
        leases: dict[Attempted, tuple[bool, datetime | None]] = {
            (id, attempt): (cancelled, deadline)
            for id, attempt, cancelled, deadline in self._lease.connection.fetch(LEASES, {"id": self._lease.row_id})
        }
        for attempted, job in running.items():
            _stop_if_due(job, *leases.get(attempted, (False, None)))
        # Between a claim and `register`, or the last write and `unregister`, database and process differ for a moment.
        # A difference at two beats is real: the job was taken back, or the end of its attempt could not be recorded.
        mismatched = leases.keys() ^ running.keys()
        for attempted in mismatched & self._mismatched:
            self._settle(attempted, running.get(attempted))
        self._mismatched = mismatched

    def _settle(self, attempted: Attempted, running: BaseRunningJob | None) -> None:
        if running:
            running.stop(LeaseLost)
        else:
            id, attempt = attempted
            own = Job.objects.filter(id=id, attempt=attempt, worker=self._lease.row_id)
            take_back(
                own, Ended(Attempt.Outcome.UNAVAILABLE, error="The outcome of this attempt could not be recorded.")
            )

    def stop_all(self) -> None:
        """The lease of all of them is lost."""
        for job in self._running.all():
            job.stop(LeaseLost)

    def end_isolation(self) -> None:
        """Lets others run again beside jobs that may have crashed another process but have not crashed this one."""
        trusted = [
            job
            for job in self._running.at_work()
            if job.row.runs_alone and time.monotonic() - job.began_at >= PROBATION_SECONDS
        ]
        if trusted:
            ids = [str(job.row.id) for job in trusted]
            self._lease.connection.execute(END_ISOLATION, {"ids": ids, "worker": self._lease.row_id})
            for job in trusted:
                job.row.runs_alone = False

    def warn_of_idle_transactions(self) -> None:
        for job in self._running.at_work():
            job.warn_if_idle()

    def write_progress(self) -> None:
        """Writes what was reported: of very many jobs that of some, and that of the next the next time."""
        jobs = self._running.all()
        begins_at = self._written_up_to % len(jobs) if jobs else 0
        rows: list[tuple[Any, ...]] = []
        for self._written_up_to, job in enumerate([*jobs[begins_at:], *jobs[:begins_at]], begins_at + 1):
            if progress := job.take_progress():
                rows.append((str(job.row.id), job.row.attempt, *progress))
            if len(rows) == MAX_PROGRESS_ROWS:
                break
        if rows:
            template = "(%s, %s, %s::bigint, %s::bigint, %s)"
            self._lease.connection.execute_values(WRITE_PROGRESS, rows, template=template)


def _stop_if_due(job: BaseRunningJob, cancelled: bool, deadline: datetime | None) -> None:
    if deadline:
        job.time_limit = deadline - job.row.claimed_at
    if cancelled:
        job.stop(Cancelled)
    elif job.overtime_seconds >= 0:
        job.stop(TimedOut)
