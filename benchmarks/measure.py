"""What a benchmark is, what it finds, and what it is given to work with."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.servers import Servers

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One number, and what it should be at least (or at most) if there is a target."""

    what: str
    value: float
    unit: str
    target: float | None = None
    at_most: bool = False
    note: str = ""
    # Findings of the same plot are drawn side by side.
    plot: str = ""

    @property
    def share(self) -> float | None:
        """How much of its target it reaches: 1 or more is met. None without a target."""
        if self.target is None:
            return None
        if self.at_most:
            return self.target / self.value if self.value else 1.0
        return self.value / self.target

    @property
    def is_met(self) -> bool | None:
        return None if self.share is None else self.share >= 1


@dataclass(frozen=True)
class Bench:
    """What a benchmark works with: the servers that all share, and how much it is to do."""

    servers: Servers
    quick: bool
    say: Callable[[str], None]

    def size(self, full: Number, quick: Number) -> Number:
        """How many there are to be: a quick run only shows that everything works."""
        return quick if self.quick else full


Run = Callable[[Bench], Iterator[Finding]]


@dataclass(frozen=True)
class Benchmark:
    name: str
    title: str
    run: Run
    # It takes too long for a run of all.
    only_by_name: bool = False


benchmarks: dict[str, Benchmark] = {}


def benchmark(name: str, title: str, *, only_by_name: bool = False) -> Callable[[Run], Run]:
    """Makes a function that yields findings a benchmark of that name."""

    def register(run: Run) -> Run:
        benchmarks[name] = Benchmark(name, title, run, only_by_name)
        return run

    return register


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so much of them does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def in_turn(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """The median of what each answers, asked one after another so many times: whatever else happens to the machine
    meanwhile happens to all of them.
    """
    answers = [[measure() for measure in measures] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*answers, strict=True)]
