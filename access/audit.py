"""The audit trail: one entry a change, written with the change in one transaction. See `access.models.AuditEntry`.

Services say what they did by `record`. Who did it is known here: a middleware notes the request, a command itself.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils import timezone

from access.failed_attempts import address_of
from access.models import AuditEntry
from access.permissions import owner_of

Via = AuditEntry.Via

# What an entry keeps of a text, of a list, and of all that changed.
MAX_TEXT, MAX_ITEMS, MAX_FIELDS = 200, 50, 50

# An entry for each of many objects. They may be thousands, for which the ORM takes ten times as long.
RECORD_MANY = """
INSERT INTO access_auditentry (actor, token, address, via, action, object_id, object_name, before, keep_until)
SELECT %(actor)s, %(token)s, %(address)s::inet, %(via)s, %(action)s, each.id, each.name, each.before, %(keep_until)s
FROM json_to_recordset(%(rows)s) AS each (id text, name text, before jsonb)
"""

_request: ContextVar[HttpRequest | None] = ContextVar("request", default=None)
_command: ContextVar[bool] = ContextVar("command", default=False)
_asker: ContextVar[Mapping[str, Any] | None] = ContextVar("asker", default=None)


class _GetResponse(Protocol):
    def __call__(self, request: HttpRequest, /) -> HttpResponseBase: ...


class AuditMiddleware:
    """Remembers the request while it is handled. Its user and token are read when something is recorded."""

    def __init__(self, get_response: _GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        noted = _request.set(request)
        try:
            return self.get_response(request)
        finally:
            _request.reset(noted)


@contextmanager
def by_command() -> Iterator[None]:
    """Changes within the block are recorded as those of whoever runs the command."""
    noted = _command.set(True)
    try:
        yield
    finally:
        _command.reset(noted)


def doer() -> dict[str, Any]:
    """Who does what is recorded now, as `on_behalf_of` takes it; JSON can hold it."""
    return {name: str(value) for name, value in _doer(_request.get()).items() if value}


@contextmanager
def on_behalf_of(asker: Mapping[str, Any]) -> Iterator[None]:
    """Changes within the block are recorded as those of whoever asked for them, who was the `doer` then."""
    noted = _asker.set(asker)
    try:
        yield
    finally:
        _asker.reset(noted)


def has_request() -> bool:
    return _request.get() is not None


def record(
    action: str,
    object_id: object,
    object_name: object = "",
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    request: HttpRequest | None = None,
) -> None:
    """Keeps that this was done, within the caller's transaction.

    action: "job.cancel": what it was done to, and what. before, after: the fields that changed.
    request: the current one if not given.
    """
    _entry(_doer(request or _request.get()), action, object_id, object_name, before, after).save(force_insert=True)


def record_many(action: str, changed: Iterable[tuple[object, object, Mapping[str, Any] | None]]) -> None:
    """Keeps that this was done to each of several objects: its id, its name, and the fields that changed as they were
    before.
    """
    days = settings.ENV.AUDIT_DAYS
    rows = [{"id": _text(id)[:150], "name": _text(name), "before": _small(before)} for id, name, before in changed]
    parameters: dict[str, Any] = {
        "actor": "",
        "token": "",
        "address": None,
        **_doer(_request.get()),
        "action": action,
        "keep_until": timezone.now() + timedelta(days=days) if days else None,
        "rows": json.dumps(rows, cls=DjangoJSONEncoder),
    }
    with connection.cursor() as cursor:
        cursor.execute(RECORD_MANY, parameters)


def _entry(
    who: Mapping[str, Any],
    action: str,
    object_id: object,
    object_name: object,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> AuditEntry:
    days = settings.ENV.AUDIT_DAYS
    return AuditEntry(
        **who,
        action=action,
        object_id=_text(object_id)[:150],
        object_name=_text(object_name),
        before=_small(before),
        after=_small(after),
        keep_until=timezone.now() + timedelta(days=days) if days else None,
    )


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What differs, as `record` takes it."""
    names = [name for name, value in after.items() if before.get(name) != value]
    return {"before": {name: before.get(name) for name in names}, "after": {name: after[name] for name in names}}


def _doer(request: HttpRequest | None) -> Mapping[str, Any]:
    if (asker := _asker.get()) is not None:
        return asker
    if request is not None:
        user = getattr(request, "user", None)
        return {
            "actor": owner_of(user) if user is not None and user.pk else "",
            "token": getattr(getattr(request, "auth", None), "token_key", ""),
            "address": _valid_address(request),
            "via": Via.ADMIN if request.path_info.startswith("/admin/") else Via.API,
        }
    if _command.get() or Path(sys.argv[0]).name == "manage.py":
        return {"actor": _system_user(), "via": Via.COMMAND}
    return {"via": Via.SYSTEM}


def _valid_address(request: HttpRequest) -> str | None:
    """None for what the column could not hold."""
    try:
        return str(ip_address(address_of(request)))
    except ValueError:
        return None


def _system_user() -> str:
    try:
        return getpass.getuser()[:150]
    except (KeyError, OSError):  # A container may run as a number that has no name.
        return str(os.getuid())


def _small(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not values:
        return None
    return {name: _plain(value) for name, value in list(values.items())[:MAX_FIELDS]}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, (QuerySet, list, tuple, set)):
        return sorted(_text(item) for item in list(value)[:MAX_ITEMS])
    if isinstance(value, datetime):
        return value.isoformat()
    return _text(value)


def _text(value: object) -> str:
    """As PostgreSQL can store it."""
    text = str(value).encode(errors="replace").decode().replace("\0", "�")
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def key_of(row: Model) -> str:
    """How entries name a model: "user" or "periodic_task"."""
    return str(row._meta.verbose_name).replace(" ", "_")
