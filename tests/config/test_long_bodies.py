"""Long bodies that arrive at once come whole to Django, as far as there is memory for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from config import asgi
from config.bodies import AT_ONCE_BYTES, NotYet
from config.places import Places

PIECE = b"x" * 65_536
PIECES = AT_ONCE_BYTES // len(PIECE) + 2


def bodies_given(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Django is run with, in turn, for a long body that is there at once."""
    given: list[Any] = []
    left = PIECES

    async def receive() -> dict[str, Any]:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": PIECE, "more_body": left > 0}

    async def send(_: dict[str, Any]) -> None:
        """Nothing is sent: `run` answers nobody."""

    async def run(_: object, __: object, body: Any, ___: object) -> bool:
        given.append(body)
        return not isinstance(body, NotYet)

    async def serve() -> None:
        length = str(PIECES * len(PIECE)).encode()
        scope = {"client": ("192.0.2.1", 7), "headers": [(b"content-length", length)], "path": "/tasks/batch/"}
        await asgi.Exchange(scope, ("192.0.2.1", "7"), receive, send)._serve_request()

    monkeypatch.setattr(asgi.Exchange, "_run", run)
    asyncio.run(serve())
    return given


@contextmanager
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(asgi, "unasked_bytes", Places(AT_ONCE_BYTES))
        patch.setattr(asgi, "AT_ONCE_SECONDS", 0.01)
        yield


def test_a_long_body_that_is_there_at_once_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    [whole] = bodies_given(monkeypatch)

    assert whole.read() == PIECE * PIECES


def test_django_is_asked_before_a_long_body_for_which_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with little_memory(monkeypatch):
        asked, whole = bodies_given(monkeypatch)

    assert isinstance(asked, NotYet)
    assert whole.read() == PIECE * PIECES


def test_memory_for_long_bodies_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(2 * PIECES * len(PIECE))
    monkeypatch.setattr(asgi, "unasked_bytes", places)

    for _ in range(2):
        assert len(bodies_given(monkeypatch)) == 1

    assert places.has_one_of("192.0.2.1", PIECES * len(PIECE))
