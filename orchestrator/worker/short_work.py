"""How many slots of a process run groups of short jobs at once, and which kinds they turn to after a group."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# What all of these slots together may use of one processor. Python in one process uses no more than one: each slot
# beyond that makes all of them slower, and their claims smaller.
#
# Slots that commit each of their jobs wait for the disk in between, so there is one more of them: without it one slot
# that uses more than half of that would be the only one.
MAX_SHARE = 0.8
# A slot of a kind whose jobs mostly wait uses less. Such a kind does not share with others, and no other with it.
SMALL_SHARE = 0.1
# What the latest group weighs in the average. Slots that wait for each other make a share look small, never large.
WEIGHT_UP, WEIGHT_DOWN = 0.3, 0.05
# A slot that has been with a group for so long is taken to wait for something.
LATE_SECONDS = 0.5
# For so long after a slot was refused its kind has no room: another bell would most likely find none either.
FULL_SECONDS = 0.1


@dataclass
class _Slot:
    kind: str
    began_at: float
    # Whether the jobs of its group have run, so that it turns to others next.
    is_ending: bool = False


class ShortWork:
    """The slots that run groups just now, by their threads, and the kinds that they are to turn to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: dict[int, _Slot] = {}
        self._shares: dict[str, float] = {}
        # Kinds whose latest group had a job that was completed in a transaction of its own.
        self._committing: set[str] = set()
        # In the order in which they were asked for.
        self._wanted: dict[str, None] = {}
        self._refused_at: dict[str, float] = {}

    def begin(self, kind: str) -> bool:
        """Whether the slot that calls is to run jobs of the kind. If not, one that runs others turns to it soon."""
        with self._lock:
            if not self._has_room(kind):
                self._wanted[kind] = None
                self._refused_at[kind] = time.monotonic()
                return False
            self._wanted.pop(kind, None)
            self._slots[threading.get_ident()] = _Slot(kind, time.monotonic())
            return True

    def next(self, kind: str, *, is_dry: bool) -> str | None:
        """Which kind the slot runs next, after a group of that kind; None if it is not to go on.

        is_dry: no job of the kind was ready.
        """
        with self._lock:
            del self._slots[threading.get_ident()]
            if not is_dry:
                self._wanted[kind] = None
            if not self._wanted:
                return None
            first = next(iter(self._wanted))
            if not self._has_room(first):
                return None
            del self._wanted[first]
            self._slots[threading.get_ident()] = _Slot(first, time.monotonic())
            return first

    def leave(self) -> list[str]:
        """The slot does not go on. Returns the kinds that nobody else turns to."""
        with self._lock:
            self._slots.pop(threading.get_ident(), None)
            if self._in_time():
                return []
            left, self._wanted = list(self._wanted), {}
            return left

    def is_full(self, kind: str) -> bool:
        """Whether a slot was refused for the kind just now."""
        with self._lock:
            return time.monotonic() - self._refused_at.get(kind, -FULL_SECONDS) < FULL_SECONDS

    @contextmanager
    def measuring(self, kind: str) -> Iterator[None]:
        """A group of the kind is claimed, run and completed within."""
        began_at, used = time.monotonic(), processor_seconds()
        yield
        share = min(1, (processor_seconds() - used) / max(time.monotonic() - began_at, 1e-6))
        with self._lock:
            before = self._shares.get(kind, share)
            self._shares[kind] = before + (WEIGHT_UP if share > before else WEIGHT_DOWN) * (share - before)

    def group_is_ending(self, kind: str, *, commits_each: bool) -> None:
        """The jobs of the caller's group have run; what their completion makes ready is looked at next.

        commits_each: a job of the group was completed in a transaction of its own.
        """
        with self._lock:
            (self._committing.add if commits_each else self._committing.discard)(kind)
            if slot := self._slots.get(threading.get_ident()):
                slot.is_ending = True

    def take(self, kind: str) -> bool:
        """Whether the slot that calls turns to the kind after it has completed its group."""
        with self._lock:
            slot = self._slots.get(threading.get_ident())
            if slot is None or not slot.is_ending:
                return False
            self._wanted[kind] = None
            return True

    def _has_room(self, kind: str) -> bool:
        own, running = self._shares.get(kind, 0), self._in_time()
        used_by_kind = own * running.count(kind)
        used = sum(share for each in running if (share := self._shares.get(each, 0)) >= SMALL_SHARE or each == kind)
        used = used if own >= SMALL_SHARE else used_by_kind
        return not used or used + (0 if kind in self._committing else own) <= MAX_SHARE

    def _in_time(self) -> list[str]:
        """The kinds that slots run which are not late."""
        late = time.monotonic() - LATE_SECONDS
        return [slot.kind for slot in self._slots.values() if slot.began_at > late]


def processor_seconds() -> float:
    """How long this thread has used a processor, or, where Linux tells, has waited for one that others used."""
    try:
        with Path("/proc/thread-self/schedstat").open("rb") as file:
            waited = int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        waited = 0
    return time.thread_time() + waited
