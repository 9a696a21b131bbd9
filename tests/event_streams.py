"""Reads event streams, as a browser does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from pytest_django import Settings

from tests.api import Response
from tests.orchestrator.workbench import PATIENCE_SECONDS


@pytest.fixture
def frequent_looks(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watched jobs are read fifty times a second, and a heartbeat is sent twenty times a second."""
    settings.ENV = msgspec.structs.replace(settings.ENV, WATCH_HEARTBEAT_SECONDS=0.05)
    monkeypatch.setattr("orchestrator.live.watching.POLL_SECONDS", 0.02)
    monkeypatch.setattr("orchestrator.live.watching.MAX_BUSY_SHARE", 1)


class Event(NamedTuple):
    id: str
    name: str
    data: dict[str, Any]

    @property
    def status(self) -> tuple[str, int]:
        return self.data["status"], self.data["attempt"]


class Reader:
    """What has come of a stream: its events, and the last id."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._blocks = self._split(chunks)
        self.last_id = ""

    @classmethod
    def of(cls, response: Response) -> Reader:
        assert response.status_code == 200, response.content
        return cls(response.streaming_content)  # type: ignore[attr-defined]

    @staticmethod
    def _split(chunks: Iterable[bytes]) -> Iterator[str]:
        text = ""
        for chunk in chunks:
            *blocks, text = (text + chunk.decode()).split("\n\n")
            yield from blocks

    def events(self) -> Iterator[Event]:
        """Until the stream ends; fails if nothing but heartbeats comes for long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for block in self._blocks:
            if event := self._event(block):
                deadline = time.monotonic() + PATIENCE_SECONDS
                yield event
            assert time.monotonic() < deadline, "No event came."

    def next(self, name: str = "") -> Event:
        """The next event, of that name if one is given."""
        return next(event for event in self.events() if name in ("", event.name))

    def wait_for_id(self) -> None:
        """Returns once an id has come; no event has until then."""
        while not self.last_id:
            assert self._event(next(self._blocks)) is None

    def _event(self, block: str) -> Event | None:
        lines = [line.partition(": ") for line in block.split("\n")]
        fields = {name: value for name, _, value in lines if name}
        self.last_id = fields.get("id", self.last_id)
        return Event(self.last_id, fields["event"], json.loads(fields["data"])) if "data" in fields else None


def statuses(events: list[Event]) -> list[tuple[str, int]]:
    return [event.status for event in events if event.name == "status"]


def all_of(response: Response) -> list[Event]:
    """The events until the stream ends."""
    return list(Reader.of(response).events())
