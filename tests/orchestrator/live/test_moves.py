"""What a watcher who was away is told: the moves that a job's row, its attempts and the audit trail tell of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from orchestrator.live.moves import AttemptRow, AuditRow, JobRow, Place, moves_since, read_place

ID = UUID("01980c5e-7a00-7000-8000-000000000000")
BEGAN = datetime(2030, 1, 31, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def job(
    status: str, attempt: int, *, started: float | None = None, finished: float | None = None, **more: Any
) -> JobRow:
    times = [time for time in (0, started, finished) if time is not None]
    return JobRow(
        id=ID, kind="demo.slices", owner="ada", parent_id=None, name="", status=status, attempt=attempt,
        error=more.get("error", ""), progress_done=None, progress_total=None, progress_message="", created_at=at(0),
        started_at=None if started is None else at(started), finished_at=None if finished is None else at(finished),
        updated_at=at(more.get("updated", max(times))),
    )  # fmt: skip


def attempt(number: int, started: float, ended: float, outcome: str = "RAISED") -> AttemptRow:
    return AttemptRow(ID, number, outcome, f"error {number}", at(started), at(ended))


def told(now: JobRow, seen: Place | None, *records: AttemptRow | AuditRow) -> list[tuple[str, int, str]]:
    attempts = [each for each in records if isinstance(each, AttemptRow)]
    audit = [each for each in records if isinstance(each, AuditRow)]
    return [(move.status, move.attempt, move.outcome) for move in moves_since(now, seen, attempts, audit)]


CREATED = Place(0, "CREATED", at(0))


def test_who_has_seen_nothing_is_told_how_the_job_is() -> None:
    assert told(job("RUNNING", 2, started=9), None, attempt(1, 1, 2)) == [("RUNNING", 2, "")]


def test_who_has_seen_it_as_it_is_is_told_nothing() -> None:
    assert told(job("RUNNING", 1, started=1, updated=5), Place(1, "RUNNING", at(1))) == []


def test_a_start_is_told_once_though_its_attempt_began_a_moment_later() -> None:
    now = job("CREATED", 1, started=1, updated=3)

    assert told(now, Place(1, "RUNNING", at(1)), attempt(1, 1.01, 2)) == [("CREATED", 1, "RAISED")]


def test_a_job_that_has_completed_ran_before() -> None:
    assert told(job("COMPLETED", 1, started=1, finished=2), CREATED) == [("RUNNING", 1, ""), ("COMPLETED", 1, "")]


def test_every_attempt_that_was_made_meanwhile_is_told() -> None:
    now = job("COMPLETED", 3, started=7, finished=8)

    assert told(now, CREATED, attempt(1, 1, 2), attempt(2, 4, 5, "LOST")) == [
        ("RUNNING", 1, ""),
        ("CREATED", 1, "RAISED"),
        ("RUNNING", 2, ""),
        ("CREATED", 2, "LOST"),
        ("RUNNING", 3, ""),
        ("COMPLETED", 3, ""),
    ]


def test_what_was_seen_is_not_told_again() -> None:
    now = job("COMPLETED", 2, started=4, finished=5)

    assert told(now, Place(1, "CREATED", at(2)), attempt(1, 1, 2)) == [("RUNNING", 2, ""), ("COMPLETED", 2, "")]


def test_the_last_attempt_of_a_failed_job_has_failed_it() -> None:
    now = job("FAILED", 1, started=1, finished=2.001)

    assert told(now, CREATED, attempt(1, 1, 2)) == [("RUNNING", 1, ""), ("FAILED", 1, "RAISED")]


def test_a_failure_that_was_retried_on_request_is_told() -> None:
    now = job("RUNNING", 2, started=9)
    retried = AuditRow(ID, "job.retry", at(6), "FAILED")

    assert told(now, CREATED, attempt(1, 1, 2), retried) == [
        ("RUNNING", 1, ""),
        ("FAILED", 1, "RAISED"),
        ("CREATED", 1, ""),
        ("RUNNING", 2, ""),
    ]


def test_a_cancellation_that_was_undone_is_told() -> None:
    cancelled, retried = AuditRow(ID, "job.cancel", at(3), "CREATED"), AuditRow(ID, "job.retry", at(6), "CANCELLED")

    assert told(job("CREATED", 0, updated=6), CREATED, cancelled, retried) == [
        ("CANCELLED", 0, ""),
        ("CREATED", 0, ""),
    ]


def test_a_job_that_was_handed_back_is_told_to_wait_again() -> None:
    assert told(job("CREATED", 0, started=1, updated=2), Place(1, "RUNNING", at(1))) == [("CREATED", 0, "")]


def test_a_cancellation_that_began_before_the_start_it_undid_is_told() -> None:
    """Its time is that at which its transaction began."""
    now = job("CANCELLED", 1, started=2, finished=1)

    assert told(now, Place(1, "RUNNING", at(2)))[-1] == ("CANCELLED", 1, "")


def test_a_failed_pipeline_ran_before() -> None:
    now = job("FAILED", 0, started=1, finished=2, error="The child 'a' FAILED")

    assert told(now, CREATED) == [("RUNNING", 0, ""), ("FAILED", 0, "")]


def test_the_last_move_is_the_row_as_it_is() -> None:
    now = job("COMPLETED", 1, started=1, finished=2, updated=2.000001)

    [*_, last] = moves_since(now, CREATED)

    assert last.place == now.place
    assert told(now, last.place) == []


@pytest.mark.parametrize("place", [CREATED, Place(3, "RUNNING", at(0.000001)), Place(12, "FAILED", at(1e6))])
def test_a_place_is_read_from_its_text(place: Place) -> None:
    assert read_place(str(place)) == place


@pytest.mark.parametrize(
    "text", ["x", "1-RUNNING", "1-WALKING-1", "a-RUNNING-1", "1-RUNNING-" + "9" * 30, "-1-RUNNING-1"]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 Nobody reads what it says.
        read_place(text)
