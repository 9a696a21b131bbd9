"""Metrics agree with the rows, once all is calm."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.faults import MAX_STEP_SECONDS
from tests.chaos.invariants import Books, invariant
from tests.chaos.limits import CLOCK_STEPS

# The tick adds up every ten seconds what ended at least three seconds ago, and no more than a minute at once.
ADDED_UP_SECONDS = 60
# What ended while one of these was hurt may not be added up: its transaction may commit later than three seconds after
# its end, or the clock of the database is set back.
MAY_COMMIT_LATE = ("database", "network", "frozen", "clock")
LATE_SECONDS = 5

UNFINISHED = """
SELECT count(*) FILTER (WHERE ready), count(*) FILTER (WHERE worker_id IS NOT NULL) FROM orchestrator_job
WHERE status IN ('CREATED', 'RUNNING')
"""
COMPLETED = "SELECT kind, count(*) FROM orchestrator_job WHERE status = 'COMPLETED' GROUP BY kind"
COMPLETED_BETWEEN = """
SELECT kind, count(*) FROM orchestrator_job
WHERE status = 'COMPLETED' AND finished_at BETWEEN to_timestamp(%s) AND to_timestamp(%s) GROUP BY kind
"""


@invariant
def metrics_agree_with_the_rows(books: Books) -> Iterator[tuple[str, str]]:
    """What waits and runs, and how many completed. A job that failed may be retried, and then has ended twice."""
    world = books.run.world
    if len({*world.folder.glob("*.jsonl")} - {world.outside}) > 1:
        return  # What earlier runs have excused is not known.
    deadline = time.monotonic() + ADDED_UP_SECONDS
    while (wrong := list(_wrong(books))) and time.monotonic() < deadline:
        time.sleep(1)
    for text in wrong:
        yield text, ""


def _wrong(books: Books) -> Iterator[str]:
    world = books.run.world
    found = _read(world.stack.url)
    [(ready, running)] = world.query(UNFINISHED)
    for state, count in (("ready", ready), ("running", running)):
        told = sum(value for (name, *labels), value in found.items() if name == "muster_jobs" and labels[1] == state)
        if told != count:
            yield f"{told:g} jobs are {state} by the metrics, {count} by their rows."
    may_be_missing = _completed_while_late(books)
    for kind, count in world.query(COMPLETED):
        told = found.get(("muster_jobs_ended_total", kind, "COMPLETED"), 0)
        if not count - may_be_missing[kind] <= told <= count:
            yield f"{told:g} jobs of {kind} completed by the metrics, {count} by their rows."


def _completed_while_late(books: Books) -> Counter[str]:
    """By kind."""
    counts: Counter[str] = Counter()
    for fault in books.run.ledger.entries("fault"):
        if fault["touches"] in MAY_COMMIT_LATE:
            steps = MAX_STEP_SECONDS if fault["fault"] == CLOCK_STEPS else 0
            ended_at = min(fault.get("ended_at", math.inf), time.time())
            span = fault["at"] - LATE_SECONDS, ended_at + steps + LATE_SECONDS
            counts.update(dict(books.run.world.query(COMPLETED_BETWEEN, *span)))
    return counts


def _read(url: str) -> dict[tuple[str, ...], float]:
    """By the name of the metric and its labels, in their order."""
    text = requests.get(f"{url}/metrics", timeout=10).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
