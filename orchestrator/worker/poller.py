"""Looks for waiting jobs in the database, for when a bell does not reach the worker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from django.conf import settings
from django.db import connection

from orchestrator.kinds import all_kinds
from orchestrator.ready_jobs import most_urgent
from orchestrator.upkeep import tick
from orchestrator.worker import deadlines, runner
from orchestrator.worker.consumer_stall import ConsumerStall
from orchestrator.worker.process import WorkerProcess

logger = logging.getLogger(__name__)

# How often the poller looks for jobs.
POLL_SECONDS = 1.0
# A job that has waited longer for a free worker has no bell, or its message is not delivered. Celery must have begun
# nothing in the process for as long.
UNRUNG_SECONDS = 1.0

# The kinds of these queues whose most urgent job has waited too long, the most urgent first: with one slot, a kind
# that always has jobs would keep the others waiting. A time in the future was written before the clock was set back.
WAITING_KINDS = f"""
SELECT kind.name
FROM orchestrator_kind kind
CROSS JOIN LATERAL {most_urgent("kind.name")} AS head
WHERE kind.queue = ANY(%(queues)s) AND kind.paused_at IS NULL
  AND NOT head.updated_at BETWEEN clock_timestamp() - %(seconds)s * interval '1 second'
                              AND clock_timestamp() + interval '1 second'
ORDER BY head.rank
"""  # noqa: S608 It is made of constants.

# A row if the last tick is that long ago.
LATE_TICK = """
SELECT 1 WHERE NOT EXISTS (
    SELECT FROM orchestrator_upkeep
    WHERE part = 'tick' AND ran_at BETWEEN clock_timestamp() - %(seconds)s * interval '1 second'
                                       AND clock_timestamp() + interval '1 second'
)
"""


class Poller:
    """A thread beside the heartbeat that starts other threads for waiting jobs, in the slots that Celery leaves free.

    So jobs run whatever the reason why no bell comes: the broker is down, a message was lost, Beat or the main process
    of the pool hangs. A message that comes meanwhile waits for a slot, as in any process whose slots are taken.
    """

    def __init__(self, process: WorkerProcess, consumer_stall: ConsumerStall) -> None:
        self._process = process
        self._consumer_stall = consumer_stall
        self._started: set[threading.Thread] = set()
        self._thread = threading.Thread(target=self._serve, name="poller", daemon=True)

    def start(self) -> Poller:
        self._thread.start()
        return self

    def join(self) -> bool:
        """Waits for its threads, as long as a draining process may take; returns False if one has not ended."""
        deadline = time.monotonic() + deadlines.longest_drain_seconds()
        for thread in self._started:
            thread.join(max(0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._started)

    def _serve(self) -> None:
        while not self._process.draining.wait(POLL_SECONDS):
            for part in (self.poll, self._consumer_stall.check):
                try:
                    part()
                # The database or the broker is down, which the heartbeat and Celery log.
                except Exception as error:
                    logger.debug("The poller of %s failed: %s", self._process.name, error)

    def poll(self) -> None:
        """Starts one thread for each bell that should have rung, if slots are free; the next poll may start more."""
        if self._process.lease.registered.is_set() and self._process.slots.quiet_seconds >= UNRUNG_SECONDS:
            for work in self.unrung():
                self._start(work)

    def unrung(self) -> list[Callable[[], object]]:
        """The functions that do what each bell that should have rung would start."""
        known = {kind.name: kind for kind in all_kinds()}
        found: list[Callable[[], object]] = [
            partial(runner.run_ready, known[name], self._process)
            for [name] in self._fetch(WAITING_KINDS, UNRUNG_SECONDS)
            if name in known
        ]
        serves_ticks = settings.CONTROL_QUEUE in self._process.lease.queues
        if serves_ticks and self._fetch(LATE_TICK, UNRUNG_SECONDS + settings.ENV.TICK_SECONDS):
            found.append(tick.run_parts)
        return found

    def _fetch(self, sql: str, seconds: float) -> list[tuple[Any, ...]]:
        limits = {"queues": self._process.lease.queues, "seconds": seconds}
        return self._process.lease.connection.fetch(sql, limits)

    def _start(self, work: Callable[[], object]) -> None:
        """Runs it in a thread of its own, if a slot is free."""
        if self._process.slots.acquire(blocking=False):
            thread = threading.Thread(target=self._run, args=(work,), name="unrung", daemon=True)
            thread.start()
            self._started = {each for each in self._started if each.is_alive()} | {thread}

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            logger.exception("Polling for jobs failed; trying again.")
        finally:
            self._process.slots.release()
            connection.close()
