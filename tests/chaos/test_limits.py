"""How the books of a run are read: what a limit was at a time, and who waited though there was room."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.limits import Rate
from tests.chaos.limits import (
    Changed,
    in_force,
    most_at_once,
    none_is_submitted_while_one_that_completed_holds_its_key,
    too_soon,
    windows_of,
)
from tests.chaos.room import waited_with_room

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def looks(*waiting: list[str], every: float = 0.5) -> list[dict[str, Any]]:
    return [{"at": 100 + place * every, "waiting": ids} for place, ids in enumerate(waiting)]


LOWERED = Changed(at(10), at(12), before=4, after=2)
RAISED = Changed(at(20), at(22), before=2, after=4)


def test_a_changed_limit_may_hold_from_the_change_and_does_once_that_has_taken_effect() -> None:
    found = [in_force([LOWERED, RAISED], 4, at(when), at(when)) for when in (5, 11, 15, 21, 25)]

    assert found == [{4}, {2, 4}, {2}, {2, 4}, {4}]


def test_in_a_span_any_limit_holds_that_did_at_some_time_in_it() -> None:
    assert in_force([LOWERED], 4, at(5), at(10)) == {2, 4}
    assert in_force([], 4, at(5), at(10)) == {4}


def test_a_burst_has_its_part_of_the_period() -> None:
    assert windows_of(Rate.parse("6/2s"), 3) == [(6, timedelta(seconds=2)), (3, timedelta(seconds=1))]
    assert windows_of(Rate.parse("4/2s"), 3) == [(4, timedelta(seconds=2)), (3, timedelta(seconds=1.5))]


def test_who_ends_when_another_starts_does_not_run_beside_it() -> None:
    assert most_at_once([(at(0), at(1)), (at(1), at(2))]) == 1
    assert most_at_once([(at(0), at(1.5)), (at(1), at(2))]) == 2


def test_a_job_that_every_look_has_seen_for_longer_than_a_second_has_waited_too_long() -> None:
    seen = looks(["other"], ["a", "other"], ["a"], ["a"], ["a"], [])

    assert list(waited_with_room(seen, [])) == [("a", 1.5)]


def test_so_has_one_that_still_waits_at_the_last_look() -> None:
    assert list(waited_with_room(looks([], ["a"], ["a"], ["a"], ["a"]), [])) == [("a", 1.5)]


def test_what_waits_while_there_is_a_fault_is_not_counted() -> None:
    assert not list(waited_with_room(looks(*[["a"]] * 5), [(101.1, 101.2)]))


def test_nor_is_what_waits_between_looks_that_lie_too_far_apart() -> None:
    assert not list(waited_with_room(looks(*[["a"]] * 5, every=1.5), []))


def test_one_start_more_than_a_window_has_room_for_is_found_by_the_rate_of_that_time() -> None:
    every_half = [at(place / 2) for place in range(10)]

    assert not list(too_soon([], "4/2s", None, every_half))
    assert [count for count, _, _ in too_soon([], "3/2s", None, every_half)] == [4] * 7
    assert [count for count, _, _ in too_soon([], "4/2s", 1, [at(0), at(0.4)])] == [2]
    lowered = Changed(at(1), at(2), before="4/2s", after="3/2s")
    assert [first for _, _, first in too_soon([lowered], "4/2s", None, every_half)] == [at(2.5), at(3)]


def unique_job(id: str, created: float, *, finished: float, status: str = "COMPLETED") -> dict[str, Any]:
    """One that keeps its key for three seconds."""
    times = {"created_at": at(created), "finished_at": at(finished), "unique_until": at(created + 3)}
    return {"id": id, "unique_key": "u", "status": status} | times


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (unique_job("a", 0, finished=1), unique_job("b", 2, finished=4), ["b"]),
        (unique_job("a", 0, finished=1), unique_job("b", 3, finished=4), []),
        (unique_job("a", 0, finished=1, status="FAILED"), unique_job("b", 2, finished=4), []),
        (unique_job("a", 0, finished=4), unique_job("b", 3.5, finished=5), []),
    ],
)
def test_a_job_that_is_submitted_within_the_period_of_one_that_has_completed_is_found(
    first: dict[str, Any], second: dict[str, Any], found: list[str]
) -> None:
    books: Any = SimpleNamespace(
        jobs={"a": first, "b": second},
        run=SimpleNamespace(ledger=SimpleNamespace(entries=lambda *_: [])),
    )

    assert [id for _, id in none_is_submitted_while_one_that_completed_holds_its_key(books)] == found
