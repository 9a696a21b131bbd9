"""How many jobs of a kind a process claims at once, by how long they have taken in it."""

from __future__ import annotations

# How much work is claimed at once: little enough that what waits behind it is soon found by others.
GROUP_SECONDS = 0.05
MAX_GROUP = 64
# What the latest job weighs in the average. One that takes long shrinks the next group at once.
WEIGHT = 0.2
# One that takes longer than this, and than so many times what others took, makes its kind long only if it is not the
# only one: perhaps the machine was busy just then.
SURPRISE_SECONDS, SURPRISE_TIMES = 0.0125, 8


class Pace:
    """The measured time of the jobs of each kind. Threads may overwrite each other's measurements."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        # The same, but no job counts for much more than those before it.
        self._usual_seconds: dict[str, float] = {}
        self._measured: dict[str, int] = {}

    def group_size(self, kind: str) -> int:
        """The most jobs of the kind to claim at once: one at first, then up to twice as many each time."""
        seconds = self._seconds.get(kind)
        if seconds is None:
            return 1
        return max(1, min(MAX_GROUP, self._measured[kind] + 1, int(GROUP_SECONDS / max(seconds, 1e-6))))

    def is_long(self, kind: str) -> bool:
        """Whether jobs of the kind are known to take so long that each is claimed alone."""
        return GROUP_SECONDS / max(self._usual_seconds.get(kind, 0), 1e-6) < 2

    def measured(self, kind: str, seconds: float) -> None:
        """A job of the kind has taken so long."""
        before = self._seconds.get(kind, seconds)
        self._measured[kind] = min(MAX_GROUP, self._measured.get(kind, 0) + 1)
        self._seconds[kind] = before + WEIGHT * (seconds - before)
        usual = self._usual_seconds.get(kind, seconds)
        counted = min(seconds, max(SURPRISE_SECONDS, SURPRISE_TIMES * usual))
        self._usual_seconds[kind] = usual + WEIGHT * (counted - usual)
