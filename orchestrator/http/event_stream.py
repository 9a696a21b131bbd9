"""A response that is an event stream. The web server takes it from Django's thread: see `config.event_streams`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from django.conf import settings
from django.http import StreamingHttpResponse
from rest_framework.request import Request

from orchestrator.http.responses import JSONRenderer
from orchestrator.live.events import RETRY
from orchestrator.live.watching import Watch

MEDIA_TYPE = "text/event-stream"
HEADERS = {
    "Cache-Control": "no-store, no-transform",
    # nginx and those that took it over would wait until they have some kilobytes.
    "X-Accel-Buffering": "no",
}


class EventStreamRenderer(JSONRenderer):
    """For the negotiation alone: a stream renders itself."""

    media_type = MEDIA_TYPE
    format = "event-stream"


class EventStream(StreamingHttpResponse):
    """What a watch is told, as it is told. Where nobody takes it over, a thread waits for it."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        super().__init__(self._chunks(), content_type=MEDIA_TYPE, headers=HEADERS)

    def _chunks(self) -> Iterator[bytes]:
        news = threading.Event()
        self.watch.wake = news.set
        end = time.monotonic() + settings.ENV.MAX_WATCH_SECONDS
        yield RETRY
        while time.monotonic() < end:
            news.clear()
            if chunk := self.watch.take():
                yield chunk
            elif self.watch.ended:
                return
            elif not news.wait(settings.ENV.WATCH_HEARTBEAT_SECONDS):
                yield self.watch.heartbeat

    def close(self) -> None:
        self.watch.close()
        super().close()


def is_head(request: Request) -> bool:
    """Whether only the headers are asked for, which opens no stream."""
    return request.method == "HEAD"
