"""What happens to every request before any view: its address, its last slash, and a body without a length."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest, HttpResponseBase
from django.urls import Resolver404, ResolverMatch, resolve

from orchestrator.http.json_pointer import escaped
from orchestrator.http.responses import problem
from orchestrator.http.strict_json import MAX_PROBLEMS
from orchestrator.kind_problems import Problem
from orchestrator.pg_values import is_storable


class _GetResponse(Protocol):
    def __call__(self, request: HttpRequest, /) -> HttpResponseBase: ...


class ReadableAddressMiddleware:
    """Refuses a path or query that is no text PostgreSQL could hold, before any view looks it up: Django would read
    other characters for what is not UTF-8, and a NUL as itself.
    """

    def __init__(self, get_response: _GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # Django leaves what is not UTF-8 in a path as it came, with its percent signs.
        query = unquote_to_bytes(request.META.get("QUERY_STRING", ""))
        if "\0" in request.path_info or b"\0" in query or not _is_utf_8(query):
            detail = "The URL contains a NUL character, or bytes that are not UTF-8 (RFC 3986)."
            names = _parameters_that_are_no_text(request)
            problems = [Problem(f"/{escaped(name)}", "not_text", detail) for name in names]
            return problem(400, detail, where="query", errors=problems)
        return self.get_response(request)


def _parameters_that_are_no_text(request: HttpRequest) -> list[str]:
    """The first of the query's parameters that are no text."""
    query = parse_qsl(request.META.get("QUERY_STRING", ""), keep_blank_values=True, errors="surrogateescape")
    bad = (name for name, value in query if not is_storable(name + value, at_most=len(name + value)))
    return list(islice(bad, MAX_PROBLEMS))


def _is_utf_8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class EitherSlashMiddleware:
    """Finds every path with and without its last slash, without a redirect, which would lose a POST."""

    def __init__(self, get_response: _GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.path_info
        request.resolver_match = _resolved(given)
        if request.resolver_match is None:
            other = given[:-1] if given.endswith("/") else f"{given}/"
            request.resolver_match = _resolved(other)
            if request.resolver_match is not None:
                request.path = request.path[: len(request.path) - len(given)] + other
                request.path_info = other
        return self.get_response(request)


def _resolved(path: str) -> ResolverMatch | None:
    try:
        return resolve(path)
    except Resolver404:
        return None


class ChunkedBodyMiddleware:
    """Lets a view read a body that comes in chunks, at most as much as is allowed: without Content-Length Django sees
    none. Nothing is read here, before anyone knows who asks.

    A view class with `reads_stream = True` reads its body as it comes, without a bound on its length.
    """

    def __init__(self, get_response: _GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)

    def process_view(self, request: WSGIRequest, view: Callable[..., Any], args: Any, kwargs: Any) -> None:
        body = request.environ["wsgi.input"]
        if getattr(getattr(view, "cls", None), "reads_stream", False):
            if hasattr(body, "is_stream"):
                body.is_stream = True
        elif request.META.get("HTTP_TRANSFER_ENCODING") and not request.META.get("CONTENT_LENGTH"):
            request.META["CONTENT_LENGTH"] = "1"  # Not none; how long it is will be seen.
            request._stream = BoundedBody(body)  # type: ignore[assignment]


class BoundedBody:
    """A body of unknown length; raises RequestDataTooBig where it is longer than one may be."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._left = settings.ENV.MAX_BODY_BYTES

    def read(self, size: int = -1) -> bytes:
        wanted = self._left + 1 if size < 0 else min(size, self._left + 1)
        piece: bytes = self._body.read(wanted)
        self._left -= len(piece)
        if self._left < 0:
            raise RequestDataTooBig
        return piece

    def readline(self, size: int = -1) -> bytes:
        return self.read(size)

    def close(self) -> None:
        """The server closes it."""
