"""Whose turn it is: owners with ready jobs of a kind are served in the order of their clocks. See decision 51.

An owner's clock shows how many seconds of slots its jobs have taken, divided by its weight. Who comes, or comes back,
counts on from where those who wait are now, so nobody saves up turns; what it has used beyond that stays on its clock.
Places are kept by owner, never by job, so what an owner has waiting costs a claim nothing.

Statements here lock rows in the order of owners or leave locked ones, and commit by themselves, unless within the
transaction of a test; no claim waits for another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.db import connection

from orchestrator.attempt import prepared
from orchestrator.models import Turn

# Arrivals that one statement reads, and owners that one looks at.
MAX_ARRIVALS = 1_000
MAX_LOOKED_AT = 1_000
# Places of a kind that are forgotten at once.
MAX_FORGOTTEN = 10_000
# Of the priorities: what has it gets no head start.
MIDDLE_PRIORITY = 5
# A newcomer goes just before who waits longest by its clock, unless so many turns were taken since that one's last.
NUDGE = 1e-6
MAX_PASSED_OVER = 1_000
# Seconds that who is kept waiting by a limit may hold the clock of the kind up, in steps of priority: as many as there
# may be between those who are served in turn.
STEPS_BEHIND = 9

# What is lost in a crash is found again, or is a charge of some seconds.
QUICKLY = "SET LOCAL synchronous_commit = off;"

# The most urgent job that an owner has ready. Each owner is looked up by itself: a join would read all that waits.
NEXT_JOB = """
LATERAL (
    SELECT priority FROM orchestrator_job WHERE ready AND kind = {owner}.kind AND owner = {owner}.owner
    ORDER BY rank, id LIMIT 1
)
"""
IS_PAUSED = "(SELECT paused_at FROM orchestrator_ownershare WHERE owner = {owner}.owner) IS NOT NULL"
HEAD_START = "(next.priority - %(middle)s) * %(step)s::float"

# The clock of the kind, which is what those show who have had turns and wait; and not far behind who was served last,
# or just that, where nobody waits. Newcomers do not hold it up, or a stream of them would keep all others waiting.
NOW = f"""
SELECT CASE WHEN head.clock IS NULL THEN coalesce(last.served, 0)
            ELSE greatest(head.clock, last.served - {STEPS_BEHIND} * %(step)s::float) END AS clock,
       CASE WHEN last.turn - head.turn > {MAX_PASSED_OVER} THEN {NUDGE} ELSE -{NUDGE} END AS nudge,
       coalesce(last.turn, 0) AS turn, coalesce(last.served, 0) AS served
FROM (SELECT) AS one
LEFT JOIN (
    SELECT served, turn FROM orchestrator_turn WHERE kind = %(kind)s ORDER BY turn DESC LIMIT 1
) AS last ON true
LEFT JOIN (
    SELECT clock, turn FROM orchestrator_turn WHERE kind = %(kind)s AND NOT idle AND NOT new ORDER BY clock LIMIT 1
) AS head ON true
"""  # noqa: S608 It is made of constants.

HAS_ARRIVALS = "SELECT id FROM orchestrator_arrival WHERE kind = %s ORDER BY kind, id LIMIT 1"

# Gives those who have new jobs a place. By `version` a statement that saw no job of an owner knows that one has come.
ABSORB = f"""
WITH read AS (
    DELETE FROM orchestrator_arrival
    WHERE kind = %(kind)s AND id = ANY(ARRAY(
        SELECT id FROM orchestrator_arrival WHERE kind = %(kind)s ORDER BY kind, id LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id, kind, owner
), newcomer AS MATERIALIZED (
    SELECT kind, owner, min(id) AS since FROM read GROUP BY kind, owner
), now AS MATERIALIZED ({NOW})
INSERT INTO orchestrator_turn AS known (kind, owner, clock, at, since, served, turn, new, idle)
SELECT newcomer.kind, newcomer.owner, now.clock, now.clock + coalesce({HEAD_START}, 0) + now.nudge, newcomer.since,
       now.served, now.turn, true, next.priority IS NULL OR {IS_PAUSED.format(owner="newcomer")}
FROM newcomer CROSS JOIN now LEFT JOIN {NEXT_JOB.format(owner="newcomer")} AS next ON true
ORDER BY newcomer.owner
ON CONFLICT (kind, owner) DO UPDATE
SET (clock, at, since, served, turn, new) = (
        SELECT greatest(known.clock, excluded.clock),
               CASE WHEN known.clock <= excluded.clock THEN excluded.at
                    ELSE known.clock + (excluded.at - excluded.clock) END,
               excluded.since, excluded.served, excluded.turn, true
        WHERE known.idle
        UNION ALL
        SELECT known.clock, least(known.at, known.clock + round((excluded.at - excluded.clock)::numeric, 3)::float),
               known.since, known.served, known.turn, known.new
        WHERE NOT known.idle
    ),
    idle = known.idle AND excluded.idle,
    version = known.version + 1
"""  # noqa: S608

# Counts what was used on the owners' clocks: the function is in migration 0062. See decision 75.
CHARGE = """
SELECT orchestrator_charge_turns(%(kind)s, %(owners)s, %(seconds)s, %(serving)s, %(middle)s, %(step)s)
"""

# Takes those who have nothing ready, and those who are paused, out of the order.
TIDY = f"""
WITH seen AS MATERIALIZED (
    SELECT turn.id, turn.version, next.priority IS NULL OR {IS_PAUSED.format(owner="turn")} AS idle
    FROM unnest(%(kinds)s::text[]) AS wanted (kind)
    CROSS JOIN LATERAL (
        SELECT id, kind, owner, version FROM orchestrator_turn WHERE kind = wanted.kind AND NOT idle
        ORDER BY at, since LIMIT %(limit)s
    ) AS turn
    LEFT JOIN {NEXT_JOB.format(owner="turn")} AS next ON true
), locked AS MATERIALIZED (
    SELECT turn.id FROM orchestrator_turn AS turn WHERE id = ANY(ARRAY(SELECT id FROM seen WHERE idle))
    FOR UPDATE SKIP LOCKED
)
UPDATE orchestrator_turn AS turn SET idle = true
FROM seen
WHERE turn.id = seen.id AND turn.id = ANY(ARRAY(SELECT id FROM locked)) AND turn.version = seen.version
"""  # noqa: S608

# Forgets those whose clocks say no more than a newcomer's would.
FORGET = f"""
DELETE FROM orchestrator_turn WHERE idle AND id = ANY(ARRAY(
    SELECT old.id FROM unnest(%(kinds)s::text[]) AS wanted (kind)
    CROSS JOIN LATERAL ({NOW.replace("%(kind)s", "wanted.kind")}) AS now
    CROSS JOIN LATERAL (
        SELECT id FROM orchestrator_turn
        WHERE kind = wanted.kind AND idle AND clock <= now.clock AND turn < now.turn
        LIMIT %(limit)s
    ) AS old
))
"""  # noqa: S608

# The owners of a kind whose turn it is, in their order, with what operators have set for them, as a FROM item.
IN_TURN = f"""
(
    SELECT turn.owner, share.slot_share
    FROM orchestrator_turn AS turn LEFT JOIN orchestrator_ownershare AS share ON share.owner = turn.owner
    WHERE turn.kind = %(kind)s AND NOT turn.idle AND share.paused_at IS NULL
    ORDER BY turn.at, turn.since LIMIT {MAX_LOOKED_AT}
)
"""  # noqa: S608


def absorb(kind: str) -> bool:
    """Gives those a place who have new jobs of the kind; whether there were any."""
    with connection.cursor() as cursor:
        cursor.execute(HAS_ARRIVALS, [kind])
        if cursor.fetchone() is None:
            return False
        parameters = {"kind": kind, "limit": MAX_ARRIVALS, **_priorities()}
        prepared.execute(cursor, [ABSORB], parameters, before="" if connection.in_atomic_block else QUICKLY)
    return True


def charge(kind: str, seconds: Mapping[str, float], *, serving: bool = True) -> None:
    """Counts on the clocks of owners how long their jobs of the kind have held a slot, or are expected to.

    It may be negative, if less was used than was expected. serving: whether jobs have just been claimed.
    """
    if seconds:
        used = {"owners": list(seconds), "seconds": list(seconds.values()), "serving": serving}
        _execute(CHARGE, {"kind": kind, **used, **_priorities()})


def tidy(kinds: Sequence[str]) -> int:
    """Takes out of the order who has nothing that may start, of those who come first; returns how many."""
    return _execute(TIDY, {"kinds": list(kinds), "limit": MAX_LOOKED_AT})


def forget(kinds: Sequence[str]) -> None:
    """Deletes the places that say nothing any more."""
    _execute(FORGET, {"kinds": list(kinds), "limit": MAX_FORGOTTEN, **_priorities()})


def put_first(kind: str, owner: str) -> None:
    """The next claim of the kind is the owner's, whatever it has used."""
    absorb(kind)
    first = Turn.objects.filter(kind=kind, idle=False).order_by("at").values_list("at", flat=True).first()
    Turn.objects.filter(kind=kind, owner=owner).update(at=(first or 0) - 1, idle=False)


def _execute(sql: str, parameters: dict[str, Any]) -> int:
    """Returns how many rows were written."""
    with connection.cursor() as cursor:
        cursor.execute(sql if connection.in_atomic_block else QUICKLY + sql, parameters)
        return int(cursor.rowcount)


def _priorities() -> dict[str, Any]:
    return {"middle": MIDDLE_PRIORITY, "step": settings.ENV.PRIORITY_STEP_SECONDS}
