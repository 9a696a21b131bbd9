"""Who asks, and whether they may ask at all. Whose rows they see is `access.permissions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.conf import settings
from knox.auth import TokenAuthentication
from rest_framework import exceptions
from rest_framework.authentication import get_authorization_header
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from access import tokens
from access.failed_attempts import address_of, failures
from access.tokens import Scope

# The settings name these classes, which REST framework imports while it defines its first view.
if TYPE_CHECKING:
    from rest_framework.views import APIView

# Hashes of Authorization headers that were good, by a key of this process's own.
_good_headers = {hash(b"")}
MAX_GOOD_HEADERS = 10_000


def _remember(header: int) -> None:
    if len(_good_headers) >= MAX_GOOD_HEADERS:
        _good_headers.clear()
        _good_headers.add(hash(b""))
    _good_headers.add(header)


class Authentication(TokenAuthentication):  # type: ignore[misc]
    """knox's bearer tokens: hashed at rest, expiring, revocable. See `access.tokens`."""

    def authenticate(self, request: Request) -> Any:
        """Refuses an address that has sent too many wrong tokens before another is looked up. One that was good a
        while ago is let through: users who share the address with an attacker are not to be locked out.
        """
        header, address = hash(get_authorization_header(request)), address_of(request)
        if header not in _good_headers and (wait := failures.seconds_to_wait(address)):
            raise exceptions.Throttled(wait, "Too many wrong tokens or failed logins from this address.")
        try:
            found = super().authenticate(request)
        except exceptions.AuthenticationFailed:
            _good_headers.discard(header)
            failures.add(address)
            raise
        if found:
            _remember(header)
            request.META.get("muster.known", {})["user"] = f"user {found[0].pk}"
        return found

    def authenticate_credentials(self, token: bytes) -> Any:
        row = tokens.find(token.decode()) if token.isascii() and token.decode().isprintable() else None
        if row is None:
            raise exceptions.AuthenticationFailed("Invalid token.")
        return row.user, row


class Access(BasePermission):
    """Who may ask at all: anyone where REQUIRE_AUTH is off, else users; a token as far as its scope goes.

    Whose rows they see, and what they may do to others', is `access.permissions`. A view class with `submits = True`
    accepts work by POST.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        if settings.ENV.REQUIRE_AUTH and not request.user.is_authenticated:
            raise exceptions.NotAuthenticated
        if request.auth is None and request.method not in SAFE_METHODS and _is_from_another_site(request):
            raise exceptions.PermissionDenied(
                "This request comes from a page of another site; send a token, or add the site to "
                "CSRF_TRUSTED_ORIGINS."
            )
        if request.auth is None or tokens.allows(request.auth, needed := _scope_needed(request, view)):
            return True
        given = tokens.scope_of(request.auth)
        self.message = f"This needs a token of scope {needed.value}; the scope of this one is {given.value}."
        return False


def _is_from_another_site(request: Request) -> bool:
    """Whether a page of another site sends this, by the browser's word. Without tokens any page could."""
    if origin := request.headers.get("Origin"):
        return urlsplit(origin).netloc != request.get_host() and origin not in settings.CSRF_TRUSTED_ORIGINS
    return request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")


def _scope_needed(request: Request, view: APIView) -> Scope:
    if request.method in SAFE_METHODS:
        return Scope.READ
    return Scope.SUBMIT if request.method == "POST" and getattr(view, "submits", False) else Scope.MANAGE
