"""Celery's pool of processes, with children that end between two messages once they are to end."""

from __future__ import annotations

import sys
from typing import Any

from billiard.pool import EX_RECYCLE
from celery.concurrency import asynpool, prefork

from orchestrator.worker.process import current_process

# How often a child that waits for a message looks whether it is to end.
LOOK_SECONDS = 1.0


class Child(asynpool.Worker):
    """A message that Celery has already sent to a child that ends goes to another one."""

    inq: Any
    wait_for_job: Any

    def __call__(self) -> None:
        # Celery would count bells.
        self.maxtasks = self.max_memory_per_child = None
        super().__call__()

    def on_loop_start(self, pid: int) -> None:
        super().on_loop_start(pid)
        self._wait_for_message, self.wait_for_job = self.wait_for_job, self._wait_for_job

    def _wait_for_job(self) -> Any:
        while not _is_to_end():
            if self.inq._reader.poll(LOOK_SECONDS):
                return self._wait_for_message()
        sys.exit(EX_RECYCLE)


class Children(asynpool.AsynPool):
    Worker = Child


class TaskPool(prefork.TaskPool):
    Pool = Children
    has_children = True


def _is_to_end() -> bool:
    # Also if it got SIGTERM alone. Otherwise it would go on to receive messages for which it claims nothing.
    process = current_process()
    return process is not None and process.is_to_end
