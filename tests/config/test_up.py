"""What `manage.py up` says while it is not ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from config.management.commands import up

UNSERVED = "workers: No worker serves gpu."


class NotReady(up.Command):
    """An `up` that lacks these things, one after the other, and then nothing."""

    def __init__(self, *missing: str, seconds: float) -> None:
        super().__init__()
        self.began_at = time.monotonic() - seconds
        self.said: list[str] = []
        self.supervisor: Any = SimpleNamespace(say=self.said.append, stopping=threading.Event())
        self._missing: Iterator[str] = iter(missing)
        self.supervisor.stopping.wait = lambda seconds: False

    def missing(self) -> str:
        return next(self._missing, "")

    def when_ready(self) -> None:
        self.said.append("ready")


@pytest.fixture(autouse=True)
def no_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "create_admin", lambda: None)


def test_a_queue_that_nobody_serves_is_told_once_that_takes_long() -> None:
    command = NotReady(UNSERVED, UNSERVED, "tick: No tick has run yet.", seconds=31)

    command.await_ready()

    assert command.said == [
        f"not ready after 31 s: {UNSERVED}",
        "not ready after 31 s: tick: No tick has run yet.",
        "ready",
    ]


def test_nothing_is_said_of_what_is_missing_at_first() -> None:
    command = NotReady(UNSERVED, seconds=1)

    command.await_ready()

    assert command.said == ["ready"]
