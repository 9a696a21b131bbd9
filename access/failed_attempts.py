"""Log-ins that failed and tokens that were wrong, by the address they came from, counted by this process alone."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from django.conf import settings
from django.http import HttpRequest

# They are forgotten so many seconds after the first.
FAILURES_SECONDS = 60
MAX_ADDRESSES = 10_000


class Failures:
    """How often each address has failed within a minute, counted by this process alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def add(self, address: str) -> None:
        with self._lock:
            since, count = self._counts.pop(address, (time.monotonic(), 0))
            if time.monotonic() - since >= FAILURES_SECONDS:
                since, count = time.monotonic(), 0
            self._counts[address] = since, count + 1
            if len(self._counts) > MAX_ADDRESSES:
                self._counts.popitem(last=False)

    def seconds_to_wait(self, address: str) -> float:
        """Until the address may try again; 0 if it may now."""
        since, count = self._counts.get(address, (0.0, 0))
        left = since + FAILURES_SECONDS - time.monotonic()
        return max(left, 0) if count >= settings.ENV.MAX_FAILED_LOGINS_PER_MINUTE else 0

    def clear(self) -> None:
        self._counts.clear()


failures = Failures()


def address_of(request: HttpRequest) -> str:
    """That of the connection, or of the client that a proxy in TRUSTED_PROXIES names."""
    return str(request.META.get("REMOTE_ADDR", ""))
