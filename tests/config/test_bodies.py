"""Bodies that take too long are refused with the limit that they exceed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from config import bodies
from config.bodies import Body


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(bodies, "PACE_SECONDS", 0.05)


def outcome(pieces: int, *, size: int, within_seconds: float) -> str:
    """What is said of a body of so many pieces, one every 10 ms; the end never comes."""

    async def receive() -> dict[str, Any]:
        nonlocal pieces
        if pieces == 0:
            await asyncio.Event().wait()
        pieces -= 1
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x" * size, "more_body": True}

    async def read() -> None:
        body = Body(receive)
        body.allow(waiting=10**9)
        await body.comes_at_a_pace(within_seconds)

    with pytest.raises(TimeoutError) as raised:
        asyncio.run(read())
    return str(raised.value)


def test_a_body_that_comes_at_a_pace_and_does_not_end_is_refused_with_the_maximum_time() -> None:
    assert outcome(-1, size=1_000, within_seconds=0.3) == "The body did not arrive whole within 0.3 s."


def test_a_body_that_stops_coming_is_refused_with_the_minimum_pace() -> None:
    assert outcome(3, size=1_000, within_seconds=20) == bodies.TOO_SLOW


def test_a_body_that_comes_too_slowly_is_refused_with_the_minimum_pace() -> None:
    assert outcome(-1, size=1, within_seconds=20) == bodies.TOO_SLOW
