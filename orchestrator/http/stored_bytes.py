"""How many bytes the database stores for the unfinished jobs of an owner."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from django.db import connection

from orchestrator.per_process import PerProcess

# Bytes as PostgreSQL stores them, compressed where that helps: payloads of an owner's unfinished jobs, and of all that
# are below them. Other apps add what they store for such jobs. Children are looked up parent by parent, which OFFSET
# ensures: by old statistics PostgreSQL would read the whole table.
PAYLOADS = """
WITH RECURSIVE held AS (
    SELECT id, pg_column_size(payload) AS bytes FROM orchestrator_job
    WHERE owner = %(owner)s AND owner <> '' AND parent_id IS NULL AND status IN ('CREATED', 'RUNNING')
    UNION ALL
    SELECT child.id, child.bytes FROM held CROSS JOIN LATERAL (
        SELECT id, pg_column_size(payload) AS bytes FROM orchestrator_job WHERE parent_id = held.id OFFSET 0
    ) AS child
)
SELECT sum(bytes) FROM held
"""
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


def _measure(owner: str) -> _Measured:
    began_at = time.monotonic()
    found = 0
    with connection.cursor() as cursor:
        for source in SOURCES:
            cursor.execute(source, {"owner": owner})
            found += sum(int(part or 0) for part in cursor.fetchone())
    now = time.monotonic()
    return _Measured(found, now + max(KNOWN_SECONDS, TIMES * (now - began_at)))


_known = PerProcess(_Known)
