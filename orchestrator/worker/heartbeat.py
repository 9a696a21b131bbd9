"""The thread that renews a process's lease and looks after what runs in it, once a second."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

from django.db import connection

from orchestrator.connection_options import add_options
from orchestrator.database_errors import DATABASE_ERRORS, is_lock_timeout
from orchestrator.worker.lease import SHORT_LOCK_WAIT, HeartbeatConnection

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0


class Heartbeat:
    def __init__(self, name: str, heartbeat_connection: HeartbeatConnection, close: Callable[[], None]) -> None:
        """close: called after the last beat."""
        self.parts: list[Callable[[], None]] = []
        self.database_failed_at = -math.inf
        self._name = name
        self._connection = heartbeat_connection
        self._close = close
        self._ended = threading.Event()
        self._beat_now = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def beat_soon(self) -> None:
        self._beat_now.set()

    def end(self, timeout_seconds: float) -> None:
        """Ends the thread after its last beat, and waits for that for so long."""
        self._ended.set()
        self._beat_now.set()
        self._thread.join(timeout_seconds)

    def beat(self) -> None:
        """Runs each part, even if others fail."""
        for part in self.parts:
            try:
                part()
            # The database is down, or something is locked. The lease lasts if the database is back before it expires.
            except Exception as error:
                logger.warning("The heartbeat of %s failed: %s", self._name, error)
                if isinstance(error, DATABASE_ERRORS) and not is_lock_timeout(error):
                    self.database_failed_at = time.monotonic()
                self.close_connections()

    def close_connections(self) -> None:
        self._connection.close()
        connection.close()

    def _live(self) -> None:
        add_options(connection, SHORT_LOCK_WAIT)
        while not self._ended.is_set():
            self.beat()
            self._beat_now.wait(BEAT_SECONDS)
            self._beat_now.clear()
        self._close()
        self.close_connections()
