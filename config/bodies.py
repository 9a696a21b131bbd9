"""The bodies of requests: read on the event loop as they come, for Django to have whole or as a stream."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from config.settings import ENV

Receive = Callable[[], Awaitable[dict[str, Any]]]

# What of a body is read before anybody has asked for it.
AT_ONCE_BYTES = 256 * 1024
# What of an upload waits in memory for the thread that reads it.
UPLOAD_BUFFER_BYTES = 1_000_000
# How often the pace of a slow body is checked.
LOOK_SECONDS = 0.5
# It must bring so many bytes more within this time, or its end.
PACE_SECONDS = 10

TOO_SLOW = (
    f"The body arrived too slowly: at least {PACE_SECONDS * ENV.MIN_BODY_BYTES_PER_SECOND:,} bytes of it must arrive "
    f"every {PACE_SECONDS} s."
)


class BodyNeeded(BaseException):
    """Django reads a body that has not arrived yet. A BaseException, so that no `except Exception` catches it."""


class TooLong(Exception):
    """The body is longer than MAX_BODY_BYTES."""


class Body:
    """A request's body, read as it comes; its pieces wait here."""

    def __init__(self, receive: Receive) -> None:
        self.most_waiting = AT_ONCE_BYTES
        self.most_bytes = sys.maxsize
        self._size = self._waiting = 0
        self._pieces: list[bytes] = []
        self._news, self._room = asyncio.Event(), asyncio.Event()
        # What to raise, not yet made: raised in the task it would hold on to this body and, by it, the connection.
        self._failure: tuple[type[Exception], str] | None = None
        self._reading = asyncio.ensure_future(self._read(receive))
        self._reading.add_done_callback(lambda _: self._news.set())

    async def _read(self, receive: Receive) -> None:
        more = True
        with suppress(asyncio.CancelledError):
            while more and not self._failure:
                message = await receive()
                if message["type"] != "http.request":
                    self._failure = ConnectionResetError, "The connection closed before the whole body had arrived."
                    return
                more = message["more_body"]
                await self._keep(message["body"], more)

    async def _keep(self, piece: bytes, more: bool) -> None:
        self._size += len(piece)
        self._waiting += len(piece)
        self._pieces.append(piece)
        self._news.set()
        if self._size > self.most_bytes:
            self._failure = TooLong, ""
        while more and self._waiting > self.most_waiting and not self._failure:
            self._room.clear()
            await self._room.wait()

    def _raise_failure(self) -> None:
        if self._failure:
            kind, text = self._failure
            raise kind(text)

    def allow(self, *, waiting: int, total: int = sys.maxsize) -> None:
        self.most_waiting, self.most_bytes = waiting, total
        self._room.set()

    async def is_there_within(self, seconds: float) -> bool:
        """Whether it is whole by then; raises ConnectionResetError if it broke off."""
        await asyncio.wait({self._reading}, timeout=seconds)
        self._raise_failure()
        return self._reading.done()

    async def comes_at_a_pace(self, seconds: float) -> None:
        """Returns once it is whole. Raises TimeoutError if it is too slow, TooLong, or ConnectionResetError."""
        now = asyncio.get_running_loop().time
        end, due, wanted = now() + seconds, now() + PACE_SECONDS, self._size
        while not self._reading.done():
            await asyncio.wait({self._reading}, timeout=LOOK_SECONDS)
            we_are_slow = self._waiting > self.most_waiting
            if we_are_slow or self._size >= wanted:
                due, wanted = now() + PACE_SECONDS, self._size + PACE_SECONDS * ENV.MIN_BODY_BYTES_PER_SECOND
            if now() > min(due, end):
                self.stop(TOO_SLOW if now() <= end else f"The body did not arrive whole within {seconds:,g} s.")
                break
        self._raise_failure()

    def whole(self) -> bytes:
        return b"".join(self._pieces)

    async def taken(self) -> bytes:
        """What has come since; nothing at the end. Raises OSError where the body broke off or is too slow."""
        while not self._pieces and not self._reading.done():
            self._news.clear()
            await self._news.wait()
        data, self._pieces, self._waiting = self.whole(), [], 0
        self._room.set()
        if not data:
            self._raise_failure()
        return data

    def stop(self, why: str = TOO_SLOW) -> None:
        """Stops reading. Whoever still waits for more gets TimeoutError."""
        if not self._reading.done():
            self._failure = TimeoutError, why
            self._reading.cancel()
            self._room.set()


class NotYet:
    """Stands for a body that has not come yet."""

    # Set by `orchestrator.http.middleware`: the view reads the body as it comes, without keeping it in memory.
    is_stream = False

    def read(self, *_: Any) -> bytes:
        raise BodyNeeded

    readline = readlines = __iter__ = read


class Stream:
    """A body that is read in a thread while it comes."""

    def __init__(self, body: Body, loop: asyncio.AbstractEventLoop) -> None:
        self._body, self._loop, self._rest = body, loop, b""

    def read(self, size: int = -1) -> bytes:
        """Up to so many bytes, as many as have come; all of them where no size is given."""
        if size < 0:
            return b"".join(iter(lambda: self.read(UPLOAD_BUFFER_BYTES), b""))
        if not self._rest:
            self._rest = asyncio.run_coroutine_threadsafe(self._body.taken(), self._loop).result()
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    readline = read  # Django wants one, and no view that reads a stream does.
