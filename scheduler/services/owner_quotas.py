"""What schedules may still submit by the quotas of their owners: see `orchestrator.owner_quotas`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from orchestrator.kinds import kind_named
from orchestrator.owner_quotas import left_in_kind, left_of_owners
from orchestrator.stored_bytes import add
from scheduler.models import TaskSchedule
from scheduler.services.overlap import MAX_QUEUED
from scheduler.services.work import MAX_PAYLOAD_BYTES

MISFIRE, OVERLAP = TaskSchedule.MisfirePolicy, TaskSchedule.Overlap


class OwnerQuotas:
    """What is left of the quotas of some schedules, by kind and owner. It is read once, by as many statements as
    there are kinds with such a limit and a few more, and counts what is taken of it.
    """

    def __init__(self, schedules: Iterable[tuple[str, str]]) -> None:
        """schedules: their kinds and owners."""
        owners_of: defaultdict[str, set[str]] = defaultdict(set)
        for kind, owner in schedules:
            owners_of[kind].add(owner)
        self._of_kind = {kind: left_in_kind(kind_named(kind), owners) for kind, owners in owners_of.items()}
        self._of_owner = left_of_owners({owner for owners in owners_of.values() for owner in owners})

    def why_not(self, kind: str, owner: str, stored: int = 0) -> str:
        """Why there may not be one job more that brings along so many bytes; nothing if there is."""
        in_kind, in_all = self._of_kind[kind], self._of_owner.get(owner)
        if in_kind is not None and in_kind[owner] < 1:
            return f"{owner!r} has as many unfinished jobs of kind {kind!r} as allowed."
        if in_all and in_all.jobs < 1:
            return f"{owner!r} has as many unfinished jobs as allowed."
        if in_all and in_all.stored_bytes < stored:
            return f"{owner!r} has as many bytes stored for unfinished jobs as allowed."
        return ""

    def bytes_left(self) -> dict[str, int]:
        """Of owners who may have fewer bytes more than a payload has at most."""
        left = {owner: each.stored_bytes for owner, each in self._of_owner.items()}
        return {owner: bytes for owner, bytes in left.items() if bytes < MAX_PAYLOAD_BYTES}

    def take(self, schedule: TaskSchedule, wanted: int) -> tuple[int, str]:
        """For how many of so many jobs of the schedule the quotas have room, and why for no more."""
        kind, owner = schedule.kind, schedule.owner
        stored = len(json.dumps(schedule.payload, ensure_ascii=False).encode()) if schedule.payload else 0
        for taken in range(wanted):
            if reason := self.why_not(kind, owner, stored):
                return taken, reason
            if (in_kind := self._of_kind[kind]) is not None:
                in_kind[owner] -= 1
            if in_all := self._of_owner.get(owner):
                in_all.jobs -= 1
                in_all.stored_bytes -= stored
                add(owner, stored)
        return wanted, ""


def kept_while_held(schedule: TaskSchedule, held: list[datetime], queued: list[datetime]) -> list[datetime]:
    """Which occurrences wait until there is room: of those that are held back now, and those that waited already. What
    is held back is late, so it is for the misfire policy to say, unless the schedule has a queue.
    """
    if schedule.overlap == OVERLAP.QUEUE or schedule.misfire_policy == MISFIRE.ALL:
        return sorted([*held, *queued])[:MAX_QUEUED]
    if schedule.misfire_policy == MISFIRE.SKIP:
        return queued
    most = schedule.max_running if schedule.overlap == OVERLAP.CANCEL_RUNNING else 1
    return sorted([*held, *queued])[-most:]
