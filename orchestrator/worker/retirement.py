"""When a child of a prefork pool is replaced: after so many jobs, or once it has taken so much memory, or nearly as
many open files as it may have.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import time
from collections.abc import Callable

from billiard.compat import mem_rss

logger = logging.getLogger(__name__)

# Of the file descriptors that a process may have; the rest is for its way to the end.
MAX_OPEN_SHARE = 0.9
# A child that cannot be replaced yet goes on, and asks again after this.
ASK_AGAIN_SECONDS = 5.0


class Retirement:
    """Counts the jobs that this process has run, and looks at its memory after them.

    Celery would do so for its tasks, but a bell runs many jobs, and a job that the poller found has none.
    """

    def __init__(
        self,
        name: str = "",
        *,
        max_jobs: int | None = None,
        max_memory: int | None = None,
        watches_files: bool = False,
        can_be_replaced: Callable[[], bool] = lambda: True,
    ) -> None:
        """max_memory: in kB. watches_files: whether it is replaced once its jobs have left too many files open.

        can_be_replaced: without a broker, Celery replaces no child.
        """
        # It claims nothing more, and ends as soon as it waits for Celery's next message.
        self.is_due = False
        self._name = name
        self._max_jobs = max_jobs
        self._max_memory = max_memory
        self._watches_files = watches_files
        self._lacks_files = False
        self._can_be_replaced = can_be_replaced
        self._jobs = 0
        self._asks_at = -math.inf

    def bounded(self, size: int) -> int:
        """How many of so many jobs to claim at once, so that the process can be replaced after the last of them."""
        return size if self._max_jobs is None else max(1, min(size, self._max_jobs - self._jobs))

    def count(self, jobs: int) -> None:
        """Called when so many jobs more have run here, in the slot that ran them."""
        self._jobs += jobs
        self._lacks_files = self._watches_files and _has_few_descriptors_left()
        if (reason := self._reason()) and time.monotonic() >= self._asks_at:
            # Without files it may not reach the broker to ask, and is of no use anyway.
            self.is_due = self._lacks_files or self._can_be_replaced()
            self._asks_at = time.monotonic() + ASK_AGAIN_SECONDS
            if self.is_due:
                logger.info("%s is replaced: %s.", self._name, reason)

    def _reason(self) -> str:
        if self._max_jobs is not None and self._jobs >= self._max_jobs:
            return f"it has run {self._jobs:,} of {self._max_jobs:,} jobs"
        if self._lacks_files:
            return "its jobs have left nearly as many files open as it may have"
        if self._max_memory is not None and (used := mem_rss()) > self._max_memory:
            return f"it has taken {used:,} kB of memory"
        return ""


def _has_few_descriptors_left() -> bool:
    """The system gives the lowest that is free, so those below are taken."""
    try:
        lowest_free = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return True
    os.close(lowest_free)
    return lowest_free > MAX_OPEN_SHARE * resource.getrlimit(resource.RLIMIT_NOFILE)[0]
