"""Lanes: each limit of a kind as it applies to all of it, to one owner or to one key, and how much room it has.

"max_running" and "rate" are lanes of the whole kind; "max_running_per_key:42", "max_running_per_owner:ada" and
"rate_per_owner:ada" are lanes of a key or an owner, in which jobs wait that a claim has met while there was no room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db import connection

from orchestrator.limits import Limits, Rate

KIND, PER_OWNER, PER_KEY = "max_running", "max_running_per_owner", "max_running_per_key"
RATE, RATE_PER_OWNER, RATE_PER_KEY = "rate", "rate_per_owner", "rate_per_key"

# Jobs of a lane that run, or that its limit has let go on and that are ready.
OCCUPYING = "worker_id IS NOT NULL"
LET_GO_OR_RUNNING = "(ready OR worker_id IS NOT NULL)"

# Each statement has a row for every lane that is not empty: its name, how many are in it, and after what time there is
# room, where that is known. There are hardly more of them than the limit.
RUNNING = f"""
SELECT '{KIND}', count(*), NULL::interval FROM orchestrator_job
WHERE limited AND {{counted}} AND kind = %(kind)s
"""  # noqa: S608 It is made of constants, as those below.
RUNNING_OF_OWNERS = f"""
SELECT '{PER_OWNER}:' || owner, count(*), NULL FROM orchestrator_job
WHERE limited AND {{counted}} AND kind = %(kind)s AND owner = ANY(%(owners)s) GROUP BY owner
"""  # noqa: S608
RUNNING_OF_KEYS = f"""
SELECT '{PER_KEY}:' || limit_key, count(*), NULL FROM orchestrator_job
WHERE limited AND {{counted}} AND kind = %(kind)s AND limit_key = ANY(%(keys)s) GROUP BY limit_key
"""  # noqa: S608
# Of a rate: how many of its starts are taken, in whichever span has less room: the period, or the part of it in which
# a burst may start.
STARTED = """
SELECT lane, greatest(in_period.count, %(starts)s - %(burst)s + in_part.count),
       greatest(CASE WHEN in_period.count >= %(starts)s THEN in_period.first + %(period)s END,
                CASE WHEN in_part.count >= %(burst)s THEN in_part.first + %(part)s END) - statement_timestamp()
FROM unnest(%(rate_lanes)s::text[]) AS lane
CROSS JOIN LATERAL (
    SELECT count(*), min(started_at) AS first FROM (
        SELECT started_at FROM orchestrator_ratestart AS start
        WHERE kind = %(kind)s AND start.lane = lane.lane AND started_at > statement_timestamp() - %(period)s
        ORDER BY started_at DESC LIMIT %(starts)s
    ) AS latest
) AS in_period
CROSS JOIN LATERAL (
    SELECT count(*), min(started_at) AS first FROM (
        SELECT started_at FROM orchestrator_ratestart AS start
        WHERE kind = %(kind)s AND start.lane = lane.lane AND started_at > statement_timestamp() - %(part)s
        ORDER BY started_at DESC LIMIT %(burst)s
    ) AS latest
) AS in_part
"""


@dataclass(frozen=True)
class Lanes:
    """The lanes of the jobs of one kind by its limits."""

    limits: Limits

    def of_kind(self) -> list[str]:
        """Those that all its jobs share."""
        lanes = [KIND] if self.limits.max_running is not None else []
        return [*lanes, RATE] if self.limits.rate and self.limits.rate_per in (None, "kind") else lanes

    def of(self, owner: str, key: str | None) -> list[str]:
        """Those of a job of that owner and key, besides those of all. The lane of a key is the narrowest."""
        limits = self.limits
        lanes = []
        if limits.max_running_per_key is not None and key is not None:
            lanes.append(f"{PER_KEY}:{key}")
        if limits.rate and limits.rate_per == "key" and key is not None:
            lanes.append(f"{RATE_PER_KEY}:{key}")
        if limits.max_running_per_owner is not None:
            lanes.append(f"{PER_OWNER}:{owner}")
        if limits.rate and limits.rate_per == "owner":
            lanes.append(f"{RATE_PER_OWNER}:{owner}")
        return lanes

    def limit_of(self, lane: str) -> int | None:
        """How many the lane has room for; None if there is no such limit any more."""
        name = lane.partition(":")[0]
        if name in (KIND, PER_OWNER, PER_KEY):
            limit: int | None = getattr(self.limits, name)
            return limit
        is_kept = lane in self.of_kind() or name == f"rate_per_{self.limits.rate_per}"
        return Rate.parse(self.limits.rate).count if self.limits.rate and is_kept else None


@dataclass
class Room:
    """How much room lanes have. full_for: after what time those whose rate is used up have room for one again."""

    lanes: Lanes
    taken: dict[str, int] = field(default_factory=dict)
    full_for: dict[str, timedelta] = field(default_factory=dict)

    def left(self, lane: str) -> int | None:
        """None: as much as one likes."""
        limit = self.lanes.limit_of(lane)
        return None if limit is None else max(0, limit - self.taken.get(lane, 0))

    def is_full(self, lane: str) -> bool:
        return self.left(lane) == 0

    def first_full(self, lanes: Iterable[str]) -> str | None:
        return next((lane for lane in lanes if self.is_full(lane)), None)

    def take(self, *lanes: str) -> None:
        """One more is in each of them."""
        for lane in lanes:
            self.taken[lane] = self.taken.get(lane, 0) + 1


def room(kind: str, limits: Limits, lanes: Collection[str], *, counted: str = OCCUPYING) -> Room:
    """The room that these lanes of the kind have. counted: which jobs take it."""
    found = Room(Lanes(limits))
    statements, parameters = _statements(kind, limits, lanes)
    if statements:
        with connection.cursor() as cursor:
            cursor.execute(" UNION ALL ".join(statements).format(counted=counted), parameters)
            for lane, taken, full_for in cursor.fetchall():
                found.taken[lane] = taken
                if full_for is not None:
                    found.full_for[lane] = full_for
    return found


def _statements(kind: str, limits: Limits, lanes: Collection[str]) -> tuple[list[str], dict[str, Any]]:
    parameters: dict[str, Any] = {"kind": kind}
    statements = []
    if KIND in lanes:
        statements.append(RUNNING)
    if owners := _values(lanes, PER_OWNER):
        statements.append(RUNNING_OF_OWNERS)
        parameters["owners"] = owners
    if keys := _values(lanes, PER_KEY):
        statements.append(RUNNING_OF_KEYS)
        parameters["keys"] = keys
    if limits.rate and (rate_lanes := rated(lanes)):
        statements.append(STARTED)
        parameters |= _rate_parameters(limits) | {"rate_lanes": rate_lanes}
    return statements, parameters


def rated(lanes: Iterable[str]) -> list[str]:
    """Those of them that are lanes of rates."""
    return [lane for lane in lanes if lane.startswith(RATE)]


def _values(lanes: Collection[str], name: str) -> list[str]:
    """The owners or keys of the lanes of that name."""
    return [lane.partition(":")[2] for lane in lanes if lane.startswith(f"{name}:")]


def _rate_parameters(limits: Limits) -> dict[str, Any]:
    """A burst of b of n starts may be made within the b-nth part of the period."""
    rate = Rate.parse(limits.rate)
    burst = limits.burst or rate.count
    return {
        "starts": rate.count,
        "period": timedelta(seconds=rate.seconds),
        "burst": min(burst, rate.count),
        "part": timedelta(seconds=rate.seconds * min(burst, rate.count) / rate.count),
    }
