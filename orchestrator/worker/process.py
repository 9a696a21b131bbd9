"""A worker process: its lease, what runs in it, and the heartbeat that looks after both."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from orchestrator.kinds import Kind, known_kind
from orchestrator.queue.costs import costs
from orchestrator.queue.recovery import recover_on_this_host
from orchestrator.queue.tracebacks import collect_tracebacks
from orchestrator.worker import deadlines
from orchestrator.worker.async_jobs import AsyncJobs
from orchestrator.worker.completing import Completing
from orchestrator.worker.deadlines import Hanging, HardTimeout, ProcessEnd, ShutdownDeadline
from orchestrator.worker.groups import Groups
from orchestrator.worker.heartbeat import Heartbeat
from orchestrator.worker.job_leases import JobLeases
from orchestrator.worker.job_logs import JobLogs
from orchestrator.worker.lease import HeartbeatConnection, Lease
from orchestrator.worker.pace import Pace
from orchestrator.worker.retirement import Retirement
from orchestrator.worker.running_jobs import InFlightBatches, RunningJobs
from orchestrator.worker.shared_claims import IdleSlots, SharedClaims
from orchestrator.worker.short_work import ShortWork
from orchestrator.worker.slots import Slots


class WorkerProcess:
    """The parts of a worker process; it starts, drains and ends them."""

    def __init__(self, name: str, queues: Sequence[str], slots: int = 1) -> None:
        self.slots = Slots(slots)
        self.draining = threading.Event()
        self.lease = Lease(name, queues, slots, HeartbeatConnection())
        self.logs = JobLogs(self.lease.connection)
        self.running = RunningJobs(self.logs)
        self.groups = Groups(self.draining)
        self.pace = Pace()
        self.claims_together = SharedClaims()
        self.short_work = ShortWork()
        self.completing = Completing(self.running)
        # Set where the pool can start slots without a message.
        self.idle_slots: IdleSlots | None = None
        self.async_jobs = AsyncJobs(self.lease, self.running, self.claims)
        self.in_flight = InFlightBatches(self.lease)
        self.retirement = Retirement()
        self.heartbeat = Heartbeat(name, self.lease.connection, self.lease.close)
        hanging = Hanging(self.running, self.in_flight, self.heartbeat)
        self.process_end = ProcessEnd(self.lease, hanging, self.groups)
        self.shutdown = ShutdownDeadline(self.running, self.process_end)
        self.hard_timeout = HardTimeout(self.lease, hanging, self.process_end, self.draining)
        self.job_leases = JobLeases(self.lease, self.running)
        self.heartbeat.parts = [
            self.shutdown.enforce_shutdown_deadline,
            self.keep_lease,
            self.job_leases.apply_cancellations_and_timeouts,
            self.groups.release_late,
            self.hard_timeout.enforce_hard_timeouts,
            self.job_leases.end_isolation,
            self.job_leases.write_progress,
            self.write_logs,
            self.job_leases.warn_of_idle_transactions,
            self.in_flight.keep_recorded,
            costs().settle,
        ]

    @property
    def name(self) -> str:
        return self.lease.name

    @property
    def row_id(self) -> int:
        """Of a process that has registered itself."""
        assert self.lease.row_id is not None
        return self.lease.row_id

    @property
    def is_to_end(self) -> bool:
        """Whether it claims nothing any more, for whatever reason."""
        return self.draining.is_set() or self.retirement.is_due

    def claims(self, kind: Kind) -> bool:
        """Whether it still claims jobs of the kind: not once it is to end, nor if a job of the kind hangs in it."""
        return not (self.is_to_end or kind.name in self.hard_timeout.hanging_kinds)

    def takes_bell(self, name: str) -> bool:
        """Whether the slot that calls looks for jobs of the kind as soon as it has completed those that it has run."""
        kind = known_kind(name)
        is_short = kind and kind.execution == "leased" and not (kind.is_async or self.pace.is_long(name))
        if not (kind and is_short and kind.queue in self.lease.queues and self.claims(kind)):
            return False
        return self.short_work.take(name)

    def start(self) -> WorkerProcess:
        self.heartbeat.start()
        return self

    def drain(self) -> None:
        """Stops claiming; running jobs have the grace period, then they are handed back. For signal handlers."""
        self.shutdown.begin()
        self.draining.set()
        self.heartbeat.beat_soon()

    def end(self, timeout_seconds: float | None = None) -> None:
        """Closes the row, once nothing runs here any more."""
        self.draining.set()
        self.async_jobs.stop(deadlines.CHECKPOINT_GRACE_SECONDS)
        self.completing.stop(deadlines.CHECKPOINT_GRACE_SECONDS)
        self.logs.stop(deadlines.CHECKPOINT_GRACE_SECONDS)
        self.heartbeat.end(deadlines.CHECKPOINT_GRACE_SECONDS if timeout_seconds is None else timeout_seconds)

    def keep_lease(self) -> None:
        """Renews the lease when it is due, or registers again if there is none any more."""
        if self.lease.row_id is None:
            self.register()
        elif self.lease.is_due:
            if not self.lease.renew(draining=self.draining.is_set()):
                self.job_leases.stop_all()
                self.register()
            collect_tracebacks()

    def write_logs(self) -> None:
        self.logs.write(self.running.all())

    def register(self) -> None:
        self.lease.register()
        recover_on_this_host()


_current: WorkerProcess | None = None


def start_process(name: str, queues: Sequence[str], slots: int = 1) -> WorkerProcess:
    """Makes this process a worker. A forked child calls it again."""
    return set_current(WorkerProcess(name, queues, slots).start())


def set_current(process: WorkerProcess) -> WorkerProcess:
    global _current
    _current = process
    return process


def current_process() -> WorkerProcess | None:
    return _current


def drain_current() -> None:
    if _current:
        _current.drain()
