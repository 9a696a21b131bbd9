"""Event streams, sent on the event loop: those who watch take no thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from config.settings import ENV
from orchestrator.live.events import RETRY

if TYPE_CHECKING:
    # It needs the models, which `config.wsgi` loads.
    from orchestrator.live.watching import Watch

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

# How long a client may take to make room for more.
SEND_SECONDS = 30


async def send_events(
    watch: Watch, status: int, headers: list[tuple[bytes, bytes]], receive: Receive, send: Send
) -> None:
    """Sends what the watch is told until it ends, its time is over, or the client is gone."""
    loop = asyncio.get_running_loop()
    news = asyncio.Event()
    end = loop.time() + ENV.MAX_WATCH_SECONDS
    gone = asyncio.ensure_future(_is_gone(receive))
    gone.add_done_callback(lambda _: news.set())

    def wake() -> None:
        # The loop may have been closed when the process ends.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(news.set)

    watch.wake = wake
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        chunk = RETRY
        while not gone.done() and loop.time() < end:
            if chunk:
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            elif watch.ended:
                break
            elif not await _comes_within(news, ENV.WATCH_HEARTBEAT_SECONDS):
                chunk = watch.heartbeat
                continue
            news.clear()
            chunk = watch.take()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        gone.cancel()


async def _comes_within(news: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        return False
    return True


async def _is_gone(receive: Receive) -> None:
    while (await receive())["type"] == "http.request":
        pass
