"""Lets jobs go on that a limit has blocked: when there is room in their lane, the most urgent of it is ready again.

That is no promise: the next claim counts anew. So to let too many go on is harmless, and what was forgotten, because a
process died or a limit was changed, the tick does within a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from operator import itemgetter

from django.db import connection, transaction
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from orchestrator.claimed import Claimed
from orchestrator.database_errors import DATABASE_ERRORS
from orchestrator.kinds import known_kind
from orchestrator.limits import Limits
from orchestrator.models import Job, RateWait
from orchestrator.per_process import PerProcess
from orchestrator.queue import bell, kind_limits, lanes
from orchestrator.queue.alarms import Alarms
from orchestrator.queue.by_indexes import by_indexes
from orchestrator.queue.lanes import LET_GO_OR_RUNNING, Lanes

logger = logging.getLogger(__name__)

# Most lanes that one statement, and one look of the tick, lets go on.
LANES_AT_ONCE = 1_000
# How many jobs go on at once of a lane whose limit is gone.
WITHOUT_LIMIT = 1_000
# How long whoever changes a limit works through the lanes itself.
LOOK_SECONDS = 0.5
# What a rate has let go on, and nobody starts, is looked at again.
LOOK_AGAIN = timedelta(seconds=1)

# The kind's gate, until the transaction ends. A batch of transactional jobs holds it all the while.
GATE = "SELECT pg_advisory_xact_lock(hashtextextended('limits of ' || %(kind)s, 0))"
TRY_GATE = "SELECT pg_try_advisory_xact_lock(hashtextextended('limits of ' || %(kind)s, 0))"

LET_GO = """
UPDATE orchestrator_job
SET ready = true, blocked_by = NULL, limited = true, updated_at = clock_timestamp()
WHERE id = ANY(ARRAY(
    SELECT head.id FROM unnest(%(lanes)s::text[], %(counts)s::integer[]) AS lane (name, count)
    CROSS JOIN LATERAL (
        SELECT id FROM orchestrator_job
        WHERE kind = %(kind)s AND blocked_by = lane.name AND finished_at IS NULL
          AND NOT ready AND worker_id IS NULL AND unfinished_dependencies = 0 AND NOT unwinding
          AND run_at <= clock_timestamp()
        ORDER BY rank, id
        LIMIT lane.count
        FOR UPDATE SKIP LOCKED
    ) AS head
))
"""

# When the jobs in lanes of rates are to be looked at again.
NOTE_WAITS = """
INSERT INTO orchestrator_ratewait (kind, lane, due_at)
SELECT %(kind)s, wait.lane, clock_timestamp() + wait.delay
FROM unnest(%(lanes)s::text[], %(delays)s::interval[]) AS wait (lane, delay)
ON CONFLICT (kind, lane) DO UPDATE SET due_at = excluded.due_at
"""

# The next lanes in which jobs wait, each found by an index.
BLOCKED_LANES = """
WITH RECURSIVE lanes AS (
    SELECT %(kind)s::text AS kind, %(lane)s::text AS lane
    UNION ALL
    SELECT next.kind, next.blocked_by FROM lanes CROSS JOIN LATERAL (
        SELECT kind, blocked_by FROM orchestrator_job
        WHERE blocked_by IS NOT NULL AND finished_at IS NULL AND (kind, blocked_by) > (lanes.kind, lanes.lane)
        ORDER BY kind, blocked_by LIMIT 1
    ) AS next
)
SELECT kind, lane FROM lanes OFFSET 1 LIMIT %(at_most)s
"""

# Leased jobs that were claimed just before their kind had a limit.
COUNT_LEASED = """
UPDATE orchestrator_job SET limited = true
WHERE id = ANY(ARRAY(
    SELECT id FROM orchestrator_job
    WHERE worker_id IS NOT NULL AND NOT limited AND kind IN (SELECT name FROM orchestrator_kind WHERE limited)
    FOR UPDATE SKIP LOCKED
))
"""


def released_after_commit(jobs: Iterable[Job | Claimed]) -> None:
    """The jobs, of one kind, do not run or wait any more: after the commit others of their lanes go on."""
    jobs = list(jobs)
    if jobs and kind_limits.known_limits_of(jobs[0].kind).holds_back:
        transaction.on_commit(partial(_released, jobs))


def _released(jobs: Collection[Job | Claimed]) -> None:
    """Never raises: what is not done here the tick does."""
    name = next(iter(jobs)).kind
    try:
        let_others_go(jobs)
    except DATABASE_ERRORS as error:
        logger.warning("Jobs of kind %s that wait for a limit are left to the next tick: %s", name, error)
    kind = known_kind(name)
    if kind and kind.is_async:
        # No slot of its own claims again when it has ended.
        bell.ring(name)


def let_others_go(jobs: Collection[Job | Claimed]) -> None:
    """The jobs, of one kind, do not run or wait any more: others of their lanes go on."""
    for job in jobs:
        limits = kind_limits.known_limits_of(job.kind)
        if limits.holds_back:
            let_go(job.kind, {lane for each in jobs for lane in Lanes(limits).of(each.owner, each.limit_key)})
        return


def let_go(kind: str, waited_for: Collection[str]) -> int:
    """Lets as many jobs of these lanes go on as there is room for, the most urgent first; returns how many.

    Behind the kind's gate: who claims has either seen who left the lane before, or what it has blocked is seen here.
    """
    if not waited_for:
        return 0
    with transaction.atomic():
        return let_go_behind_gate(kind, kind_limits.known_limits_of(kind), waited_for) if pass_gate(kind) else 0


def pass_gate(name: str) -> bool:
    """Locks the kind's gate until the transaction ends; False if a batch of it runs, which holds the gate all the
    while.
    """
    kind = known_kind(name)
    waits = kind is not None and kind.execution == "leased"
    with connection.cursor() as cursor:
        cursor.execute(GATE if waits else TRY_GATE, {"kind": name})
        return cursor.fetchone()[0] is not False


def let_go_behind_gate(kind: str, limits: Limits, waited_for: Collection[str]) -> int:
    """Does so within a transaction that has passed the gate."""
    room = lanes.room(kind, limits, waited_for, counted=LET_GO_OR_RUNNING)
    counts = {lane: left if (left := room.left(lane)) is not None else WITHOUT_LIMIT for lane in waited_for}
    open_lanes = [lane for lane in sorted(counts) if counts[lane]]
    with connection.cursor() as cursor:
        cursor.execute(LET_GO, {"kind": kind, "lanes": open_lanes, "counts": [counts[lane] for lane in open_lanes]})
        count = int(cursor.rowcount)
    if count:
        bell.ring_after_commit(kind)
    return count


def note_waits(kind: str, limits: Limits, rated: Collection[str]) -> None:
    """Jobs wait in these lanes of rates, which are to be looked at again when they have room."""
    if not rated:
        return
    room = lanes.room(kind, limits, rated)
    delays = {lane: room.full_for.get(lane, timedelta(0)) for lane in sorted(set(rated))}
    with connection.cursor() as cursor:
        cursor.execute(NOTE_WAITS, {"kind": kind, "lanes": list(delays), "delays": list(delays.values())})
    transaction.on_commit(partial(look_again, kind, min(delays.values())))


def note_known_waits(kind: str, limits: Limits, rated: Collection[str]) -> None:
    """Does so for those in which jobs wait."""
    known = RateWait.objects.filter(kind=kind, lane__in=rated).values_list("lane", flat=True)
    note_waits(kind, limits, list(known))


def let_due_go(kind: str | None = None) -> None:
    """Lets jobs go on whose rates have room again, of all kinds or of one."""
    due = RateWait.objects.filter(due_at__lte=Now()).order_by("due_at")
    if kind is not None:
        due = due.filter(kind=kind)
    for name, waits in _by_kind(due.values_list("kind", "lane")[:LANES_AT_ONCE]):
        with transaction.atomic():
            if not pass_gate(name):
                continue
            let_go_behind_gate(name, kind_limits.known_limits_of(name), waits)
            here = RateWait.objects.filter(kind=name, lane__in=waits)
            here.exclude(_someone_waits()).delete()
            here.update(due_at=Now() + LOOK_AGAIN)


def look_at_all() -> None:
    """A part of each look of the tick: the next lanes in which jobs wait, and leased jobs that are not counted yet."""
    with by_indexes(), connection.cursor() as cursor:
        cursor.execute(COUNT_LEASED)
    look_at_next(_position())


@dataclass
class Position:
    """Where the ticks of this process are in the lanes in which jobs wait."""

    kind: str = ""
    lane: str = ""


def look_at_next(position: Position, *, only: str | None = None) -> bool:
    """Lets jobs go on in the next lanes that have room; returns whether there are more lanes."""
    kind_limits.refresh()
    with connection.cursor() as cursor:
        cursor.execute(BLOCKED_LANES, {"kind": position.kind, "lane": position.lane, "at_most": LANES_AT_ONCE})
        found = [lane for lane in cursor.fetchall() if only in (None, lane[0])]
    for name, waits in _by_kind(found):
        let_go(name, waits)
    has_more = len(found) == LANES_AT_ONCE
    position.kind, position.lane = found[-1] if has_more else ("", "")
    return has_more


def limits_changed(kind: str) -> None:
    """Has the limits of the kind take effect for what waits for them; the next ticks do what would take long."""
    kind_limits.forget()
    with by_indexes(), connection.cursor() as cursor:
        cursor.execute(COUNT_LEASED)
    position = Position(kind)
    ends_at = time.monotonic() + LOOK_SECONDS
    while look_at_next(position, only=kind) and time.monotonic() < ends_at:
        pass
    bell.ring_after_commit(kind)


def _by_kind(found: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    return [(kind, [lane for _, lane in each]) for kind, each in groupby(sorted(found), key=itemgetter(0))]


def _someone_waits() -> Exists:
    return Exists(Job.objects.filter(kind=OuterRef("kind"), blocked_by=OuterRef("lane"), finished_at=None))


_position = PerProcess(Position)


def look_again(kind: str, delay: timedelta) -> None:
    """Has the kind looked at when its rate has room again, after that time. Never raises."""
    _alarms().add(kind, delay)


def _rate_has_room(kind: str) -> None:
    let_due_go(kind)
    bell.ring(kind)


_alarms = PerProcess(lambda: Alarms(_rate_has_room))
