"""The moves that a job has made, as its row and what is kept of it tell: a watcher who was away is told of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from orchestrator.states import FINAL, Status

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Ids of events, as `events.mark_id` and `Place` write them.
MICROSECONDS = "[0-9]{1,17}"
MARK = rf"{MICROSECONDS}([.][0-9]{{1,9}})?"
PLACE = f"[0-9]{{1,10}}-({'|'.join(Status)})-{MICROSECONDS}"


def microseconds(at: datetime) -> int:
    """Since 1970, exactly."""
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


class JobRow(NamedTuple):
    """What is read of a job, in the order of `reading.COLUMNS`."""

    id: UUID
    kind: str
    owner: str
    parent_id: UUID | None
    name: str
    status: str
    attempt: int
    error: str
    progress_done: int | None
    progress_total: int | None
    progress_message: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime

    @property
    def place(self) -> Place:
        return Place(self.attempt, self.status, self.updated_at)

    @property
    def progress(self) -> tuple[int | None, int | None, str]:
        return self.progress_done, self.progress_total, self.progress_message


class AttemptRow(NamedTuple):
    """What is kept of an attempt that did not complete the job."""

    job_id: UUID
    number: int
    outcome: str
    error: str
    started_at: datetime | None
    ended_at: datetime


class AuditRow(NamedTuple):
    """A cancellation or a retry that somebody asked for, and the status that the job had."""

    job_id: UUID
    action: str
    at: datetime
    before: str


class Place(NamedTuple):
    """How far a job was when a watcher was told of it last. As text it is the id of an event."""

    attempt: int
    status: str
    at: datetime

    def __str__(self) -> str:
        return f"{self.attempt}-{self.status}-{microseconds(self.at)}"


def read_place(text: str) -> Place:
    """The place that is this text; raises ValueError."""
    if not re.fullmatch(PLACE, text):
        raise ValueError(text)
    attempt, status, at = text.split("-")
    return Place(int(attempt), Status(status), _time(at))


def read_mark(text: str) -> datetime:
    """Up to when a watcher of owners has been told; raises ValueError."""
    if not re.fullmatch(MARK, text):
        raise ValueError(text)
    return _time(text.partition(".")[0])


def _time(text: str) -> datetime:
    """From 1970 to 5138, by its microseconds."""
    return EPOCH.fromtimestamp(int(text) // 1_000_000, UTC).replace(microsecond=int(text) % 1_000_000)


class Move(NamedTuple):
    """The job came to this status. outcome, error: of the attempt that did not complete it; else empty."""

    status: str
    attempt: int
    at: datetime
    outcome: str = ""
    error: str = ""

    @property
    def place(self) -> Place:
        return Place(self.attempt, self.status, self.at)


def history(job: JobRow, attempts: Sequence[AttemptRow], audit: Sequence[AuditRow]) -> list[Move]:
    """The job's moves, the first first, as far as anything is kept of them."""
    moves = [Move(Status.CREATED, 0, job.created_at), *_of_attempts(attempts), *_of_requests(audit, attempts)]
    latest = attempts[-1].number if attempts else 0
    if job.started_at and (job.attempt > latest or job.attempt == 0):
        moves.append(Move(Status.RUNNING, job.attempt, job.started_at))
    moves.sort(key=lambda move: move.at)
    if job.finished_at:
        moves.append(Move(job.status, job.attempt, job.finished_at, error=job.error))
    return _without_ends_that_are_failures(moves)


def _without_ends_that_are_failures(moves: list[Move]) -> list[Move]:
    """The end of an attempt that was the job's failure is one move, not two."""
    kept: list[Move] = []
    for move in moves:
        if move.status == Status.FAILED and kept and kept[-1].outcome and kept[-1].attempt == move.attempt:
            ended = kept.pop()
            move = move._replace(outcome=ended.outcome, error=ended.error)
        kept.append(move)
    return kept


def _of_attempts(attempts: Sequence[AttemptRow]) -> list[Move]:
    moves = []
    for each in attempts:
        if each.started_at:
            moves.append(Move(Status.RUNNING, each.number, each.started_at))
        moves.append(Move(Status.CREATED, each.number, each.ended_at, each.outcome, each.error))
    return moves


def _of_requests(audit: Sequence[AuditRow], attempts: Sequence[AttemptRow]) -> list[Move]:
    """Each retry, and before it the end that it made undone."""
    moves: list[Move] = []
    ended_at: datetime | None = None
    for each in sorted(audit, key=lambda row: row.at):
        earlier = [attempt for attempt in attempts if attempt.ended_at <= each.at]
        number = earlier[-1].number if earlier else 0
        if each.action != "job.retry":
            ended_at = each.at
        elif each.before in FINAL:
            at = ended_at if each.before == Status.CANCELLED else earlier[-1].ended_at if earlier else None
            moves += [Move(each.before, number, at or each.at), Move(Status.CREATED, number, each.at)]
            ended_at = None
    return moves


def moves_since(
    job: JobRow, seen: Place | None, attempts: Sequence[AttemptRow] = (), audit: Sequence[AuditRow] = ()
) -> list[Move]:
    """What to tell a watcher who saw the job there; the last one is the job as it is now. Empty if it is there still.

    seen: None for one who has seen nothing, and is told how the job is now.
    """
    current = Move(job.status, job.attempt, job.updated_at, error=job.error)
    if seen is None:
        return [current]
    missed = [move for move in history(job, attempts, audit) if move.at > seen.at]
    if missed and missed[0].place[:2] == seen[:2]:
        # What is kept of an attempt says when its handler began, which is a little after the claim.
        missed = missed[1:]
    is_same = (job.attempt, job.status) == seen[:2]
    if not missed and is_same:
        return []
    if not missed or missed[-1].place[:2] != (job.attempt, job.status):
        return [*missed, current]
    # Whoever has been told of the last one has seen the row as it is.
    return [*missed[:-1], missed[-1]._replace(at=job.updated_at)]
