"""Worker processes: the row that is their lease, the heartbeat that renews it, and taking back what the dead held."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet
from django.db.models.functions import Now
from psycopg2.extras import Json, execute_values

from orchestrator import moves
from orchestrator.failpoints import Failpoint
from orchestrator.host import host
from orchestrator.kinds import all_kinds
from orchestrator.models import Attempt, Job, Worker
from orchestrator.running import Cancelled, Interrupted, LeaseLost, RunningJob, TimedOut

logger = logging.getLogger(__name__)

worker_registered = Failpoint("worker-registered")
giving_up = Failpoint("giving-up")
taking_back = Failpoint("taking-back")

# How often the heartbeat thread looks after what runs here: cancellations, deadlines, progress to write.
LOOK_SECONDS = 1.0
# How long a handler that was told to stop has to reach a checkpoint before its process ends without it.
LAST_CALL_SECONDS = 2.0

# The lease of everything this process runs, renewed; no row if the process was given up meanwhile.
RENEW = """
UPDATE orchestrator_worker
SET seen_at = clock_timestamp(),
    draining_at = CASE WHEN %(draining)s THEN coalesce(draining_at, clock_timestamp()) END
WHERE id = %(id)s AND ended_at IS NULL
"""

# What this process holds by the database's account, and which of it has to end.
LEASES = """
SELECT id, attempt, cancel_requested_at IS NOT NULL, coalesce(deadline_at < clock_timestamp(), false)
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

NOTE_TRYING = "UPDATE orchestrator_worker SET trying = %(trying)s WHERE id = %(id)s"

# The kinds this process can run, for whoever looks at them and for the tick, which rings for them.
REPORT_KINDS = """
INSERT INTO orchestrator_kind AS known (name, queue, description, keep_days) VALUES %s
ON CONFLICT (name) DO UPDATE
SET queue = excluded.queue, description = excluded.description, keep_days = excluded.keep_days
WHERE (known.queue, known.description, known.keep_days)
      IS DISTINCT FROM (excluded.queue, excluded.description, excluded.keep_days)
"""


# An attempt at a job: a process may run the next one while an earlier one, which timed out, still hangs.
Attempted = tuple[UUID, int]


class WorkerProcess:
    """This process as a worker: its row, its heartbeat thread, and the jobs it runs."""

    def __init__(self, name: str, queues: Sequence[str], slots: int = 1) -> None:
        self.name = name
        self.queues = list(queues)
        # So many bells are answered at a time, whether they were heard or not.
        self.slots = threading.BoundedSemaphore(slots)
        self._celery_slots, self._celery_tasks = slots, 0
        self.row_id: int | None = None
        self.draining = threading.Event()
        self.ended = threading.Event()
        self.registered = threading.Event()
        self._look_now = threading.Event()
        self._drain_began = 0.0
        self._renewed_at = 0.0
        self._heard_at = time.monotonic()
        self._lock = threading.Lock()
        self._running: dict[Attempted, RunningJob] = {}
        self._astray: set[Attempted] = set()
        self._trying: dict[str, int] = {}
        self._noted: dict[str, int] = {}
        self._aside = _connection_aside()
        self._aside_lock = threading.Lock()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def start(self) -> WorkerProcess:
        self._thread.start()
        return self

    def drain(self) -> None:
        """Claims nothing more; running jobs have the grace period, then they are handed back. For signal handlers."""
        self._drain_began = self._drain_began or time.monotonic()
        self.draining.set()
        self._look_now.set()

    def end(self) -> None:
        """Closes the row: nothing runs here any more."""
        self.draining.set()
        self.ended.set()
        self._look_now.set()
        self._thread.join(LAST_CALL_SECONDS)

    def task_began(self) -> None:
        """Celery began a task here, a bell or one that is no business of ours."""
        self._heard_at = time.monotonic()
        with self._lock:
            self._celery_tasks += 1

    def task_ended(self) -> None:
        self._heard_at = time.monotonic()
        with self._lock:
            self._celery_tasks -= 1

    @property
    def has_room(self) -> bool:
        """Whether Celery could begin another task here."""
        return self._celery_tasks < self._celery_slots

    @property
    def quiet_seconds(self) -> float:
        """How long Celery has neither begun nor ended a task here."""
        return time.monotonic() - self._heard_at

    def take(self, running: RunningJob) -> None:
        """A job was claimed and starts here."""
        with self._lock:
            self._running[running.row.id, running.row.attempt] = running

    def drop(self, running: RunningJob) -> None:
        """A job does not run here any more."""
        with self._lock:
            self._running.pop((running.row.id, running.row.attempt), None)

    def note_trying(self, attempts: Mapping[str, int]) -> None:
        """Notes, in a commit of its own, the transactional jobs about to run with the attempts they had so far.

        Should the process die of one, its transaction takes every other trace of the attempt with it.
        """
        with self._lock:
            self._trying.update(attempts)
        self._write_trying()

    def forget_trying(self, attempts: Mapping[str, int]) -> None:
        """Those jobs do not run any more. The row follows with the next note or look."""
        with self._lock:
            for id in attempts:
                self._trying.pop(id, None)

    def _live(self) -> None:
        while not self.ended.is_set():
            self._look()
            self._look_now.wait(LOOK_SECONDS)
            self._look_now.clear()
        self._close_row()
        self._close_connections()

    def _look(self) -> None:
        for part in (self._press_on, self._keep_row, self._heed_leases, self._write_progress, self._keep_note):
            try:
                part()
            # The database is away, or a row is locked: that keeps no other part from being done. The lease goes on if
            # the database is back before the lease is over.
            except Exception as error:
                logger.warning("The heartbeat of %s failed: %s", self.name, error)
                self._close_connections()

    def _keep_row(self) -> None:
        if self.row_id is None:
            self._register()
        elif time.monotonic() - self._renewed_at >= settings.ENV.HEARTBEAT_SECONDS:
            self._renew()

    def _register(self) -> None:
        row = Worker.objects.create(
            name=self.name,
            queues=self.queues,
            host=host(),
            pid=os.getpid(),
            process_started=_process_started(os.getpid()) or "",
        )
        with connection.cursor() as cursor:
            execute_values(
                cursor.cursor,
                REPORT_KINDS,
                [(kind.name, kind.queue, kind.description, kind.keep_days) for kind in all_kinds()],
            )
        self.row_id = row.id
        self._noted = {}
        self._renewed_at = time.monotonic()
        worker_registered()
        self.registered.set()
        give_up_dead_neighbours()

    def _renew(self) -> None:
        if not self._write_aside(RENEW, {"id": self.row_id, "draining": self.draining.is_set()}):
            logger.error("%s was given up; its jobs are others' now, and it goes on under a new row.", self.name)
            self.registered.clear()
            with self._lock:
                for running in self._running.values():
                    running.stop(LeaseLost)
            self._register()
        self._renewed_at = time.monotonic()

    def _heed_leases(self) -> None:
        """Passes on to the handlers what the database says of their jobs, and gives back jobs that have no handler."""
        with self._lock:
            running = dict(self._running)
        leases = {
            (id, attempt): (cancelled, overdue)
            for id, attempt, cancelled, overdue in self.read_aside(LEASES, {"id": self.row_id})
        }
        for attempted, job in running.items():
            cancelled, overdue = leases.get(attempted, (False, False))
            if cancelled:
                job.stop(Cancelled)
            elif overdue:
                job.stop(TimedOut)
        # Between a claim and `take`, or between the last write and `drop`, the two accounts differ for a moment.
        # A difference at two looks is real: the job was taken away, or the end of its attempt could not be recorded.
        astray = leases.keys() ^ running.keys()
        for id, attempt in astray & self._astray:
            if (id, attempt) in running:
                running[id, attempt].stop(LeaseLost)
            else:
                own = Job.objects.filter(id=id, attempt=attempt, worker=self.row_id)
                take_back(own, Attempt.Outcome.UNAVAILABLE, "Its end could not be recorded.")
        self._astray = astray

    def _write_progress(self) -> None:
        with self._lock:
            running = list(self._running.values())
        rows = [(str(job.row.id), job.row.attempt, *progress) for job in running if (progress := job.take_progress())]
        if rows:
            with self._aside_lock, self._aside.cursor() as cursor:
                execute_values(cursor.cursor, WRITE_PROGRESS, rows, template="(%s, %s, %s::bigint, %s::bigint, %s)")

    def _keep_note(self) -> None:
        if self._trying != self._noted:
            self._write_trying()

    def _write_trying(self) -> None:
        with self._lock:
            noted = dict(self._trying)
        self._write_aside(NOTE_TRYING, {"id": self.row_id, "trying": Json(noted)})
        self._noted = noted

    def _press_on(self) -> None:
        """Ends what still runs when the grace period is over; what does not listen is left behind with its process."""
        drained_seconds = time.monotonic() - self._drain_began if self._drain_began else 0.0
        if not self._drain_began or drained_seconds < settings.ENV.SHUTDOWN_GRACE_SECONDS:
            return
        with self._lock:
            running = list(self._running.values())
        for job in running:
            job.stop(Interrupted)
        if running and drained_seconds >= settings.ENV.SHUTDOWN_GRACE_SECONDS + LAST_CALL_SECONDS:
            logger.warning("%s ends with %d handlers that do not listen.", self.name, len(running))
            for job in running:
                moves.end_attempt(
                    job.row, Attempt.Outcome.INTERRUPTED, error="The worker was told to stop.", skip_locked=True
                )
            self._close_row()
            os._exit(0)

    def _close_row(self) -> None:
        try:
            if self.row_id is not None:
                Worker.objects.filter(id=self.row_id).update(ended_at=Now(), trying={})
        except Exception as error:
            logger.warning("The row of %s was not closed, the tick will: %s", self.name, error)

    def _write_aside(self, sql: str, parameters: dict[str, Any]) -> int:
        with self._aside_lock, self._aside.cursor() as cursor:
            cursor.execute(sql, parameters)
            return int(cursor.rowcount)

    def read_aside(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        """What the query yields, on the heartbeat's connection: it must be quick."""
        with self._aside_lock, self._aside.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())

    def _close_connections(self) -> None:
        with self._aside_lock:
            self._aside.close()
        connection.close()


def _connection_aside() -> BaseDatabaseWrapper:
    """A connection for writes that must not be part of any handler's transaction, by whichever thread makes them.

    They wait for nobody for long, and need not survive a crash of PostgreSQL, which ends every attempt anyway.
    """
    aside = connections.create_connection(DEFAULT_DB_ALIAS)
    # A copy: the dictionary itself is shared by all connections of this process.
    aside.settings_dict = {
        **aside.settings_dict,
        "OPTIONS": {**aside.settings_dict["OPTIONS"], "options": "-c lock_timeout=1s -c synchronous_commit=off"},
    }
    aside.inc_thread_sharing()
    return aside


def give_up_silent() -> None:
    """Gives up the processes that have not renewed their rows for as long as a lease lasts."""
    silent = Worker.objects.filter(
        ended_at=None, seen_at__lt=Now() - timedelta(seconds=settings.ENV.LEASE_SECONDS)
    ).values_list("id", flat=True)
    for worker_id in silent:
        give_up(worker_id)


def give_up_dead_neighbours() -> None:
    """Gives up, without waiting for its lease to run out, every process of this host that does not exist any more."""
    for worker in Worker.objects.filter(ended_at=None, host=host()):
        if _process_started(worker.pid) != worker.process_started:
            give_up(worker.id)
    take_back_from_ended()


def give_up(worker_id: int) -> None:
    """From now on the process cannot claim. If it is just claiming, its row is locked, and the next tick does this."""
    with transaction.atomic():
        locked = Worker.objects.select_for_update(skip_locked=True).filter(id=worker_id, ended_at=None)
        if Worker.objects.filter(id__in=locked.values("id")).update(ended_at=Now(), lost=True):
            logger.warning("Worker %d was given up.", worker_id)
        giving_up()


def take_back_from_ended() -> None:
    """Ends the attempts of processes that have ended, in whatever way. Anyone may do so at any time."""
    left = Job.objects.filter(worker__isnull=False, worker__ended_at__isnull=False)
    take_back(left, Attempt.Outcome.LOST, "Its worker died while it ran.")
    for worker in Worker.objects.filter(ended_at__isnull=False).exclude(trying={}):
        if blame(worker.trying, Attempt.Outcome.LOST, "Its worker died while it ran.", worker_name=worker.name):
            Worker.objects.filter(id=worker.id).update(trying={})


def take_back(jobs: QuerySet[Job], outcome: Attempt.Outcome, error: str) -> None:
    """Ends the attempts at leased jobs whose handlers are gone. A job that is about to move anyway is left alone."""
    for job in jobs:
        moves.end_attempt(job, outcome, error=error, skip_locked=True)
        taking_back()


def blame(
    attempts: Mapping[str, int], outcome: Attempt.Outcome, error: str, *, worker_name: str, traceback: str = ""
) -> bool:
    """Counts an attempt for each transactional job that was being run after so many, and has not moved since.

    False if somebody holds one of them just now: then do it again. Those that are counted have moved.
    """
    ended = [
        moves.end_attempt(
            job,
            outcome,
            error=error,
            traceback=traceback,
            worker_name=worker_name,
            # One that was to run alone, and did as far as its batch goes, is held to its attempts.
            in_company=len(attempts) > 1 and not job.runs_alone,
            skip_locked=True,
        )
        for job in Job.objects.filter(id__in=attempts.keys(), ready=True)
        if job.attempt == attempts[str(job.id)]
    ]
    return None not in ended


def _process_started(pid: int) -> str | None:
    """When the process started, in the kernel's terms, since ids are used again; None if there is no such process."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() else _exists(pid)
    return None if state == "Z" else fields[18]


def _exists(pid: int) -> str | None:
    """Where there is no /proc, all that can be asked is whether the id is in use."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


_current: WorkerProcess | None = None


def start_process(name: str, queues: Sequence[str], slots: int = 1) -> WorkerProcess:
    """Makes this process a worker. A forked child calls it anew."""
    global _current
    _current = WorkerProcess(name, queues, slots).start()
    return _current


def current_process() -> WorkerProcess | None:
    return _current


def drain_current() -> None:
    if _current:
        _current.drain()
