"""How owners share slots by the rules of `orchestrator/queue/turns.py`, simulated: python -m benchmarks.fairness

Each owner's clock shows the seconds of slots that it has used by its weight, and who waits with the least is next:
start-time fair queueing (Goyal, Vin and Cheng, 1996), with as many servers as there are slots. Fairness is measured by
Jain's index (Jain, Chiu and Hawe, 1984): 1 if all have the same, 1/n if one of n has everything.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Place:
    """An owner's place, as a row of `orchestrator_turn` keeps it, and its ready jobs: what each takes, in seconds."""

    weight: float = 1.0
    clock: float = 0.0
    since: int = 0
    new: bool = True
    jobs: deque[float] = field(default_factory=deque)
    held: int = 0


class Turns:
    """The places of one kind, all of whose jobs are of the same priority."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.places: dict[str, Place] = {}
        self._weights = weights or {}
        self._served = 0.0
        self._arrivals = 0

    def arrive(self, owner: str, jobs: Iterable[float]) -> None:
        place = self.places.setdefault(owner, Place(self._weights.get(owner, 1.0), clock=-math.inf))
        if not place.jobs:
            self._arrivals += 1
            place.clock, place.since, place.new = max(place.clock, self._now()), self._arrivals, True
        place.jobs.extend(jobs)

    def _now(self) -> float:
        """What the clocks of those show who have had turns and wait; else that of who was served last."""
        waiting = [place.clock for place in self.places.values() if place.jobs and not place.new]
        return min(waiting, default=self._served)

    def claim(self, most_held: float = math.inf) -> tuple[str, float] | None:
        """The owner whose turn it is, of those that hold fewer slots, with what its next job takes."""
        waiting = [
            (place.clock, not place.new, place.since, owner)
            for owner, place in self.places.items()
            if place.jobs and place.held < most_held
        ]
        if not waiting:
            return None
        owner = min(waiting)[-1]
        place = self.places[owner]
        seconds = place.jobs.popleft()
        self._served, place.new = place.clock, False
        place.clock += seconds / place.weight
        return owner, seconds


def simulate(
    demand: Mapping[str, Sequence[tuple[float, float]]],
    *,
    slots: int,
    share: float = 1.0,
    weights: Mapping[str, float] | None = None,
) -> Iterator[tuple[float, str, float]]:
    """When a job of which owner started, and what it took. demand: of each owner (when it is ready, what it takes)."""
    turns = Turns(weights)
    arrivals = sorted((at, owner, seconds) for owner, jobs in demand.items() for at, seconds in jobs)
    running: list[tuple[float, str]] = []
    now, place = 0.0, 0
    while place < len(arrivals) or running or any(each.jobs for each in turns.places.values()):
        while place < len(arrivals) and arrivals[place][0] <= now:
            _, owner, seconds = arrivals[place]
            turns.arrive(owner, [seconds])
            place += 1
        while running and running[0][0] <= now:
            turns.places[heapq.heappop(running)[1]].held -= 1
        while len(running) < slots and (claimed := turns.claim(max(1, math.ceil(slots * share)))):
            owner, seconds = claimed
            turns.places[owner].held += 1
            heapq.heappush(running, (now + seconds, owner))
            yield now, owner, seconds
        ends = [running[0][0]] if running else []
        comes = [arrivals[place][0]] if place < len(arrivals) else []
        now = min(ends + comes, default=now)


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def unequal_demand(owners: int, until: float, random_: random.Random) -> dict[str, list[tuple[float, float]]]:
    """Owner n submits n times as many jobs as the first, of unequal length, more than there are slots for."""
    return {
        f"owner {number}": [(0.0, random_.choice([1.0, 2.0, 5.0])) for _ in range(int(until) * number // 10 + 40)]
        for number in range(1, owners + 1)
    }


def main() -> None:
    random_ = random.Random(1)
    used = dict.fromkeys(demand := unequal_demand(50, 200, random_), 0.0)
    for at, owner, seconds in simulate(demand, slots=32):
        if at < 100:
            used[owner] += seconds
    print(f"50 owners with unequal demand, 32 slots, 100 s: Jain's index {jain(list(used.values())):.3f}")
    flood = {"ada": [(0.0, 1.0)] * 100_000, "ben": [(100.5, 1.0)]}
    start = next(at for at, owner, _ in simulate(flood, slots=1) if owner == "ben")
    print(f"After 100,000 jobs of another of 1 s each, one slot: a job that came at 100.5 s started at {start:.1f} s")
    hours = {"ada": [(0.0, 3_600.0)] * 32, "ben": [(60.0, 1.0)]}
    start = next(at for at, owner, _ in simulate(hours, slots=32, share=0.5) if owner == "ben")
    print(f"Beside 32 jobs of an hour, 32 slots, share 0.5: a job that came at 60 s started at {start:.1f} s")


if __name__ == "__main__":
    main()
