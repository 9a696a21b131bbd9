"""What a handler is given: the running job, its checkpoints, steps and inputs."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from django.conf import settings
from django.db import connection

from orchestrator import handler_inputs
from orchestrator.attempt.autocommit import Autocommit
from orchestrator.attempt.checkpoints import Checkpoints
from orchestrator.attempt.own_transaction import OwnTransaction
from orchestrator.attempt.session import workers_cursor
from orchestrator.attempt.timeouts import RunningHandler
from orchestrator.claimed import Claimed
from orchestrator.job_log import JobLog, Lines
from orchestrator.kind import P, R
from orchestrator.pg_values import as_json
from orchestrator.progress import WRITE_PROGRESS, Progress, checked_progress
from orchestrator.spawning import AfterChildren, ChildEnd, Spawning

# Handlers import them from here.
from orchestrator.stops import Cancelled as Cancelled
from orchestrator.stops import Interrupted as Interrupted
from orchestrator.stops import LeaseLost, RowMoved, Stop
from orchestrator.stops import Snooze as Snooze
from orchestrator.stops import TimedOut as TimedOut

if TYPE_CHECKING:
    from orchestrator.kinds import Kind

# A handler that keeps its transaction open for so long without a statement is warned about.
IDLE_SECONDS = 30

MAX_SLEEP_SECONDS = 366 * 86_400

# A sleep at least this long gives its database connection back meanwhile.
LONG_SLEEP_SECONDS = 2


class BaseRunningJob(RunningHandler):
    """A job while its handler runs, async or not. Only `stop` may be called from other threads than the handler's."""

    def __init__(self, row: Claimed, kind: Kind) -> None:
        super().__init__(kind)
        self.row = row
        # 1 for the first attempt. A transactional claim leaves the row as it was.
        self.attempt = row.attempt + 1 if kind.execution == "transactional" else row.attempt
        # How long the handler took, once it has returned.
        self.runtime_seconds = 0.0
        # How long it has held its slot, once the handler has ended in whatever way.
        self.ran_seconds = 0.0
        self._stop: type[Stop] | None = None
        self._transaction: OwnTransaction | Autocommit | None = None
        self._was_warned = False
        # Reads its inputs together with those of others that were claimed with it; None: they are to be read alone.
        self.inputs_of_group: Callable[[], dict[str, Any] | None] | None = None
        # Set once its handler has returned, if it waits for children.
        self.awaits: AfterChildren[Any] | None = None
        # What its handler has logged and is not yet written; None as long as that is nothing.
        self.lines: Lines | None = None
        # Progress not yet written; the worker's heartbeat thread writes it, see `take_progress`.
        self._progress: Progress | None = None
        self._keeping_progress = threading.Lock()

    def __str__(self) -> str:
        return str(self.row)

    @cached_property
    def id(self) -> str:
        return str(self.row.id)

    @cached_property
    def payload(self) -> Any:
        """The payload as the kind's payload type."""
        return self.kind.decode_payload(self.row.payload)

    @cached_property
    def log(self) -> JobLog:
        """The handler's log: each line has the job's id and attempt, and is kept with the job."""
        return JobLog(logging.getLogger(self.kind.name), {"job_id": self.id, "attempt": self.attempt}, self)

    @cached_property
    def named_checkpoints(self) -> Checkpoints:
        """Those that this attempt passes by `checkpoint`."""
        return Checkpoints(self.row.id, self.attempt)

    @cached_property
    def spawning(self) -> Spawning:
        """The children that this attempt adds."""
        return Spawning(self.kind, self.row.id, self.attempt)

    def spawn(
        self,
        kind: str | Kind[P, Any, ...],
        payload: P | dict[str, Any] | None = None,
        *,
        name: str = "",
        priority: int | None = None,
        max_attempts: int | None = None,
        on_failure: Literal["fail", "continue"] = "fail",
    ) -> None:
        """Adds a child, a job of the same owner, in the transaction that ends this attempt, if the handler returns
        `job.after_children()`. If it fails instead, there is no child.

        name: unique among the job's children; "child[0]" and so on if not given. priority: the job's if not given.
        on_failure: "fail": the job fails when the child has failed for good. "continue": it is told of the failure.

        Raises UnknownKind, BadPayload or BadSubmission, the latter also for more than MAX_CHILDREN.
        """
        self.spawning.add(
            kind, payload, name=name, priority=priority, max_attempts=max_attempts, on_failure=on_failure
        )

    def read_children(self) -> tuple[ChildEnd, ...]:
        """How the children have ended that the job has added so far, in the order in which it did."""
        return self.spawning.children()

    def returned(self, result: Any) -> str:
        """What the handler has returned, as JSON; "null" if it waits for children, which is noted."""
        self.awaits = self.spawning.returned(result) if "spawning" in vars(self) else None
        return "null" if self.awaits else as_json(result, at_most=settings.ENV.MAX_RESULT_BYTES)

    @property
    def owner(self) -> str:
        return self.row.owner

    @property
    def done(self) -> int:
        """The progress that the last finished step, of this attempt or an earlier one, recorded; 0 at first."""
        return self.row.progress_done or 0

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this job: pass it to external services, so that they act only once."""
        return self.id

    @property
    def is_given_childrens(self) -> bool:
        """Whether its inputs are the results of its children, not of what it came after."""
        return bool(self.kind.plan) or not self.row.parent_id

    def read_inputs(self) -> dict[str, Any]:
        """The results of the jobs that this one waited for, by name: a child's `after`, a parent's children."""
        # What the handler has done to its session before is nobody else's business.
        if self.inputs_of_group and self._transaction and self._transaction.is_unused:
            inputs = self.inputs_of_group()
            if inputs is not None:
                return inputs
        return handler_inputs.of_job(self.row.id, of_children=self.is_given_childrens)

    def read_signals(self) -> dict[str, Any]:
        """The signals that were sent to the job, or to its pipeline, by name."""
        return handler_inputs.signals(self.row.id, self.row.parent_id)

    def results_of(self, children: Collection[str]) -> dict[str, Any]:
        """The results of those children of a parent, by name."""
        return handler_inputs.of_children(self.row.id, children)

    def planned_result(self) -> Any:
        """What a pipeline returns that code defines, as it was when it was planned. Raises MissingValue."""
        return handler_inputs.planned_result(self.row.id)

    def results_of_items(self) -> list[Any]:
        """What the items of a step with `each` have returned, in their order."""
        return handler_inputs.of_items(self.row.id, self.row.name)

    def progress(self, done: int, total: int | None = None, message: str = "") -> None:
        """Reports how far the work is, and is a checkpoint. Others see it within about a second.

        done, total: integers from 0; TypeError or ValueError for others. message: its first 500 characters are kept;
        those that PostgreSQL cannot store are replaced.
        """
        self._progress = checked_progress(done, total, message)
        self.check()

    def check(self) -> None:
        """A checkpoint: raises Cancelled, Interrupted, TimedOut or LeaseLost where the attempt has to end."""
        if self._stop:
            raise self._stop

    def stop(self, reason: type[Stop]) -> None:
        """Asks the handler, from any thread, to end at its next checkpoint. A lost lease overrides other reasons."""
        if self._stop is None or reason is LeaseLost:
            self._stop = reason

    @property
    def stop_reason(self) -> type[Stop] | None:
        """Why the handler was asked to end, if it was."""
        return self._stop

    def take_progress(self) -> Progress | None:
        """The progress not yet written, which the caller must write; None if there is none."""
        if self._progress is None:
            return None
        self.keep_progress()
        return self.row.progress_done, self.row.progress_total, self.row.progress_message

    @contextmanager
    def stepping(self, progress: Progress | None) -> Iterator[None]:
        """What is written within is committed with the progress. In the thread whose transaction it uses."""
        assert self._transaction is not None
        with self._transaction.step(str(self), self._write_progress):
            yield
            self._progress = progress or self._progress

    def uses(self, transaction: OwnTransaction | Autocommit | None) -> None:
        """Its statements run within that transaction from now on; None if it has none for a while."""
        self._transaction = transaction

    def begins(self, transaction: OwnTransaction | Autocommit) -> None:
        """Its handler begins in this thread, with that transaction."""
        self.uses(transaction)
        self.clock_begins()

    def ends(self) -> None:
        """Its handler has ended."""
        self.is_at_work = False
        self.ran_seconds = time.monotonic() - self.began_at

    def warn_if_idle(self) -> None:
        """Warns in the handler's log, once, if it keeps a transaction open for long without using it."""
        idle_seconds = self._transaction.idle_seconds if self._transaction else 0
        if idle_seconds >= IDLE_SECONDS and not self._was_warned:
            self._was_warned = True
            self.log.warning(
                "%s has had its transaction open for %d s without a statement; it waits at %s. Its locks keep others "
                "waiting. job.step() commits what is done; a kind with atomic=False commits as it likes.",
                self, idle_seconds, self.waits_at(),
            )  # fmt: skip

    def keep_progress(self) -> None:
        """Sets the latest progress on `row`, for the next statement that writes it."""
        with self._keeping_progress:
            # Taken first: progress that the handler reports from here on is written the next time.
            latest, self._progress = self._progress, None
            if latest:
                self.row.progress_done, self.row.progress_total, self.row.progress_message = latest

    def _write_progress(self) -> None:
        self.keep_progress()
        with workers_cursor(connection) as cursor:
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
                raise RowMoved


class RunningJob(BaseRunningJob):
    """A job while its handler runs. Only `stop` may be called from other threads than the handler's."""

    def __init__(self, row: Claimed, kind: Kind) -> None:
        super().__init__(row, kind)
        # What sleeps wait for: made by the first one.
        self._stopped: threading.Event | None = None

    @classmethod
    def waiting(cls, row: Claimed, kind: Kind) -> RunningJob:
        """A job that was claimed together with others, and waits for its turn."""
        running = cls(row, kind)
        running.is_at_work = False
        return running

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The results of the jobs that this one waited for, by name: a child's `after`, a parent's children."""
        return self.read_inputs()

    @cached_property
    def children(self) -> tuple[ChildEnd, ...]:
        """How the children have ended that the job has added so far, in the order in which it did; at first none."""
        return self.read_children()

    def after_children(self, function: Callable[..., R] | None = None) -> AfterChildren[R]:
        """To be returned: the attempt ends, and the job goes on when all children that it has added have ended. It
        holds no slot meanwhile, and is charged no attempt for it.

        function: goes on then, in place of the handler, also after a retry. It is declared by the decorator
        `@HANDLER.after_children`. Without one the handler is called again; `children` is not empty then.

        Raises ValueError for another function, or if there is nothing to wait for.
        """
        return self.spawning.after(function)

    @cached_property
    def signals(self) -> dict[str, Any]:
        """The signals that were sent to the job, or to its pipeline, by name."""
        return self.read_signals()

    def sleep(self, seconds: float) -> None:
        """Waits, and is a checkpoint all the while. A long sleep closes the connection if no transaction has begun."""
        # Before the check: who asks it to stop meanwhile sets either what is checked, or the event, too.
        stopped = self._stopped = self._stopped or threading.Event()
        self.check()
        check_sleep(seconds)
        if seconds >= LONG_SLEEP_SECONDS and self._transaction and not self._transaction.is_begun:
            with self._transaction.connection_closed():
                stopped.wait(seconds)
        else:
            stopped.wait(seconds)
        self.check()

    @contextmanager
    def step(self, done: int | None = None, total: int | None = None, message: str = "") -> Iterator[None]:
        """A part of the work that is kept: what was written until its end is committed with the progress, once.

        A job that runs again finds `done` as its last finished step left it. Raises LeaseLost, and nothing is kept, if
        the job is no longer this worker's; RuntimeError inside a transaction of the handler's own.
        """
        if self._transaction is None:
            raise RuntimeError(f"A {self.kind.execution} job has one transaction and no steps.")
        self.check()
        progress = None if done is None else checked_progress(done, total, message)
        with self.stepping(progress):
            yield

    def checkpoint(self, name: str, fn: Callable[[], Any]) -> Any:
        """What `fn` returns, as JSON: it is called once, and its result committed with all that was written until
        then. A later attempt is returned that result, and does not call it.

        name: unique in the job. Raises as `step` does, and ValueError for a name or a result that cannot be stored.
        """
        if self._transaction is None:
            raise RuntimeError(f"A {self.kind.execution} job has one transaction and no checkpoints.")
        self.check()
        with self.named_checkpoints.using(name):
            kept = self.named_checkpoints.kept(name)
            if kept is None:
                began_at = time.monotonic()
                with self.stepping(None):
                    kept = self.named_checkpoints.store(name, fn(), began_at=began_at)
        return json.loads(kept)

    def stop(self, reason: type[Stop]) -> None:
        super().stop(reason)
        if self._stopped:
            self._stopped.set()


def check_sleep(seconds: float) -> None:
    if not seconds <= MAX_SLEEP_SECONDS:  # False for NaN, too.
        raise ValueError(f"sleep() takes at most {MAX_SLEEP_SECONDS:,} seconds, not {seconds!r}.")
