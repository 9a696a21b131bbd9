"""Claims that slots share: those which become free while one claims are served by the next claim, all at once."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from django.db import close_old_connections

from orchestrator.attempt import session
from orchestrator.kinds import Kind
from orchestrator.running import RunningJob
from orchestrator.worker.slots import Slots

logger = logging.getLogger(__name__)


class SharedClaims:
    """At most one slot claims jobs of a kind at a time. It claims for all that wait by then, one job for each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Those that wait, by kinds that a slot claims just now.
        self._waiting: dict[str, list[_Waiting]] = {}

    def claim(self, kind: str, claim: Callable[[int], Sequence[RunningJob]]) -> RunningJob | None:
        """A job for the slot that calls it, which must be started or handed back; None if none is ready.

        claim: claims at most so many. If it fails, the slot that called it raises; the others have none.
        """
        waiting = _Waiting()
        with self._lock:
            claims_now = kind not in self._waiting
            self._waiting.setdefault(kind, []).append(waiting)
        if not claims_now:
            waiting.served.wait()
            if not waiting.claims_next:
                return waiting.job
        self._claim_for_all(kind, claim)
        return waiting.job

    def _claim_for_all(self, kind: str, claim: Callable[[int], Sequence[RunningJob]]) -> None:
        with self._lock:
            served, self._waiting[kind] = self._waiting[kind], []
        jobs: deque[RunningJob] = deque()
        try:
            jobs.extend(claim(len(served)))
        finally:
            for waiting in served:
                waiting.job = jobs.popleft() if jobs else None
                waiting.served.set()
            self._let_next_claim(kind)

    def _let_next_claim(self, kind: str) -> None:
        with self._lock:
            if not self._waiting[kind]:
                del self._waiting[kind]
                return
            first = self._waiting[kind][0]
            first.claims_next = True
            first.served.set()


class _Waiting:
    """A slot that waits for a job."""

    def __init__(self) -> None:
        self.served = threading.Event()
        self.job: RunningJob | None = None
        self.claims_next = False


class Submit(Protocol):
    """Has a thread of the pool call it, when one is free; raises RuntimeError if the pool is closed."""

    def __call__(self, work: Callable[[], None], /) -> object: ...


class IdleSlots:
    """Starts slots of this process that have nothing to do, without a message through the broker."""

    def __init__(self, slots: Slots, submit: Submit, run_ready: Callable[[Kind], object]) -> None:
        self._slots, self._submit, self._run_ready = slots, submit, run_ready
        self._lock = threading.Lock()
        # Those that were asked for and have not begun.
        self._coming = 0

    def start(self, count: int, kind: Kind) -> None:
        """Has at most so many run ready jobs of the kind, as far as they are free."""
        with self._lock:
            count = min(count, self._slots.free_count - self._coming)
            self._coming += max(0, count)
        for _ in range(count):
            try:
                self._submit(partial(self._run, kind))
            except RuntimeError:
                self._begun()  # The process ends.

    def _run(self, kind: Kind) -> None:
        self._begun()
        # A slot that was asked for may be taken by now. Nobody waits for it in a thread that it may need itself.
        if not self._slots.acquire(blocking=False):
            return
        try:
            close_old_connections()
            self._run_ready(kind)
        except Exception:
            logger.exception("An idle slot could not run jobs; they are left to the next tick.")
            session.discard()
        finally:
            self._slots.release()

    def _begun(self) -> None:
        with self._lock:
            self._coming -= 1
