"""Log-ins to the admin: bounded in number before a password is hashed, throttled, logged, and led to pages that exist.

axes counts failures of an account from an address. That nobody can lock an operator out, an account alone never is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.signals import user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import get_script_prefix, is_valid_path, reverse
from unfold.sites import UnfoldAdminSite

from access.failed_attempts import address_of, failures

logger = logging.getLogger(__name__)

# A password takes most of a second of a core to check, so one is at a time, and few may wait for that.
MAX_LOGINS_AT_ONCE = 4
places = threading.BoundedSemaphore(MAX_LOGINS_AT_ONCE)
_hashing = threading.Lock()


@receiver(user_login_failed)
def count_failure(credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    if request is not None:
        failures.add(address_of(request))
        name = str(credentials.get("username", ""))[:150]
        logger.warning("Login as %r from %s failed", name, address_of(request))


class Site(UnfoldAdminSite):  # type: ignore[misc]
    index_template = "orchestrator/admin/home.html"

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        _lead_to_existing_page(request)
        if request.method != "POST":
            return self._page(request, extra_context)
        if wait := failures.seconds_to_wait(address_of(request)):
            return refused(request, wait=wait)
        with place() as has_place:
            return self._page(request, extra_context) if has_place else refused(request, wait=5)

    def _page(self, request: HttpRequest, extra_context: dict[str, Any] | None) -> HttpResponse:
        response: HttpResponse = super().login(request, extra_context)
        return response


@contextmanager
def place() -> Iterator[bool]:
    """Whether there is a place for one more; waits until no other password is being hashed."""
    if not places.acquire(blocking=False):
        yield False
        return
    try:
        with _hashing:
            yield True
    finally:
        places.release()


def refused(request: HttpRequest, *_: Any, wait: float = 0) -> HttpResponse:
    """The page for one who has tried too often, or while too many others try; also where axes has locked out."""
    wait = wait or settings.AXES_COOLOFF_TIME.total_seconds()
    minutes = max(1, round(wait / 60))
    context = {"wait": f"{minutes} minutes" if minutes > 1 else "a minute"}
    logger.warning("A login from %s was refused unchecked after too many attempts", address_of(request))
    response = render(request, "orchestrator/too_many_logins.html", context, status=429)
    response["Retry-After"] = str(round(wait) + 1)
    return response


def _lead_to_existing_page(request: HttpRequest) -> None:
    for name in ("GET", "POST"):
        given = getattr(request, name)
        if "next" in given and not _is_page(given["next"]):
            changed = given.copy()
            changed["next"] = reverse("admin:index")
            setattr(request, name, changed)


def _is_page(url: str) -> bool:
    path = "/" + urlsplit(url).path.removeprefix(get_script_prefix())
    return bool(is_valid_path(path) or is_valid_path(f"{path}/"))
