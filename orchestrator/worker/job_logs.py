"""Writes what handlers have logged: once a second while they run, and soon after they have ended.

No attempt waits for it or fails because of it. A process that crashes loses what was not yet written.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable

import msgspec
from django.db import DatabaseError

from orchestrator.database_errors import is_database_fault
from orchestrator.job_log import Line
from orchestrator.running import BaseRunningJob
from orchestrator.worker.lease import HeartbeatConnection

logger = logging.getLogger(__name__)

# How many lines one row holds, and one statement writes, at most.
MAX_ROW_LINES, MAX_STATEMENT_LINES = 100, 2_000
# How many lines wait in this process while the database is away. What is more is lost.
MAX_WAITING_LINES = 20_000
# How long the lines of a job that has ended wait for those of others.
GATHER_SECONDS = 0.02

# A job that is not there, as one that was pruned meanwhile, gets none.
WRITE_LINES = """
INSERT INTO orchestrator_attemptlog (job_id, attempt, lines)
SELECT new.job_id::uuid, new.attempt, new.lines::jsonb
FROM (VALUES %s) AS new (position, job_id, attempt, lines)
WHERE EXISTS (SELECT FROM orchestrator_job WHERE id = new.job_id::uuid)
ORDER BY position
"""


# A job's id, an attempt, and lines of it.
Logged = tuple[str, int, list[Line]]


class JobLogs:
    """What waits to be written. Its thread begins with the first job that has logged something and ended."""

    def __init__(self, connection: HeartbeatConnection) -> None:
        self._connection = connection
        self._waiting: deque[Logged] = deque()
        self._waiting_lines = 0
        self._lost_lines = 0
        # For the numbers above, and held while a thread writes.
        self._changing, self._writing = threading.Lock(), threading.Lock()
        self._wanted, self._stopped = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def ended(self, *jobs: BaseRunningJob) -> None:
        """Their handlers have ended, so what they have logged is written soon."""
        took = False
        for job in jobs:
            if job.lines is not None:
                took |= self._take(job, ended=True)
        if took:
            with self._changing:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._serve, name="job-logs", daemon=True)
                    self._thread.start()
            self._wanted.set()

    def write(self, running: Iterable[BaseRunningJob]) -> None:
        """Writes what those have logged so far, and what is left."""
        for job in running:
            if job.lines is not None:
                self._take(job, ended=False)
        self._write()

    def stop(self, timeout_seconds: float) -> None:
        """Ends the thread, once it has written what was left, or after so long."""
        self._stopped.set()
        self._wanted.set()
        if self._thread:
            self._thread.join(timeout_seconds)

    def _take(self, job: BaseRunningJob, *, ended: bool) -> bool:
        with self._changing:
            lines = job.lines.take(ended=ended) if job.lines else []
            if not lines:
                return False
            if self._waiting_lines + len(lines) > MAX_WAITING_LINES:
                self._lost_lines += len(lines)
                return False
            self._waiting_lines += len(lines)
            self._waiting.extend(
                (job.id, job.attempt, lines[start : start + MAX_ROW_LINES])
                for start in range(0, len(lines), MAX_ROW_LINES)
            )
        return True

    def _serve(self) -> None:
        while not self._stopped.is_set():
            self._wanted.wait()
            self._wanted.clear()
            self._stopped.wait(GATHER_SECONDS)
            try:
                self._write()
            except Exception as error:  # The heartbeat tries again.
                logger.debug("What jobs have logged was not written: %s", error)
                self._connection.close()

    def _write(self) -> None:
        with self._writing:
            while self._waiting:
                self._write_some()
        if self._lost_lines:
            logger.warning("%d lines that jobs have logged were not kept.", self._lost_lines)
            self._lost_lines = 0

    def _write_some(self) -> None:
        """Raises, and they wait on, if the database is not there."""
        some, count = self._next()
        try:
            self._insert(some)
        except DatabaseError as error:
            if is_database_fault(error):
                raise
            logger.warning("%d lines that jobs have logged cannot be stored: %s", count, error)
        with self._changing:
            for _ in some:
                self._waiting.popleft()
            self._waiting_lines -= count

    def _next(self) -> tuple[list[Logged], int]:
        """The first of those that wait, as many as one statement writes, and how many lines they have."""
        some: list[Logged] = []
        count = 0
        with self._changing:
            for each in self._waiting:
                if some and count + len(each[2]) > MAX_STATEMENT_LINES:
                    break
                some.append(each)
                count += len(each[2])
        return some, count

    def _insert(self, rows: list[Logged]) -> None:
        values = [
            (position, job_id, attempt, msgspec.json.encode(lines).decode())
            for position, (job_id, attempt, lines) in enumerate(rows)
        ]
        self._connection.execute_values(WRITE_LINES, values, template="(%s, %s, %s, %s)")
