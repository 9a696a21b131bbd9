"""Limits hold, by what the database wrote down: no more run at any instant, no more start in any window, none waits
while there is room, and of the same job one is unfinished.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orchestrator.limits import Rate
from tests.chaos.faults import FAULTS, MAX_STEP_SECONDS
from tests.chaos.invariants import EXCUSED, Books, invariant
from tests.chaos.room import LIMITED, MAX_RUNNING, OWNED, OWNED_RATE, OWNED_RUNNING, waited_with_room

# As `tests.kinds.jobs` declares it, and the limit, too. Clients lower both now and then, and raise them again.
RATED, RATE, BURST = "tests.effect_rated", "6/2s", 3
# A changed limit takes effect within a second. The trail has the time when the change began, so another second for it;
# and a long time where the database or the web server was hurt just then.
EFFECTIVE, EFFECTIVE_AT_LAST = timedelta(seconds=2), timedelta(seconds=20)
# The fault during which the times of starts and ends say nothing.
CLOCK_STEPS = "clock_of_the_database_steps"
assert CLOCK_STEPS in FAULTS
# The longest of the windows of these rates.
WINDOW = timedelta(seconds=2)

CHANGES = """
SELECT at, before, after FROM access_auditentry WHERE action = 'kind.limit' AND object_id = %s AND at >= %s ORDER BY id
"""

Span = tuple[datetime, datetime]


@dataclass(frozen=True)
class Changed:
    """A limit was changed; since `until` at the latest the value before does not hold any more."""

    at: datetime
    until: datetime
    before: Any
    after: Any


def changes_of(books: Books, kind: str, name: str, declared: Any) -> list[Changed]:
    """Those of that limit of the kind, in their order."""
    found = []
    for at, before, after in books.run.world.query(CHANGES, kind, books.run.began_at):
        takes = EFFECTIVE_AT_LAST if was_hurt(books, at) else EFFECTIVE
        found.append(Changed(at, at + takes, (before or {}).get(name, declared), (after or {}).get(name, declared)))
    return found


def was_hurt(books: Books, at: datetime) -> bool:
    """Whether a change that began then may have been held up."""
    began, ended = at.timestamp(), (at + EFFECTIVE).timestamp()
    return any(
        fault["at"] <= ended and began <= fault.get("ended_at", math.inf) + EFFECTIVE.total_seconds()
        for fault in books.run.ledger.entries("fault")
        if fault["touches"] in EXCUSED
    )


def in_force(changes: Collection[Changed], declared: Any, first: datetime, last: datetime) -> set[Any]:
    """The values that a limit may have had at some time in between."""
    values = {declared if not changes else next(iter(changes)).before}
    for change in changes:
        if change.until < first:
            values = {change.after}
        elif change.at <= last:
            values.add(change.after)
    return values


def by_a_right_clock(books: Books, spans: Iterable[Span]) -> list[Span]:
    """Those that are not from around the time when the database's clock was wrong."""
    wrong = [
        (fault["at"] - MAX_STEP_SECONDS, fault.get("ended_at", math.inf) + MAX_STEP_SECONDS)
        for fault in books.run.ledger.entries("fault")
        if fault["fault"] == CLOCK_STEPS
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


def key_of(job: dict[str, Any]) -> str:
    return str(job["payload"]["key"])


def owner_of(job: dict[str, Any]) -> str:
    return str(job["owner"])


def attempts_of(books: Books, kind: str, whose: Callable[[dict[str, Any]], str]) -> dict[str, list[Span]]:
    """When attempts at jobs of the kind ran, by key or owner."""
    found: dict[str, list[Span]] = defaultdict(list)
    for job in books.jobs.values():
        if job["kind"] == kind:
            found[whose(job)] += by_a_right_clock(books, attempts_at(books, job))
    return found


def most_at_once(spans: Collection[Span]) -> int:
    return max((running for _, running in running_at_starts(spans)), default=0)


def running_at_starts(spans: Collection[Span]) -> Iterator[tuple[datetime, int]]:
    """How many run just after each start. One that ends at that moment does not run any more."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    running = 0
    for at, change in changes:
        running += change
        if change > 0:
            yield at, running


@invariant
def no_more_run_at_once_than_a_limit_allows(books: Books) -> Iterator[tuple[str, str]]:
    by_key = attempts_of(books, LIMITED, key_of)
    changes = changes_of(books, LIMITED, "max_running", MAX_RUNNING)
    yield from too_many(changes, MAX_RUNNING, [span for spans in by_key.values() for span in spans], "")
    changes = changes_of(books, OWNED, "max_running_per_owner", OWNED_RUNNING)
    for owner, spans in attempts_of(books, OWNED, owner_of).items():
        yield from too_many(changes, OWNED_RUNNING, spans, f" of {owner}")
    for key, spans in by_key.items():
        if (most := most_at_once(spans)) > 1:
            yield f"{most} of the key {key} ran at once.", ""


def too_many(
    changes: Collection[Changed], declared: int, spans: Collection[Span], whose: str
) -> Iterator[tuple[str, str]]:
    for start, running in running_at_starts(spans):
        if running > (most := max(in_force(changes, declared, start, start))):
            yield f"{running}{whose} ran at once at {start} instead of {most}.", ""


@invariant
def no_more_start_than_a_rate_allows(books: Books) -> Iterator[tuple[str, str]]:
    for kind, whose, declared, burst in ((RATED, key_of, RATE, BURST), (OWNED, owner_of, OWNED_RATE, None)):
        changes = changes_of(books, kind, "rate", declared)
        for of, spans in attempts_of(books, kind, whose).items():
            for count, took, first in too_soon(changes, declared, burst, sorted(start for start, _ in spans)):
                yield f"{count} of {kind} of {of} started within {took}, from {first}.", ""


def too_soon(
    changes: Collection[Changed], declared: str, burst: int | None, starts: list[datetime]
) -> Iterator[tuple[int, timedelta, datetime]]:
    """Where more start in a window than it allows: how many, within how long, and from when on."""
    for place, first in enumerate(starts):
        windows = [windows_of(Rate.parse(rate), burst) for rate in in_force(changes, declared, first, first + WINDOW)]
        for those in zip(*windows, strict=True):
            count, length = max(count for count, _ in those), min(length for _, length in those)
            if len(starts) > place + count and (took := starts[place + count] - first) < length:
                yield count + 1, took, first


def windows_of(rate: Rate, burst: int | None) -> list[tuple[int, timedelta]]:
    """So many may start within so long: by the rate, and by its burst, if it has one."""
    period = timedelta(seconds=rate.seconds)
    return [(rate.count, period), *([] if burst is None else [(burst, period * burst / rate.count)])]


@invariant
def no_job_waits_while_its_limit_has_room(books: Books) -> Iterator[tuple[str, str]]:
    """By looks at the running system, but for those while a fault had not been recovered from."""
    ends = {entry["begun_at"]: entry["at"] for entry in books.run.ledger.entries("recovered")}
    faults = [(fault["at"], ends.get(fault["at"], math.inf)) for fault in books.run.ledger.entries("fault")]
    for job_id, seconds in waited_with_room(books.run.ledger.entries("look"), faults):
        yield f"It waited for {seconds:.1f} s at least, while its limit had room and a slot was free.", job_id


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


@invariant
def none_is_submitted_while_one_that_completed_holds_its_key(books: Books) -> Iterator[tuple[str, str]]:
    """What is retried may have been submitted before that."""
    by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for job in books.jobs.values():
        if job["unique_key"]:
            by_key[job["unique_key"]].append(job)
    for jobs in by_key.values():
        held = [(job["finished_at"], job["unique_until"]) for job in jobs if holds_its_key(job)]
        for begin, end in by_a_right_clock(books, held):
            yield from (
                (
                    f"It was submitted at {job['created_at']}, and one had completed whose period ends at {end}.",
                    job["id"],
                )
                for job in jobs
                if begin < job["created_at"] < end
            )


def holds_its_key(job: dict[str, Any]) -> bool:
    """Whether it has completed within its period."""
    is_done: bool = job["status"] == "COMPLETED" and job["unique_until"] is not None
    return is_done and job["finished_at"] < job["unique_until"]
