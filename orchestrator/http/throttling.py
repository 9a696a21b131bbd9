"""How many requests a user may send."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from access.failed_attempts import address_of

# The settings name this class, which REST framework imports while it defines its first view.
if TYPE_CHECKING:
    from rest_framework.views import APIView


class UserThrottle(SimpleRateThrottle):
    """So many requests a minute for each user, or for each address where users are not known.

    They are counted by this process alone, in windows of a minute: REST framework's list of every request's time, in a
    cache, would cost more than the request.
    """

    scope = "user"
    num_requests: int
    duration: int

    def allow_request(self, request: Request, view: APIView) -> bool:
        window, passed = divmod(self.timer(), self.duration)
        self._wait = self.duration - passed
        # The address is that of the connection: a client can write anything into X-Forwarded-For.
        who = request.user.pk if request.user.is_authenticated else address_of(request)
        return requests_counted.add(who, window) <= self.num_requests

    def wait(self) -> float:
        return self._wait


class Counts:
    """How often each did something in the current window of time; earlier ones are forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self._window, self._counts = 0.0, Counter[Any]()

    def add(self, who: Any, window: float) -> int:
        """Counts one more, and returns how many that makes."""
        with self._lock:
            if window != self._window:
                self.clear()
                self._window = window
            self._counts[who] += 1
            return self._counts[who]


requests_counted = Counts()
