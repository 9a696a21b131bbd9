"""What Flower hears of a stack: the events of its workers and jobs."""

from __future__ import annotations

import threading
from typing import Any

from tests.system.stack import Stack, until


class Listener:
    """Hears events as Flower does."""

    def __init__(self, stack: Stack) -> None:
        self.events: list[dict[str, Any]] = []
        self._receiver: Any = None
        self._thread = threading.Thread(target=self._listen, args=(stack,))
        self._thread.start()
        # It asks all workers for a sign of life.
        until(lambda: {"default", "io", "control"} <= {name.partition("@")[0] for name in self.workers()}, 20)

    def _listen(self, stack: Stack) -> None:
        with stack.remote_control() as app, app.connection() as link:
            self._receiver = app.events.Receiver(link, handlers={"*": self.events.append})
            self._receiver.capture()

    def stop(self) -> None:
        self._receiver.should_stop = True
        self._thread.join(20)

    def workers(self) -> set[str]:
        return {event["hostname"] for event in list(self.events) if event["type"] == "worker-heartbeat"}

    def of_tasks(self) -> list[dict[str, Any]]:
        return [event for event in list(self.events) if event["type"].startswith("task-")]

    def of(self, job_id: str) -> list[dict[str, Any]]:
        return [event for event in self.of_tasks() if event["uuid"] == job_id]

    def types_of(self, job_id: str) -> list[str]:
        return [event["type"].removeprefix("task-") for event in self.of(job_id)]

    def last_of(self, job_id: str, end: str) -> dict[str, Any]:
        """The event of that type, once it is the job's last."""
        until(lambda: self.types_of(job_id)[-1:] == [end], 30)
        return self.of(job_id)[-1]
