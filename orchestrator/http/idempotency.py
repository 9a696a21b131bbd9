"""Idempotency-Key: a request that a client sends again is answered as the first time, and nothing is done twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import msgspec
from django.db import connection, transaction
from rest_framework.request import Request
from rest_framework.response import Response

from access.permissions import owner_of
from orchestrator.kind_problems import Problem
from orchestrator.models import IdempotencyKey

if TYPE_CHECKING:
    from rest_framework.views import APIView

# The key becomes this request's. While another transaction holds it this waits for that one to end: if it commits the
# key is its, and no row is written here; if it rolls back the key is free again.
TAKE_KEY = """
INSERT INTO orchestrator_idempotencykey (owner, key, fingerprint) VALUES (%s, %s, %s)
ON CONFLICT (owner, key) DO NOTHING
"""

# Headers of the first answer that belong to what it says.
KEPT_HEADERS = ("Location",)


class BadKey(ValueError):
    """The header is no key."""

    where = "header"

    def __init__(self) -> None:
        detail = "An Idempotency-Key must be 1 to 255 printable ASCII characters."
        self.problems = [Problem("/Idempotency-Key", "invalid", detail)]
        super().__init__(detail)


class IdempotencyKeyReused(Exception):
    """The same owner has used the key for another request."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used before with another path or body; use a new key.")


View = TypeVar("View", bound="APIView")
Arguments = ParamSpec("Arguments")
Method = Callable[Concatenate[View, Request, Arguments], Response]


def idempotent(method: Method[View, Arguments]) -> Method[View, Arguments]:
    """Makes a view's method one transaction that honours the Idempotency-Key header, if the request has one.

    The key, the work and the answer are all there or nothing is, whatever crashes, and the answer shows what was
    submitted as nobody has touched it yet. A refusal raises, so it is not kept, and the key may be used again.
    """

    return _idempotent(method, is_transaction=False)


def idempotent_transaction(method: Method[View, Arguments]) -> Method[View, Arguments]:
    """Does so for a method that writes within one transaction of its own, which is all there is without a key."""
    return _idempotent(method, is_transaction=True)


def _idempotent(method: Method[View, Arguments], *, is_transaction: bool) -> Method[View, Arguments]:
    @wraps(method)
    def answer(view: View, request: Request, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Response:
        key = key_of(request)
        if key is None and is_transaction:
            return method(view, request, *args, **kwargs)
        fingerprint = "" if key is None else fingerprint_of(request, hashlib.sha256(request.body).digest())
        return respond_once(request, key, fingerprint, lambda: method(view, request, *args, **kwargs))

    return answer


def key_of(request: Request) -> str | None:
    """The request's Idempotency-Key, if it has one; raises BadKey for what is no key."""
    key: str | None = request.headers.get("Idempotency-Key")
    if key is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", key):
        raise BadKey
    return key


def respond_once(request: Request, key: str | None, fingerprint: str, work: Callable[[], Response]) -> Response:
    """The response of `work`, in one transaction with the key; the first response if the key was used before.

    Raises IdempotencyKeyReused.
    """
    if key is None:
        with transaction.atomic():
            return work()
    # READ COMMITTED, PostgreSQL's default, is what makes the first answer visible here once it is committed.
    with transaction.atomic():
        owner = owner_of(request.user)
        with connection.cursor() as cursor:
            cursor.execute(TAKE_KEY, [owner, key, fingerprint])
            is_first = cursor.rowcount == 1
        if not is_first:
            return _first_response(owner, key, fingerprint)
        response = work()
        IdempotencyKey.objects.filter(owner=owner, key=key).update(answer=_as_kept(response))
        return response


def fingerprint_of(request: Request, digest: bytes) -> str:
    """Of what was asked: the method, the path in its one form with its query, and the body by its SHA-256."""
    asked = f"{request.method} {request.path_info}?{request.META.get('QUERY_STRING', '')}\n"
    return hashlib.sha256(asked.encode() + digest).hexdigest()


def _first_response(owner: str, key: str, fingerprint: str) -> Response:
    row = IdempotencyKey.objects.get(owner=owner, key=key)
    if row.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    kept: dict[str, Any] = row.answer or {}
    return Response(kept["body"], kept["status"], headers={**kept["headers"], "Idempotency-Replayed": "true"})


def _as_kept(response: Response) -> dict[str, Any]:
    return {
        "status": response.status_code,
        "headers": {name: response[name] for name in KEPT_HEADERS if response.has_header(name)},
        "body": msgspec.to_builtins(response.data),
    }
