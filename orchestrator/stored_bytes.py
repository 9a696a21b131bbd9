"""How many bytes the database stores for the unfinished jobs of an owner."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import QuerySet

from orchestrator.per_process import PerProcess

# The jobs that an owner is charged for.
UNFINISHED = """
SELECT id FROM orchestrator_job
WHERE owner = %s AND owner <> '' AND parent_id IS NULL AND status IN ('CREATED', 'RUNNING')
"""
# Bytes as PostgreSQL stores them, compressed where that helps: payloads of jobs, and of all that are below them, what
# their steps have beside, and the signals that were sent to those that wait. Other apps add what they store for such
# jobs. All is looked up job by job, which OFFSET ensures: by old statistics PostgreSQL would read whole tables. Most
# jobs are no steps, have none, and wait for no signal, so nothing more is looked up for them.
HELD = (
    "id, pg_column_size(payload) AS bytes, parent_id IS NOT NULL OR unresolved OR unfinished_dependencies > 0 AS more"
)
PAYLOADS = f"""
WITH RECURSIVE held AS (
    SELECT {HELD} FROM orchestrator_job WHERE id IN ({{jobs}})
    UNION ALL
    SELECT child.* FROM held CROSS JOIN LATERAL (
        SELECT {HELD} FROM orchestrator_job WHERE parent_id = held.id OFFSET 0
    ) AS child
)
SELECT sum(held.bytes + coalesce(step.bytes, 0) + coalesce(signal.bytes, 0))
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

    def of(self, owner: str) -> int:
        known = self._measured.get(owner)
        if known is None or known.until < time.monotonic():
            known = _measure(owner)
            with self._lock:
                if len(self._measured) >= MAX_KNOWN:
                    self._measured.clear()
                self._measured[owner] = known
        return known.bytes

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
    return _known().of(owner)


def add(owner: str, more: int) -> None:
    """So many bytes are submitted for the owner."""
    _known().add(owner, more)


def forget() -> None:
    """Has them measured anew."""
    _known().forget()


def measure(jobs: QuerySet[Any]) -> int:
    """What is stored for these jobs, and for all below them, whether they have ended or not."""
    return _sum(*jobs.order_by().values("id").query.sql_with_params())


def _measure(owner: str) -> _Measured:
    began_at = time.monotonic()
    found = _sum(UNFINISHED, [owner])
    now = time.monotonic()
    return _Measured(found, now + max(KNOWN_SECONDS, TIMES * (now - began_at)))


def _sum(jobs: str, parameters: Sequence[Any]) -> int:
    found = 0
    with connection.cursor() as cursor:
        for source in SOURCES:
            cursor.execute(source.format(jobs=jobs), parameters)
            [bytes] = cursor.fetchone()
            found += int(bytes or 0)
    return found


_known = PerProcess(_Known)
