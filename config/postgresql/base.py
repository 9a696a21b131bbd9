"""What Django connects to PostgreSQL with."""

from __future__ import annotations

import select
import time
from typing import Any

from django.db.backends.postgresql import base

from orchestrator.attempt.watched_connection import WatchedConnection

# A connection that was used so lately is asked whether it works only where something has come over it.
LATELY_SECONDS = 5.0
# One that was used just now is not even looked at, since that takes a busy process as long as a short statement: it
# is used again as if by the same request.
JUST_NOW_SECONDS = 0.1


class DatabaseWrapper(base.DatabaseWrapper):
    """Before the first statement of a request Django sends another one, to see whether the connection still works. A
    server that has stopped, or has ended the session, has closed the connection, or said why: without a statement its
    socket tells. After a while it is asked all the same, since a network may have forgotten the connection.
    """

    # As Django's own, whose stubs do not have them.
    health_check_enabled: bool
    health_check_done: bool

    _looked_at = 0.0

    def get_connection_params(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super().get_connection_params()
        return {"connection_factory": WatchedConnection} | parameters

    def close_if_health_check_failed(self) -> None:
        if self.connection is None or not self.health_check_enabled or self.health_check_done:
            return
        before, self._looked_at = self._looked_at, time.monotonic()
        idle_seconds = self._looked_at - before
        if idle_seconds < JUST_NOW_SECONDS or (idle_seconds < LATELY_SECONDS and _is_quiet(self.connection)):
            self.health_check_done = True
        else:
            super().close_if_health_check_failed()


def _is_quiet(connection: Any) -> bool:
    """Whether nothing has come since the last answer, not even the end of the connection."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)
