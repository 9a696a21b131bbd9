"""How many requests a user, and an address, may send."""

from __future__ import annotations

import threading
from collections import Counter
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from access.failed_attempts import address_of

# The settings name this class, which REST framework imports while it defines its first view.
if TYPE_CHECKING:
    from rest_framework.views import APIView


class MinuteThrottle(SimpleRateThrottle):
    """So many requests a minute for each of those who send them.

    They are counted by this process alone, in windows of a minute: REST framework's list of every request's time, in a
    cache, would cost more than the request.
    """

    scope: str
    num_requests: int
    duration: int

    def allow_request(self, request: Request, view: APIView) -> bool:
        window, passed = divmod(self.timer(), self.duration)
        self._wait = self.duration - passed
        count = requests_counted.add((self.scope, self.who(request)), window)
        request._request.rate_limit = RateLimit(  # type: ignore[attr-defined]
            self.scope, self.num_requests, max(self.num_requests - count, 0), self._wait, self.duration
        )
        return count <= self.num_requests

    def who(self, request: Request) -> Any:
        # The address is that of the connection: a client can write anything into X-Forwarded-For.
        return address_of(request)

    def wait(self) -> float:
        return self._wait


class UserThrottle(MinuteThrottle):
    """So many for each user, or for each address where users are not known."""

    scope = "user"

    def who(self, request: Request) -> Any:
        return request.user.pk if request.user.is_authenticated else super().who(request)


class AddressThrottle(MinuteThrottle):
    """So many for each address, whoever sends them: before a token is looked up."""

    scope = "address"


class RateLimit(NamedTuple):
    """What is left of a limit in the present window."""

    scope: str
    limit: int
    remaining: int
    reset_seconds: float
    window_seconds: int

    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers has them."""
        return {
            "RateLimit-Policy": f'"{self.scope}";q={self.limit};w={self.window_seconds}',
            "RateLimit": f'"{self.scope}";r={self.remaining};t={ceil(self.reset_seconds)}',
        }


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
