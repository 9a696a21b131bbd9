"""How many bytes the database stores for the unfinished jobs of owners."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import QuerySet

from orchestrator.per_process import PerProcess

# The jobs that owners are charged for.
UNFINISHED = """
SELECT id, owner FROM orchestrator_job
WHERE owner = ANY(%s) AND owner <> '' AND parent_id IS NULL AND status IN ('CREATED', 'RUNNING')
"""
# Bytes as PostgreSQL stores them, compressed where that helps: payloads of jobs, and of all that are below them, what
# their steps have beside, and the signals that were sent to those that wait, by owner. Other apps add what they store
# for such jobs. All is looked up job by job, which OFFSET ensures: by old statistics PostgreSQL would read whole
# tables. Most jobs are no steps, have none, and wait for no signal, so nothing more is looked up for them.
HELD = (
    "id, pg_column_size(payload) AS bytes, parent_id IS NOT NULL OR unresolved OR unfinished_dependencies > 0 AS more"
)
PAYLOADS = f"""
WITH RECURSIVE held AS (
    SELECT root.owner, job.* FROM ({{jobs}}) AS root CROSS JOIN LATERAL (
        SELECT {HELD} FROM orchestrator_job WHERE id = root.id OFFSET 0
    ) AS job
    UNION ALL
    SELECT held.owner, child.* FROM held CROSS JOIN LATERAL (
        SELECT {HELD} FROM orchestrator_job WHERE parent_id = held.id OFFSET 0
    ) AS child
)
SELECT held.owner, sum(held.bytes + coalesce(step.bytes, 0) + coalesce(signal.bytes, 0))
FROM held
LEFT JOIN LATERAL (
    SELECT coalesce(pg_column_size(payload), 0) + coalesce(pg_column_size(condition), 0)
         + coalesce(pg_column_size(wait), 0) + coalesce(pg_column_size("each"), 0)
         + coalesce(pg_column_size(nested), 0) + coalesce(pg_column_size(compensate), 0) AS bytes
    FROM orchestrator_step WHERE held.more AND job_id = held.id OFFSET 0
) AS step ON true
LEFT JOIN LATERAL (
    SELECT sum(pg_column_size(body)) AS bytes FROM orchestrator_signal WHERE held.more AND job_id = held.id OFFSET 0
) AS signal ON true
GROUP BY held.owner
"""  # noqa: S608 It is made of constants.
SOURCES = [PAYLOADS]

# What was measured is known for so long: at least a second, and so many times what it took, since each submission of
# an owner with many jobs would read all of them.
KNOWN_SECONDS, TIMES = 1.0, 50
# Owners of whom a process knows.
MAX_KNOWN = 10_000


class _Measured(NamedTuple):
    bytes: int
    until: float


class _Known:
    """What this process has measured, and what it has accepted since."""

    def __init__(self) -> None:
        self._measured: dict[str, _Measured] = {}
        self._lock = threading.Lock()

    def of(self, owners: Collection[str]) -> dict[str, int]:
        now = time.monotonic()
        known = {owner: each for owner in owners if (each := self._measured.get(owner)) and each.until >= now}
        if asked := [owner for owner in owners if owner not in known]:
            measured = _measure(asked)
            with self._lock:
                if len(self._measured) + len(measured) > MAX_KNOWN:
                    self._measured.clear()
                self._measured.update(measured)
            known |= measured
        return {owner: each.bytes for owner, each in known.items()}

    def add(self, owner: str, more: int) -> None:
        with self._lock:
            if known := self._measured.get(owner):
                self._measured[owner] = known._replace(bytes=known.bytes + more)

    def forget(self) -> None:
        self._measured.clear()


def stored_bytes(owner: str) -> int:
    """As they were measured a second ago at most, or longer if it takes long, with what this process has added since.
    More only than there are if what was added was not submitted, or has ended.
    """
    return stored_bytes_of([owner])[owner]


def stored_bytes_of(owners: Collection[str]) -> dict[str, int]:
    """The same of many owners, by owner; those that have to be measured are measured together."""
    return _known().of(owners)


def add(owner: str, more: int) -> None:
    """So many bytes are submitted for the owner."""
    _known().add(owner, more)


def forget() -> None:
    """Has them measured anew."""
    _known().forget()


def measure(jobs: QuerySet[Any]) -> int:
    """What is stored for these jobs, and for all below them, whether they have ended or not."""
    return sum(_by_owner(*jobs.order_by().values("id", "owner").query.sql_with_params()).values())


def _measure(owners: Sequence[str]) -> dict[str, _Measured]:
    began_at = time.monotonic()
    found = _by_owner(UNFINISHED, [list(owners)])
    now = time.monotonic()
    until = now + max(KNOWN_SECONDS, TIMES * (now - began_at))
    return {owner: _Measured(found[owner], until) for owner in owners}


def _by_owner(jobs: str, parameters: Sequence[Any]) -> Counter[str]:
    found: Counter[str] = Counter()
    with connection.cursor() as cursor:
        for source in SOURCES:
            cursor.execute(source.format(jobs=jobs), parameters)
            found.update({owner: int(bytes or 0) for owner, bytes in cursor.fetchall()})
    return found


_known = PerProcess(_Known)
