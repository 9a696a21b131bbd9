"""Limits hold, by what the database wrote down: no more run at any instant, no more start in any window, and of the
same job one is unfinished.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from tests.chaos.faults import MAX_STEP_SECONDS
from tests.chaos.invariants import Books, invariant

# As `tests.kinds.jobs` declares them. Of the first, clients lower the limit now and then, and raise it again.
LIMITED, MAX_RUNNING = "tests.effect_limited", 4
RATED = "tests.effect_rated"
# So many starts of a key within so many seconds: the rate, and its burst.
WINDOWS = ((6, 2.0), (3, 1.0))

Span = tuple[datetime, datetime]


def by_a_right_clock(books: Books, spans: Iterable[Span]) -> list[Span]:
    """Those that are not from around the time when the database's clock was wrong."""
    wrong = [
        (fault["at"] - MAX_STEP_SECONDS, fault.get("ended_at", math.inf) + MAX_STEP_SECONDS)
        for fault in books.run.ledger.entries("fault")
        if fault["fault"].startswith("clock of the database")
    ]
    return [
        (start, end)
        for start, end in spans
        if not any(begin <= end.timestamp() and start.timestamp() <= over for begin, over in wrong)
    ]


def attempts_at(books: Books, job: dict[str, Any]) -> list[Span]:
    """When each attempt at the job ran."""
    spans = [(each["started_at"], each["ended_at"]) for each in books.attempts.get(job["id"], [])]
    if job["status"] == "COMPLETED":
        spans.append((job["started_at"], job["finished_at"]))
    return [(start, end) for start, end in spans if start]


def attempts_of(books: Books, kind: str) -> dict[str, list[Span]]:
    """When attempts at jobs of the kind ran, by key."""
    found: dict[str, list[Span]] = defaultdict(list)
    for job in books.jobs.values():
        if job["kind"] == kind:
            found[job["payload"]["key"]] += by_a_right_clock(books, attempts_at(books, job))
    return found


def most_at_once(spans: list[Span]) -> int:
    """One that ends at the moment when another starts does not run together with it."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    most = running = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


@invariant
def no_more_run_at_once_than_a_limit_allows(books: Books) -> Iterator[tuple[str, str]]:
    by_key = attempts_of(books, LIMITED)
    if (most := most_at_once([span for spans in by_key.values() for span in spans])) > MAX_RUNNING:
        yield f"{most} ran at once instead of {MAX_RUNNING}.", ""
    for key, spans in by_key.items():
        if (most := most_at_once(spans)) > 1:
            yield f"{most} of the key {key} ran at once.", ""


@invariant
def no_more_start_than_a_rate_allows(books: Books) -> Iterator[tuple[str, str]]:
    for key, spans in attempts_of(books, RATED).items():
        starts = sorted(start for start, _ in spans)
        for count, seconds in WINDOWS:
            for first, last in zip(starts, starts[count:], strict=False):
                if last - first < timedelta(seconds=seconds):
                    yield f"{count + 1} of the key {key} started within {last - first}.", ""


@invariant
def no_two_of_a_unique_key_are_unfinished_at_once(books: Books) -> Iterator[tuple[str, str]]:
    """From the first start of each to its end: when it was submitted, the one before may just have been ending."""
    by_key: dict[str, list[Span]] = defaultdict(list)
    for job in books.jobs.values():
        started = [start for start, _ in attempts_at(books, job)]
        if job["unique_key"] and started:
            by_key[job["unique_key"]] += by_a_right_clock(books, [(min(started), job["finished_at"])])
    for key, spans in by_key.items():
        if (most := most_at_once(spans)) > 1:
            yield f"{most} jobs with the unique key {key} were unfinished at once.", ""
