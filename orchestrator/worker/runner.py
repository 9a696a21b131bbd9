"""What a bell starts in a worker: it runs ready jobs of a kind for a time slice."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from django.conf import settings

from orchestrator.attempt import session
from orchestrator.kinds import Kind, kind_named
from orchestrator.queue import bell, claims
from orchestrator.worker.batches import run_batch
from orchestrator.worker.leased import run_leased
from orchestrator.worker.process import WorkerProcess, current_process

logger = logging.getLogger(__name__)

# How long a bell waits for a process that has just started, or was declared dead, to have a row.
REGISTRATION_SECONDS = 5
# How long a process that has run all ready jobs waits before it looks again: jobs that come one by one share a
# transaction then, which costs a third. A job that comes alone does not wait.
GATHER_SECONDS = 0.02


def handle_bell(kind: Kind) -> None:
    """Runs ready jobs of the kind, as soon as this process has a slot free."""
    bell.mark_received(kind.name)
    process = current_process()
    if process is None or not process.lease.registered.wait(REGISTRATION_SECONDS):
        logger.warning("This process has no worker row, so it claims nothing; the tick rings again for %s.", kind.name)
        return
    with process.slots:
        try:
            run_ready(kind, process)
        except BaseException:
            # Whatever is wrong with the connection, the next claim has another.
            session.discard()
            raise


def run_ready(kind: Kind, process: WorkerProcess) -> None:
    """Runs ready jobs of the kind until none is left. Rings for the rest once the time slice is spent, or this process
    is to be replaced. Async jobs are only begun, as slots of the event loop are free.
    """
    if kind.is_async:
        process.async_jobs.want(kind)
        return
    if kind.execution == "leased" and process.slots.count > 1 and not process.pace.is_long(kind.name):
        _run_short(kind, process)
        return
    slice_ends = time.monotonic() + settings.ENV.TIME_SLICE_SECONDS
    while process.claims(kind) and (ran := run_next(kind, process)):
        process.retirement.count(ran)
        if time.monotonic() >= slice_ends:
            claims.ring_if_more(kind)
            return
        if ran < kind.batch_size:
            process.draining.wait(GATHER_SECONDS)
    if process.retirement.is_due:
        claims.ring_if_more(kind)


def _run_short(kind: Kind, process: WorkerProcess) -> None:
    """Runs groups of the kind's jobs, and of other kinds that are asked for meanwhile, in turn. All of it is left to
    other slots of the process if those use a whole processor.
    """
    slice_ends = time.monotonic() + settings.ENV.TIME_SLICE_SECONDS
    work = process.short_work
    name: str | None = kind.name if work.begin(kind.name) else None
    try:
        while name is not None:
            ran = 0
            current = kind_named(name)
            if process.claims(current):
                with work.measuring(name):
                    ran = run_next(current, process)
            if ran and time.monotonic() >= slice_ends:
                claims.ring_if_more(current)
                return
            name = work.next(name, is_dry=not ran)
    finally:
        for left in work.leave():
            bell.ring(left)


def run_next(kind: Kind, process: WorkerProcess, *, at_most: int | None = None) -> int:
    """Runs what one claim finds; returns how many jobs were ready, as far as it claims so many.

    at_most: as many as the kind's batch size, or its pace where it is leased, if it is not given.
    """
    if kind.is_async:
        return process.async_jobs.run_ready(kind, *[at_most] if at_most else [])
    if kind.execution == "leased":
        return run_leased(kind, process, at_most=at_most)
    return run_batch(replace(kind, batch_size=at_most) if at_most else kind, process)
