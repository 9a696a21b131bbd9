"""Claims of kinds with limits: which of the ready jobs there is room for, and which wait until there is.

The slot of a limit is the leased row itself, which is counted at each claim; so none can leak. Whoever claims holds
the kind's gate, a lock, until the commit: no two claims count the same room. A job that is met while its lane is full
is not ready from then on, but blocked by the lane, so it costs no later claim anything. Whoever ends an attempt lets
the most urgent job of each of its lanes go on; the tick does so, too, for whoever died before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection, transaction

from orchestrator.kinds import Kind
from orchestrator.limits import Limits
from orchestrator.models import RateStart
from orchestrator.queue import kind_limits, lanes, shares, turns, unblocking
from orchestrator.queue.lanes import Lanes, Room

# Of the ready jobs, a claim looks at so many at first, and at so many more each time if it finds room for none. One
# that has looked at so many windows leaves the rest to the next claim.
FIRST_WINDOW, MAX_WINDOW, MAX_WINDOWS = 10, 500, 8

# The most urgent ready jobs of the owners whose turn it is, locked. Of each at most as many as its share of the slots
# allows, and in the order of the index.
CANDIDATES = """
SET LOCAL enable_sort = off;
SELECT job.id, job.owner, job.limit_key, job.runs_alone
FROM (SELECT owner, {free} AS free FROM {owners} AS owners (owner)) AS in_turn
CROSS JOIN LATERAL (
    SELECT id, owner, limit_key, runs_alone FROM orchestrator_job
    WHERE ready AND kind = %(kind)s AND owner = in_turn.owner AND (%(isolated)s OR NOT runs_alone)
      AND id <> ALL(%(left_out)s::uuid[])
    ORDER BY rank, id
    LIMIT least(free, %(window)s)
    FOR UPDATE SKIP LOCKED
) AS job
WHERE NOT EXISTS (SELECT FROM orchestrator_kind WHERE name = %(kind)s AND paused_at IS NOT NULL)
LIMIT %(window)s
"""
# The one of that id, if it is ready.
CANDIDATE = """
SELECT id, owner, limit_key, runs_alone FROM orchestrator_job
WHERE ready AND kind = %(kind)s AND (%(isolated)s OR NOT runs_alone)
  AND id = %(id)s AND id <> ALL(%(left_out)s::uuid[])
  AND NOT EXISTS (SELECT FROM orchestrator_kind WHERE name = %(kind)s AND paused_at IS NOT NULL)
FOR UPDATE SKIP LOCKED
"""

# Jobs for which there is no room wait in their lanes.
BLOCK = """
UPDATE orchestrator_job job
SET ready = false, blocked_by = blocked.lane, updated_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(lanes)s::text[]) AS blocked (id, lane)
WHERE job.id = blocked.id AND job.id = ANY(%(ids)s::uuid[])
"""


class Candidate(NamedTuple):
    """A ready job that is locked, as far as limits go by it."""

    id: UUID
    owner: str
    key: str | None
    runs_alone: bool


@dataclass
class Choice:
    """The jobs there is room for, and those that wait in a lane from now on.

    open_lanes: those that have room, but whose jobs wait in another. kind_is_full: there is no room for any job of the
    kind; full_for: until there is again, where that is known.
    """

    chosen: list[Candidate] = field(default_factory=list)
    blocked: dict[UUID, str] = field(default_factory=dict)
    open_lanes: set[str] = field(default_factory=set)
    kind_is_full: bool = False
    has_more: bool = False
    full_for: timedelta | None = None


def is_limited(kind: Kind) -> bool:
    """Whether jobs of the kind have to wait for limits."""
    return kind_limits.limits_of(kind).holds_back


def choose(candidates: Sequence[Candidate], room: Room, at_most: int) -> Choice:
    """Goes through candidates in their order. One that runs alone is taken alone, or left."""
    choice = Choice()
    of_kind = room.lanes.of_kind()
    for candidate in candidates:
        if full := room.first_full(of_kind):
            choice.kind_is_full, choice.full_for = True, room.full_for.get(full)
            break
        if len(choice.chosen) == at_most or (choice.chosen and choice.chosen[0].runs_alone):
            break
        own = room.lanes.of(candidate.owner, candidate.key)
        if full := room.first_full(own):
            choice.blocked[candidate.id] = full
            choice.open_lanes.update(lane for lane in own if not room.is_full(lane))
        elif not (choice.chosen and candidate.runs_alone):
            choice.chosen.append(candidate)
            room.take(*of_kind, *own)
    left = len(candidates) - len(choice.chosen) - len(choice.blocked)
    choice.has_more = left > 0 and not choice.kind_is_full
    return choice


def admit(
    kind: Kind, *, at_most: int, isolated: bool = True, id: UUID | str | None = None, left_out: Collection[str] = ()
) -> Choice:
    """The most urgent jobs of the kind there is room for, locked. Within a transaction that has passed the gate, and
    that has picked owners if the kind is leased."""
    limits = kind_limits.limits_of(kind)
    window = max(FIRST_WINDOW, at_most)
    for _ in range(MAX_WINDOWS):
        candidates = _candidates(kind, isolated=isolated, id=id, left_out=left_out, window=window)
        choice = choose(candidates, _room_for(kind, limits, candidates), at_most)
        _block(kind.name, limits, choice)
        is_all = len(candidates) < window and not choice.open_lanes
        if choice.kind_is_full:
            break
        choice.has_more |= not is_all
        if choice.chosen or is_all:
            break
        window = min(window * 4, MAX_WINDOW)
    if choice.full_for is not None:
        transaction.on_commit(partial(unblocking.look_again, kind.name, choice.full_for))
    return choice


def admit_of_picked(kind: Kind, parameters: dict[str, Any]) -> Choice:
    """Does so with jobs that are to be leased, of owners that are picked here: of others if all of theirs wait.

    parameters: those of `shares`, with at_most, isolated, and the id of the one job that may be claimed, if any.
    """
    wanted = {name: parameters[name] for name in ("at_most", "isolated", "id")}
    if parameters["id"] is not None:
        return admit(kind, **wanted)
    choice, waits = Choice(), True
    for _ in range(MAX_WINDOWS):
        with connection.cursor() as cursor:
            cursor.execute(shares.pick(kind, waits=waits), parameters)
            if cursor.fetchone() == (shares.NOBODY,):
                return choice
        choice, waits = admit(kind, **wanted), False
        if choice.chosen or choice.kind_is_full:
            return choice
    return replace(choice, has_more=True)


def _candidates(kind: Kind, **parameters: Any) -> list[Candidate]:
    if parameters["id"] is not None:
        sql = CANDIDATE
    elif kind.execution == "leased":
        sql = CANDIDATES.format(owners=shares.PICKED, free=shares.free(kind, "owners.owner"))
    else:
        sql = CANDIDATES.format(owners=turns.IN_TURN, free="%(window)s")
    values = {"kind": kind.name, **parameters, "left_out": list(parameters["left_out"]), **shares.parameters(kind)}
    with connection.cursor() as cursor:
        cursor.execute(sql, values | {"at_most": parameters["window"]})
        return [Candidate(*row) for row in cursor.fetchall()]


def _room_for(kind: Kind, limits: Limits, candidates: Sequence[Candidate]) -> Room:
    of = Lanes(limits)
    wanted = {lane for candidate in candidates for lane in of.of(candidate.owner, candidate.key)}
    return lanes.room(kind.name, limits, [*of.of_kind(), *wanted])


def _block(kind: str, limits: Limits, choice: Choice) -> None:
    if not choice.blocked:
        return
    with connection.cursor() as cursor:
        cursor.execute(BLOCK, {"ids": [str(id) for id in choice.blocked], "lanes": list(choice.blocked.values())})
    unblocking.note_waits(kind, limits, lanes.rated(choice.blocked.values()))
    if choice.open_lanes:
        # Else jobs that only such a lane has kept waiting would wait behind those that another has blocked just now.
        unblocking.let_go_behind_gate(kind, limits, choice.open_lanes)


def started(kind: Kind, chosen: Sequence[Candidate], at: datetime) -> None:
    """Counts starts for the kind's rate, in the transaction that makes them."""
    limits = kind_limits.limits_of(kind)
    of = Lanes(limits)
    rated = lanes.rated(lane for each in chosen for lane in [*of.of_kind(), *of.of(each.owner, each.key)])
    if rated:
        RateStart.objects.bulk_create([RateStart(kind=kind.name, lane=lane, started_at=at) for lane in rated])
        unblocking.note_known_waits(kind.name, limits, rated)
