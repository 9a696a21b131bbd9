"""Alarms of a process: a kind is looked at when its rate has room again. The tick would do so only every second."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from django.db import connection

logger = logging.getLogger(__name__)

# Further off than this an alarm is left to the tick; and so many are kept at most.
MAX_DELAY_SECONDS = 3_600.0
MAX_ALARMS = 10_000
# Alarms of a kind this close together are one, so that one look serves many lanes.
MERGE_SECONDS = 0.01


class Alarms:
    """A thread that looks at kinds when their times come. They are forgotten with the process."""

    def __init__(self, look: Callable[[str], object]) -> None:
        self._look = look
        self._due: list[tuple[float, str]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._serve, name="alarms", daemon=True).start()

    def add(self, kind: str, delay: timedelta) -> None:
        """Has the kind looked at after the delay. Never raises, never waits."""
        at = time.monotonic() + max(0.0, delay.total_seconds())
        if delay.total_seconds() > MAX_DELAY_SECONDS:
            return
        with self._changed:
            is_set = any(name == kind and abs(due - at) < MERGE_SECONDS for due, name in self._due[:100])
            if not is_set and len(self._due) < MAX_ALARMS:
                heapq.heappush(self._due, (at, kind))
                self._changed.notify()

    def _serve(self) -> None:
        while True:
            kinds = self._wait()
            try:
                for kind in kinds:
                    self._look(kind)
            # The tick looks, too.
            except Exception as error:
                logger.debug("A kind whose rate has room again was not looked at: %s", error)
            finally:
                connection.close()

    def _wait(self) -> set[str]:
        """The kinds whose time has come."""
        with self._changed:
            while not self._due or self._due[0][0] > time.monotonic():
                self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
            kinds: set[str] = set()
            while self._due and self._due[0][0] <= time.monotonic() + MERGE_SECONDS:
                kinds.add(heapq.heappop(self._due)[1])
            return kinds
