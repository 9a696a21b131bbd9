"""The row of a process, which is the lease on all jobs that it runs, and the connection on which it is renewed."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.functions import Now
from psycopg2.extras import Json, execute_values

from orchestrator.connection_options import add_options
from orchestrator.failpoints import Failpoint
from orchestrator.host import host, process_started
from orchestrator.kinds import Kind, all_kinds
from orchestrator.models import Worker
from orchestrator.queue.kind_limits import HOLDS_BACK

logger = logging.getLogger(__name__)

worker_registered = Failpoint("worker-registered")

# Renews the lease of all jobs that this process runs; updates no row if it was declared dead meanwhile.
RENEW = """
UPDATE orchestrator_worker
SET seen_at = clock_timestamp(),
    draining_at = CASE WHEN %(draining)s THEN coalesce(draining_at, clock_timestamp()) END
WHERE id = %(id)s AND ended_at IS NULL
"""

# The kinds that this process can run, for the admin and the API, and for the tick, which rings for them.
# What operators have set instead of the limits that it declares stays.
REPORT_KINDS = f"""
INSERT INTO orchestrator_kind AS known (name, queue, description, keep_days, declared_limits, limited) VALUES %s
ON CONFLICT (name) DO UPDATE
SET queue = excluded.queue, description = excluded.description, keep_days = excluded.keep_days,
    declared_limits = excluded.declared_limits,
    limited = {HOLDS_BACK.format(declared="excluded.declared_limits", overrides="known.limits")}
WHERE (known.queue, known.description, known.keep_days, known.declared_limits)
      IS DISTINCT FROM (excluded.queue, excluded.description, excluded.keep_days, excluded.declared_limits)
"""  # noqa: S608 It is made of constants.

# For what must go on while others have locked a whole table, or wait for a handler of this process to do so.
SHORT_LOCK_WAIT = "-c lock_timeout=1s"


def separate_connection() -> BaseDatabaseWrapper:
    """A connection for statements that must not be part of any handler's transaction, for all threads.

    They wait for locks only briefly, and need not survive a crash of PostgreSQL, which ends every attempt anyway.
    """
    separate = connections.create_connection(DEFAULT_DB_ALIAS)
    add_options(separate, f"{SHORT_LOCK_WAIT} -c synchronous_commit=off")
    separate.inc_thread_sharing()
    return separate


class HeartbeatConnection:
    """Runs quick statements for all threads, each in a transaction of its own."""

    def __init__(self) -> None:
        self._connection = separate_connection()
        self._lock = threading.Lock()

    def execute(self, sql: str, parameters: dict[str, Any]) -> int:
        """Returns how many rows were written."""
        with self._lock, self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return int(cursor.rowcount)

    def execute_values(self, sql: str, rows: Sequence[Sequence[Any]], *, template: str) -> None:
        with self._lock, self._connection.cursor() as cursor:
            execute_values(cursor.cursor, sql, rows, template=template, page_size=len(rows))

    def fetch(self, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        with self._lock, self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())

    def close(self) -> None:
        with self._lock:
            self._connection.close()


class Lease:
    """This process's row; a new one after the process was declared dead."""

    def __init__(self, name: str, queues: Sequence[str], slots: int, connection: HeartbeatConnection) -> None:
        self.name = name
        self.queues = list(queues)
        self.slots = slots
        self.connection = connection
        self.row_id: int | None = None
        self.registered = threading.Event()
        self.renewed_at = 0.0

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self.renewed_at >= settings.ENV.HEARTBEAT_SECONDS

    def register(self) -> None:
        """Inserts the row, and writes the kinds that this process can run: both or, if the database fails, neither."""
        with transaction.atomic(), connection.cursor() as cursor:
            row = Worker.objects.create(
                name=self.name,
                queues=self.queues,
                slots=self.slots,
                host=host(),
                pid=os.getpid(),
                process_started=process_started(os.getpid()) or "",
            )
            execute_values(
                cursor.cursor,
                REPORT_KINDS,
                [_reported(kind) for kind in all_kinds()],
            )
        self.row_id = row.id
        self.renewed_at = time.monotonic()
        worker_registered()
        self.registered.set()

    def renew(self, *, draining: bool) -> bool:
        """Returns False if the process was declared dead: its jobs were taken back, and it needs another row."""
        if not self.connection.execute(RENEW, {"id": self.row_id, "draining": draining}):
            logger.error("%s was declared dead and its jobs were taken back; it continues with a new row.", self.name)
            self.registered.clear()
            return False
        self.renewed_at = time.monotonic()
        return True

    def close(self) -> None:
        try:
            if self.row_id is not None:
                Worker.objects.filter(id=self.row_id).update(ended_at=Now(), in_flight_batch={})
        except Exception as error:
            logger.warning("The row of %s was not closed; the tick will do so: %s", self.name, error)


def _reported(kind: Kind) -> tuple[Any, ...]:
    limits = kind.limits
    return kind.name, kind.queue, kind.description, kind.keep_days, Json(limits.as_json()), limits.holds_back
