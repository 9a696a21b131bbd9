"""What jobs cost their owners: the time that they hold a slot, estimated at the claim and settled afterwards."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import django.db

from orchestrator.claimed import Claimed
from orchestrator.kinds import known_kind
from orchestrator.per_process import PerProcess
from orchestrator.queue import turns

logger = logging.getLogger(__name__)

# What the latest job weighs in the average.
WEIGHT = 0.2
# What is less than this is not written alone, but with the owner's next jobs, or once it has added up. Of more owners
# than that it is forgotten.
NEGLIGIBLE_SECONDS, MAX_NEGLIGIBLE = 0.001, 10_000

Attempted = tuple[UUID, int]


class Costs:
    """The measured time of each kind's jobs in this process, and what is still to be settled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._estimated: dict[Attempted, float] = {}
        self._unsettled: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._negligible: dict[tuple[str, str], float] = {}

    def claimed(self, kind: str, jobs: Sequence[Claimed]) -> None:
        """Charges owners what their jobs will probably take, with what was left to settle."""
        if not jobs:
            return
        with self._lock:
            seconds = self._estimate(kind)
            used = self._unsettled.pop(kind, defaultdict(float))
            for job in jobs:
                self._estimated[job.id, job.attempt] = seconds
                used[job.owner] += seconds
            for owner in used:
                used[owner] += self._negligible.pop((kind, owner), 0.0)
        _charge(kind, used)

    def ended(self, jobs: Iterable[tuple[Claimed, float]]) -> None:
        """Settles what jobs have taken that were claimed here, in seconds; zero for those that were never started.

        What is settled is written with the next claim, or by `settle`.
        """
        with self._lock:
            for job, seconds in jobs:
                estimated = self._estimated.pop((job.id, job.attempt), None)
                if estimated is None:
                    continue
                self._differs(job.kind, job.owner, seconds - estimated)
                if seconds:
                    before = self._seconds.get(job.kind, seconds)
                    self._seconds[job.kind] = before + WEIGHT * (seconds - before)

    def _differs(self, kind: str, owner: str, seconds: float) -> None:
        """An owner's jobs have taken so much more than estimated; less if it is negative."""
        seconds += self._negligible.pop((kind, owner), 0.0)
        if abs(seconds) >= NEGLIGIBLE_SECONDS:
            self._unsettled[kind][owner] += seconds
        else:
            if len(self._negligible) >= MAX_NEGLIGIBLE:
                self._negligible.clear()
            self._negligible[kind, owner] = seconds

    def settle(self) -> None:
        with self._lock:
            unsettled = dict(self._unsettled)
            self._unsettled.clear()
        for kind, used in unsettled.items():
            turns.charge(kind, used, serving=False)

    def _estimate(self, kind: str) -> float:
        known = known_kind(kind)
        return self._seconds.get(kind, known.typical_duration.total_seconds() if known else 1.0)


def batch_ran(kind: str, jobs: Sequence[Claimed], seconds: float) -> None:
    """Charges the owners of a batch of transactional jobs, which took so long together."""
    used: dict[str, float] = defaultdict(float)
    for job in jobs:
        used[job.owner] += seconds / len(jobs)
    _charge(kind, used)


def _charge(kind: str, used: Mapping[str, float]) -> None:
    """Whoever has claimed or completed jobs goes on with them, whatever becomes of this."""
    try:
        turns.charge(kind, used)
    except django.db.Error as error:
        logger.warning("What jobs of kind %s have used was not charged: %s", kind, error)


costs = PerProcess(Costs)
