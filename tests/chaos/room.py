"""Looks, again and again during a run, for jobs that wait although their limit has room and a slot is free."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator

import psycopg2

from tests.chaos.ledger import Entry, Ledger
from tests.chaos.world import World

LOOK_SECONDS = 0.2
# So long a job may wait.
MAX_WAIT_SECONDS = 1.0
# Between two looks that far apart something may have happened that neither has seen.
MAX_GAP_SECONDS = 1.0

# As `tests.kinds.jobs` declares it: four run at once, and one of a key.
LIMITED, MAX_RUNNING = "tests.effect_limited", 4
# Likewise: two of an owner run at once, and twelve start within two seconds. Its rate changes, but not its period.
OWNED, OWNED_RUNNING, OWNED_RATE = "tests.effect_owned", 2, "12/2s"

# Of the workers that claim jobs. A slot runs the jobs of one claim in turn.
CLAIMING = "SELECT id, slots FROM orchestrator_worker WHERE ended_at IS NULL AND draining_at IS NULL AND queues ? 'io'"
HAS_SLOT = f"""
(
    SELECT count(DISTINCT (worker_id, started_at)) FROM running
    WHERE worker_id IN (SELECT id FROM ({CLAIMING}) AS claiming)
) < (SELECT sum(slots) FROM ({CLAIMING}) AS claiming)
"""

# What was submitted while the clock was ahead, and blocked, waits until it is that late.
COULD_START = "(ready OR blocked_by IS NOT NULL AND run_at <= statement_timestamp())"

# The most urgent of the jobs that could start: the next to do so. And those that the limit of their key blocks though
# no other job of the key runs, or was let go on to do so. One snapshot, so what runs and what waits belong together.
HAVE_ROOM = f"""
WITH waiting AS MATERIALIZED (
    SELECT id, limit_key, ready, rank FROM orchestrator_job
    WHERE kind = '{LIMITED}' AND status = 'CREATED' AND cancel_requested_at IS NULL
      AND {COULD_START}
), running AS MATERIALIZED (
    SELECT kind, limit_key, worker_id, started_at FROM orchestrator_job WHERE queue = 'io' AND worker_id IS NOT NULL
), of_kind AS MATERIALIZED (
    SELECT limit_key FROM running WHERE kind = '{LIMITED}'
)
(
    SELECT id::text FROM waiting
    WHERE {HAS_SLOT}
      AND (SELECT count(*) FROM of_kind) < (
        SELECT coalesce((limits ->> 'max_running')::integer, {MAX_RUNNING}) FROM orchestrator_kind
        WHERE name = '{LIMITED}'
    )
      AND limit_key NOT IN (SELECT limit_key FROM of_kind)
    ORDER BY rank, id LIMIT 1
)
UNION
SELECT id::text FROM waiting AS blocked
WHERE NOT ready AND limit_key NOT IN (SELECT limit_key FROM of_kind)
  AND NOT EXISTS (SELECT FROM waiting WHERE waiting.ready AND waiting.limit_key = blocked.limit_key)
"""


# Of each owner the most urgent job, while the owner has fewer running than the limit, and fewer starts within the
# period than the rate. Those that are not ready yet are let go on in the order of their places, too.
OWNERS_HAVE_ROOM = f"""
WITH waiting AS MATERIALIZED (
    SELECT DISTINCT ON (owner) id, owner FROM orchestrator_job
    WHERE kind = '{OWNED}' AND status = 'CREATED' AND cancel_requested_at IS NULL
      AND {COULD_START}
    ORDER BY owner, rank, id
), running AS MATERIALIZED (
    SELECT kind, owner, worker_id, started_at FROM orchestrator_job WHERE queue = 'io' AND worker_id IS NOT NULL
), kind AS MATERIALIZED (
    SELECT coalesce((limits ->> 'max_running_per_owner')::integer, {OWNED_RUNNING}) AS max_running,
           split_part(coalesce(limits ->> 'rate', '{OWNED_RATE}'), '/', 1)::integer AS starts
    FROM orchestrator_kind WHERE name = '{OWNED}'
)
SELECT id::text FROM waiting, kind
WHERE {HAS_SLOT}
  AND (SELECT count(*) FROM running WHERE running.kind = '{OWNED}' AND running.owner = waiting.owner) < max_running
  AND (
    SELECT count(*) FROM orchestrator_ratestart start
    WHERE start.kind = '{OWNED}' AND lane = 'rate_per_owner:' || waiting.owner
      AND start.started_at > statement_timestamp() - interval '2 seconds'
  ) < starts
"""


class Looks(threading.Thread):
    """Notes what it sees until it is told to stop."""

    def __init__(self, world: World, ledger: Ledger, stopping: threading.Event) -> None:
        super().__init__(name="looks", daemon=True)
        self._world = world
        self._ledger = ledger
        self._stopping = stopping

    def run(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                rows = [row for query in (HAVE_ROOM, OWNERS_HAVE_ROOM) for row in self._world.query(query, patience=0)]
            except psycopg2.Error:
                continue
            self._ledger.note("look", waiting=[id for [id] in rows])


def waited_with_room(looks: Collection[Entry], faults: Collection[tuple[float, float]]) -> Iterator[tuple[str, float]]:
    """The jobs that each of the looks of more than MAX_WAIT_SECONDS has seen waiting, and for how long.

    looks: as `Looks` notes them. faults: from when to when the system was hurt or recovering, in seconds since 1970;
    what waits then is not counted.
    """
    since: dict[str, float] = {}
    last_at = 0.0
    for look in looks:
        at: float = look["at"]
        if at - last_at > MAX_GAP_SECONDS or any(begin <= at and last_at <= end for begin, end in faults):
            since = {}
        else:
            gone = since.keys() - set(look["waiting"])
            yield from ((id, last_at - since.pop(id)) for id in gone if last_at - since[id] > MAX_WAIT_SECONDS)
            since = {id: since.get(id, at) for id in look["waiting"]}
        last_at = at
    yield from ((id, last_at - began) for id, began in since.items() if last_at - began > MAX_WAIT_SECONDS)
