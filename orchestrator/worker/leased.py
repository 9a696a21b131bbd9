"""Attempts at leased jobs: claimed by a statement of their own, and run in a transaction that completes them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from orchestrator.attempt.autocommit import Autocommit
from orchestrator.attempt.own_transaction import OwnTransaction
from orchestrator.attempt.process_state import ProcessState, Raised
from orchestrator.failpoints import Failpoint
from orchestrator.failures import is_one_of
from orchestrator.kinds import Kind
from orchestrator.queue import bell
from orchestrator.queue.kind_limits import known_limits_of
from orchestrator.running import RunningJob
from orchestrator.stops import RowMoved, Stop
from orchestrator.telemetry import attempts
from orchestrator.worker import completions
from orchestrator.worker.calling import result_of
from orchestrator.worker.group_inputs import GroupInputs
from orchestrator.worker.groups import Group
from orchestrator.worker.process import WorkerProcess

# How long a slot waits for the completion of the job that it has run before.
COMPLETION_SECONDS = 1.0

between_jobs = Failpoint("group-between-jobs")


def run_leased(kind: Kind, process: WorkerProcess, *, at_most: int | None = None) -> int:
    """Claims a group of jobs and runs them in turn; returns how many it has claimed.

    at_most: as many as the kind's pace and the life of this process allow, if it is not given.
    """
    if at_most is None and _goes_together(kind, process):
        return _run_beside_others(kind, process)
    jobs = _claim(kind, process, at_most=at_most or process.retirement.bounded(process.pace.group_size(kind.name)))
    if jobs:
        _run(kind, jobs, process)
    return len(jobs)


def _goes_together(kind: Kind, process: WorkerProcess) -> bool:
    """Whether slots share claims of the kind, and a slot goes on while its last job is completed."""
    is_alone = process.slots.count == 1
    return not is_alone and process.pace.is_long(kind.name) and not known_limits_of(kind.name).holds_back


def _run_beside_others(kind: Kind, process: WorkerProcess) -> int:
    """Claims a job by a statement that other slots may share, and runs it; returns how many it has claimed."""
    mark = process.completing.unfinished()
    if mark is not None and process.completing.is_behind:
        process.completing.wait_for(mark, COMPLETION_SECONDS)
        if process.completing.is_behind:
            return 0
    claim = partial(_claim_apart, kind, process)
    running = process.claims_together.claim(kind.name, claim)
    # The job that this slot has run before may have counted as its owner's, who may not hold more slots.
    if running is None and mark is not None and process.completing.wait_for(mark, COMPLETION_SECONDS):
        running = process.claims_together.claim(kind.name, claim)
    if running is None:
        return 0
    _run(kind, [running], process, goes_on=True)
    return 1


def _claim_apart(kind: Kind, process: WorkerProcess, count: int) -> list[RunningJob]:
    """Claims a job for each of so many slots. If there are more, as many other slots start as have found one."""
    make = partial(RunningJob.waiting, kind=kind)
    jobs, has_more = process.running.claim(kind, process.lease, make, at_most=count, apart=True)
    if has_more:
        bell.ring(kind.name)
        if process.idle_slots:
            process.idle_slots.start(len(jobs), kind)
    return jobs


def claim_one(kind: Kind, process: WorkerProcess, id: UUID) -> RunningJob | None:
    """Claims the job of that id, which runs here from now on; None if it is not ready."""
    return next(iter(_claim(kind, process, id=id)), None)


def run_claimed(running: RunningJob, process: WorkerProcess) -> None:
    """Runs a job that `claim_one` has claimed."""
    _run(running.kind, [running], process)


def _claim(kind: Kind, process: WorkerProcess, at_most: int = 1, id: UUID | None = None) -> list[RunningJob]:
    make = partial(RunningJob.waiting, kind=kind)
    jobs, has_more = process.running.claim(kind, process.lease, make, at_most=at_most, id=id)
    # A slot that has no room for them goes on with them; other processes are woken a little later.
    if has_more and not process.short_work.is_full(kind.name):
        bell.ring(kind.name)
    return jobs


def _run(kind: Kind, jobs: Sequence[RunningJob], process: WorkerProcess, *, goes_on: bool = False) -> None:
    """goes_on: the slot does not wait for the completion of what has used no transaction."""
    if len(jobs) > 1:
        inputs = GroupInputs(jobs)
        for running in jobs:
            running.inputs_of_group = partial(inputs.of, running)
    group = Group(jobs, process.running)
    process.groups.add(group)
    try:
        _Slot(kind, process, group, goes_on=goes_on).run()
    except BaseException:
        # Even if nothing is left, the heartbeat may be completing jobs, and put back what it cannot complete.
        group.is_abandoned = True
        raise
    process.groups.discard(group)


class _Slot:
    """Runs the jobs of a group, one after the other."""

    def __init__(self, kind: Kind, process: WorkerProcess, group: Group, *, goes_on: bool) -> None:
        self._kind, self._process, self._group, self._goes_on = kind, process, group, goes_on
        self._transaction = OwnTransaction() if kind.atomic else Autocommit()
        self._state = ProcessState(alone=process.slots.count == 1)
        # Whether a job was completed, or its attempt ended, in a transaction of its own.
        self._commits_each = False

    def run(self) -> None:
        while running := self._group.next():
            if running.stop_reason:
                self._transaction.end()
                self._group.hand_back(running)
                continue
            self._run(running)
            between_jobs()
            if self._group.is_due:
                self._transaction.end()
                self._group.complete_returned()
            if self._group.is_late or self._process.draining.is_set():
                self._transaction.end()
                self._group.hand_back_waiting()
        self._process.short_work.group_is_ending(self._kind.name, commits_each=self._commits_each)
        self._transaction.end()
        self._group.complete_returned()

    def _run(self, running: RunningJob) -> None:
        began_at = time.monotonic()
        try:
            with attempts.begun(running):
                result = self._attempt(running)
        except BaseException:
            self._group.leave(running)
            raise
        if result is None:
            self._commits_each = True
            self._group.leave(running)
        elif self._goes_on:
            self._process.completing.add(running, result)
        else:
            self._group.returned(running, result)
        self._process.pace.measured(self._kind.name, time.monotonic() - began_at)

    def _attempt(self, running: RunningJob) -> str | None:
        """Runs the handler once and completes the job, or ends the attempt. Returns the result if it has used no
        transaction, and is still to be completed.
        """
        return completions.attempt(running, self._transaction, partial(self._call, running))

    def _call(self, running: RunningJob) -> str:
        running.begins(self._transaction)
        try:
            return self._transaction.call(partial(_result, running))
        finally:
            running.ends()
            self._state.restore()


def _result(running: RunningJob) -> str:
    """The handler's result as JSON. Raises the Stop that the handler was asked for, or Raised."""
    try:
        return result_of(running)
    except Raised as raised:
        if is_one_of(raised.error, (RowMoved,)):
            raise RowMoved from None
        if running.stop_reason and is_one_of(raised.error, (Stop,)):
            raise running.stop_reason from None
        raise
