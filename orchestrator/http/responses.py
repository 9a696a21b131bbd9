"""Responses: JSON, problems (RFC 9457), and the headers by which a client caches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.functional import Promise
from django.views.decorators.csrf import csrf_exempt
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from orchestrator.kind_problems import Problem

# Characters of a client's own that a problem quotes.
MAX_QUOTED = 1_000


def problem(
    status: int,
    detail: str,
    *,
    type: str = "",
    title: str = "",
    where: str = "",
    errors: Iterable[Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    """A refusal as application/problem+json (RFC 9457); where: what the errors point into, if not the body."""
    body: dict[str, Any] = {
        "type": f"urn:muster:problem:{type}" if type else "about:blank",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if shown := [({"in": where} if where else {}) | shortened(each)._asdict() for each in errors]:
        body["errors"] = shown
    return HttpResponse(
        msgspec.json.encode(body), status=status, content_type="application/problem+json", headers=headers
    )


def only_read(view: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    """Lets a view outside the API be asked by GET and HEAD alone. It changes nothing, so others need no CSRF token,
    without which Django would call them forbidden (403) first.
    """

    @csrf_exempt
    @wraps(view)
    def checked(request: HttpRequest) -> HttpResponseBase:
        if request.method in ("GET", "HEAD"):
            return view(request)
        return problem(405, f'Method "{request.method}" not allowed.', headers={"Allow": "GET, HEAD"})

    return checked


def shortened(problem: Problem) -> Problem:
    """The problem with no more of a long name or value than a person would read."""
    return problem._replace(pointer=_cut(problem.pointer), detail=_cut(problem.detail))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"


class JSONRenderer(BaseRenderer):
    """JSON by msgspec: times as ISO 8601 with Z, UUIDs as text."""

    media_type = "application/json"
    # A client that accepts only problems still gets JSON where there is none.
    also_known_as: tuple[str, ...] = ("application/problem+json",)
    format = "json"
    charset = None

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return b"" if data is None else msgspec.json.encode(data, enc_hook=_as_text)


def _as_text(value: Any) -> str:
    if isinstance(value, (str, Promise)):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be represented in JSON.")


def etag_of(*parts: Any) -> str:
    """An ETag that is the same for equal parts. It is weak: the content is the same, its bytes need not be."""
    return f'W/"{hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()}"'


def not_modified(request: Request, etag: str) -> HttpResponse | None:
    """A 304 for a client that has what the ETag stands for (If-None-Match, RFC 9110); else None."""
    response: HttpResponse | None = get_conditional_response(request, etag=etag)
    if response is not None:
        for name, value in cache_headers(etag).items():
            response[name] = value
    return response


def cache_headers(etag: str) -> dict[str, str]:
    """Headers that let a client keep a response for itself, if it asks each time whether it is still current."""
    return {"ETag": etag, "Cache-Control": "private, no-cache"}
