"""How many slots of a queue an owner may hold: a running job is not stopped for another, so some stay free for others.

What holds a slot is what is leased: the jobs of one claim, which one slot runs in turn, or an async job. They are
counted by the statement that claims, which has the owner's lock until it commits: so no number of workers exceeds the
share, and no slot leaks, whatever becomes of a worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from django.conf import settings

from orchestrator.claimed import Claimed
from orchestrator.kinds import Kind, all_kinds
from orchestrator.queue.turns import IN_TURN

# What PICK returns if it finds no owner.
NOBODY = "{}"
# Owners whose jobs one claim takes, at most.
MAX_OWNERS = 32
# How many jobs of each owner the last claim of a kind has taken, in this process. The next one picks twice as many
# owners as it needs then: each that is picked is looked up and locked.
_jobs_an_owner: dict[str, float] = {}

# All slots of the queue.
SLOTS = """
(
    SELECT sum(coalesce(%(async_slots)s, slots)) FROM orchestrator_worker
    WHERE ended_at IS NULL AND queues ? %(queue)s
)
"""
SET_SHARE = "(SELECT slot_share FROM orchestrator_ownershare WHERE owner = {owner})"
# The most slots that an owner may hold; null: all of them. Jobs without an owner are nobody's, and are limited only
# where an operator says so.
LIMIT = """
(
    SELECT CASE WHEN share < 1 THEN greatest(1, ceil(share * {slots})) END
    FROM (SELECT coalesce({set_share}, CASE WHEN {owner} = '' THEN 1 ELSE %(share)s::float END) AS share) AS _
)
"""
# By which the slots that run leased jobs are told apart.
SLOT = "worker_id, started_at"
# Those that it holds.
HELD = """
(
    SELECT count(*) FROM (
        SELECT DISTINCT {slot} FROM orchestrator_job
        WHERE queue = %(queue)s AND owner = {owner} AND worker_id IS NOT NULL AND kind = ANY(%(kinds)s)
    ) AS held
)
"""
# How many of its jobs may be claimed.
OWN_LIMIT = LIMIT.replace("{slots}", SLOTS).replace("{set_share}", SET_SHARE)
FREE = f"CASE WHEN {OWN_LIMIT} <= {HELD} THEN 0 ELSE %(at_most)s END"
FREE_APART = f"least(%(at_most)s, greatest(0, coalesce({OWN_LIMIT} - {HELD}, %(at_most)s)))"

# Who was picked, in that order, as a FROM item.
PICKED = "unnest(current_setting('muster.picked')::text[])"
LOCK_KEY = "hashtextextended('slots of ' || %(queue)s || ' ' || owner, 0)"

# Picks the owners whose turn it is, and who have slots free, for the next statement of the same transaction. The first
# one's lock is waited for, which holds nothing else; of the others who is locked is left. By OFFSET 0 an owner's limit
# is computed once.
PICK = """
WITH slots AS MATERIALIZED (
    SELECT {slots} AS count
), candidate AS MATERIALIZED (
    SELECT in_turn.owner, row_number() OVER () AS place, in_turn.allowed IS NOT NULL AS is_limited
    FROM (
        SELECT in_turn.owner, {limit} AS allowed FROM {in_turn} AS in_turn OFFSET 0
    ) AS in_turn
    CROSS JOIN LATERAL (
        SELECT FROM orchestrator_job WHERE ready AND kind = %(kind)s AND owner = in_turn.owner
        ORDER BY rank, id LIMIT 1
    ) AS job
    WHERE CASE WHEN in_turn.allowed IS NULL THEN true ELSE in_turn.allowed > {held} END
    LIMIT %(most)s
), picked AS MATERIALIZED (
    SELECT owner, place FROM candidate WHERE CASE
        WHEN NOT is_limited THEN true
        WHEN {waits} AND place = 1 THEN pg_advisory_xact_lock({key}) IS NOT NULL
        ELSE pg_try_advisory_xact_lock({key})
    END
)
SELECT set_config('muster.picked', coalesce((SELECT array_agg(owner ORDER BY place) FROM picked), '{{}}')::text, true)
"""


def free(kind: Kind, owner: str, *, apart: bool = False) -> str:
    """SQL for how many jobs of the kind the owner may start now. owner: SQL for its name.

    apart: each in a slot of its own; otherwise one slot runs them in turn. Async jobs always have their own.
    """
    sql = FREE_APART if apart or kind.is_async else FREE
    return sql.replace("{slot}", _slot(kind)).replace("{owner}", owner)


def pick(kind: Kind, *, waits: bool = True) -> str:
    """The statement that picks owners. waits: for the lock of the first; not if the transaction holds others."""
    owner = "in_turn.owner"
    return PICK.format(
        slots=SLOTS,
        in_turn=IN_TURN,
        limit=LIMIT.format(owner=owner, slots="(SELECT count FROM slots)", set_share="in_turn.slot_share"),
        held=HELD.format(owner=owner, slot=_slot(kind)),
        waits=waits,
        key=LOCK_KEY,
    )


def _slot(kind: Kind) -> str:
    return "id" if kind.is_async else SLOT


def claimed(kind: Kind, jobs: Sequence[Claimed], *, is_all: bool) -> None:
    """What a claim of picked owners has taken. is_all: as many as were wanted, or as were ready."""
    _jobs_an_owner.pop(kind.name, None)
    if jobs and is_all:
        _jobs_an_owner[kind.name] = len(jobs) / len({job.owner for job in jobs})


def parameters(kind: Kind, *, at_most: int = MAX_OWNERS) -> dict[str, Any]:
    """Of these statements. Async jobs have slots of their own."""
    return {
        "most": min(at_most, MAX_OWNERS, ceil(2 * at_most / _jobs_an_owner.get(kind.name, 1))),
        "queue": kind.queue,
        "share": settings.ENV.OWNER_SLOT_SHARE,
        "async_slots": settings.ENV.ASYNC_SLOTS if kind.is_async else None,
        "kinds": [each.name for each in all_kinds() if each.queue == kind.queue and each.is_async == kind.is_async],
    }
