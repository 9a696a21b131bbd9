"""How many bells a process handles at a time, and whether Celery uses it."""

from __future__ import annotations

import threading
import time


class Slots(threading.BoundedSemaphore):
    """One is held for each bell that is handled, whether it came through Celery or the poller found it missing.

    Celery may begin as many tasks here; those that are not bells hold no slot.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count
        self.last_task_at = time.monotonic()
        self._tasks = 0
        self._lock = threading.Lock()

    def task_began(self) -> None:
        """Celery began a task here."""
        self.last_task_at = time.monotonic()
        with self._lock:
            self._tasks += 1

    def task_ended(self) -> None:
        self.last_task_at = time.monotonic()
        with self._lock:
            self._tasks -= 1

    @property
    def free_count(self) -> int:
        """How many are free just now."""
        return self._value

    @property
    def is_free(self) -> bool:
        """Whether a slot is free, and Celery could begin another task here."""
        if free := self.acquire(blocking=False):
            self.release()
        return free and self._tasks < self.count

    @property
    def quiet_seconds(self) -> float:
        """How long Celery has neither begun nor ended a task here."""
        return time.monotonic() - self.last_task_at
