"""What a handler is given: the running job, its checkpoints, steps and inputs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
from django.db import connection, transaction

from orchestrator.failpoints import Failpoint
from orchestrator.models import Job

if TYPE_CHECKING:
    from orchestrator.kinds import Kind

step_committing = Failpoint("step-committing")
step_committed = Failpoint("step-committed")

# A sleep at least this long gives its database connection back meanwhile.
LONG_SLEEP_SECONDS = 2

# A step's progress, if the job is still this worker's. The ORM would take longer to write the statement than
# PostgreSQL to run it, and work in steps has many.
WRITE_PROGRESS = """
UPDATE orchestrator_job
SET progress_done = %(done)s,
    progress_total = %(total)s,
    progress_message = %(message)s,
    updated_at = statement_timestamp()
WHERE id = %(id)s AND status = 'RUNNING' AND attempt = %(attempt)s
"""


class Claimed(msgspec.Struct):
    """What a claim read of a job, in the order of `CLAIMED`. A model's instance takes ten times as long to make."""

    id: UUID
    kind: str
    owner: str
    name: str
    priority: int
    payload: str  # As JSON.
    attempt: int
    max_attempts: int
    parent_id: UUID | None
    runs_alone: bool
    worker_id: int | None
    worker_name: str
    progress_done: int | None
    progress_total: int | None
    progress_message: str
    claimed_at: datetime

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


CLAIMED = ", ".join(f"job.{name}" for name in Claimed.__struct_fields__[:-1]) + ", clock_timestamp()"


class Stop(BaseException):
    """Ends an attempt at its next checkpoint. No Exception, so that a handler's `except Exception` lets it through."""


class Cancelled(Stop):
    """Someone asked for the job to be cancelled."""


class Interrupted(Stop):
    """The worker was told to stop; the job goes back to the queue and loses no attempt."""


class TimedOut(Stop):
    """The attempt took longer than its kind allows."""


class LeaseLost(Stop):
    """The job is someone else's by now; nothing this attempt wrote may be kept."""


# A transactional job's: its transaction is all or nothing, and short.
_NOBODY_STOPS_IT = threading.Event()


class RunningJob:
    """A job while its handler runs. Its methods are for the handler's thread, except `stop`."""

    def __init__(self, row: Claimed, kind: Kind) -> None:
        self.row = row
        self.kind = kind
        # 1 for the first attempt. A transactional claim leaves the row as it was.
        self.attempt = row.attempt + 1 if kind.execution == "transactional" else row.attempt
        self._stop: type[Stop] | None = None
        self._stopped = threading.Event() if kind.execution == "leased" else _NOBODY_STOPS_IT
        self._transaction: ExitStack | None = None
        # Progress not yet written; the worker's heartbeat thread writes it, see `take_progress`.
        self._progress: tuple[int | None, int | None, str] | None = None
        self._keeping_progress = threading.Lock()

    @cached_property
    def id(self) -> str:
        return str(self.row.id)

    @cached_property
    def payload(self) -> Any:
        """The payload as the kind's payload type."""
        return self.kind.decode_payload(self.row.payload)

    @cached_property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        return logging.LoggerAdapter(logging.getLogger(self.kind.name), {"job_id": self.id, "attempt": self.attempt})

    @property
    def owner(self) -> str:
        return self.row.owner

    @property
    def done(self) -> int:
        """How far the work is: what the last finished step, of this attempt or an earlier one, left; 0 at first."""
        return self.row.progress_done or 0

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this job: pass it to outside services, so that they do a thing once."""
        return self.id

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The results of what this job waited for, by the children's names: a child's `after`, a parent's children."""
        if self.row.parent_id:
            waited_for = Job.objects.filter(dependents__job=self.row.id)
        else:
            waited_for = Job.objects.filter(parent=self.row.id)
        return dict(waited_for.order_by("id").values_list("name", "result"))

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Says how far the work is, and is a checkpoint. Others see it within about a second."""
        self._progress = (done, total, message[:500])
        self.check()

    def check(self) -> None:
        """A checkpoint: raises Cancelled, Interrupted, TimedOut or LeaseLost where the attempt has to end."""
        if self._stop:
            raise self._stop

    def sleep(self, seconds: float) -> None:
        """Waits, and is a checkpoint all the while. A long sleep holds no connection where nothing was written yet."""
        self.check()
        if seconds >= LONG_SLEEP_SECONDS and self._transaction and not _transaction_begun():
            self._transaction.close()
            connection.close()
            self._stopped.wait(seconds)
            self._transaction.enter_context(transaction.atomic())
        else:
            self._stopped.wait(seconds)
        self.check()

    @contextmanager
    def step(self, done: int | None = None, total: int | None = None, message: str = "") -> Iterator[None]:
        """A part of the work that is kept: what was written until its end is committed with the progress, once.

        A job that is run again finds `done` as its last finished step left it. Raises LeaseLost,
        and nothing is kept, if the job is someone else's by now; RuntimeError inside a transaction of the handler's.
        """
        if self._transaction is None:
            raise RuntimeError(f"A {self.kind.execution} job has one transaction and no steps.")
        self.check()
        yield
        if done is not None:
            self._progress = (done, total, message[:500])
        if len(connection.savepoint_ids) > 0 or not connection.in_atomic_block:
            raise RuntimeError("A step must not end inside a transaction of the handler's own.")
        self._write_progress()
        step_committing()
        self._transaction.close()
        step_committed()
        self._transaction.enter_context(transaction.atomic())

    def stop(self, reason: type[Stop]) -> None:
        """Asks the handler, from any thread, to end at its next checkpoint. A lost lease outweighs other reasons."""
        if self._stop is None or reason is LeaseLost:
            self._stop = reason
        self._stopped.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether the handler was asked to end because someone cancelled the job."""
        return self._stop is Cancelled

    def take_progress(self) -> tuple[int | None, int | None, str] | None:
        """The progress not yet written, which the caller promises to write; None if there is none."""
        if self._progress is None:
            return None
        self.keep_progress()
        return self.row.progress_done, self.row.progress_total, self.row.progress_message

    @contextmanager
    def own_transaction(self) -> Iterator[None]:
        """The transaction of the whole attempt, which steps commit and begin anew.

        PostgreSQL sees it begin at the first statement only, so a handler that waits first holds nothing open.
        """
        with ExitStack() as self._transaction:
            self._transaction.enter_context(transaction.atomic())
            yield
        self._transaction = None

    def keep_progress(self) -> None:
        """Puts the latest progress on the row, for whoever writes the row next."""
        with self._keeping_progress:
            # Taken first: what the handler says from here on is for the next time.
            latest, self._progress = self._progress, None
            if latest:
                self.row.progress_done, self.row.progress_total, self.row.progress_message = latest

    def _write_progress(self) -> None:
        self.keep_progress()
        with connection.cursor() as cursor:
            cursor.execute(
                WRITE_PROGRESS,
                {
                    "id": self.row.id,
                    "attempt": self.row.attempt,
                    "done": self.row.progress_done,
                    "total": self.row.progress_total,
                    "message": self.row.progress_message,
                },
            )
            if cursor.rowcount != 1:
                raise LeaseLost


def _transaction_begun() -> bool:
    return connection.connection is not None and connection.connection.info.transaction_status != 0
