"""Tokens: knox's, hashed and expiring, with a name, a last use, and a scope that their first characters show."""

from __future__ import annotations

import logging
from datetime import timedelta
from hmac import compare_digest
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, models, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from knox.crypto import hash_token
from knox.models import AuthToken
from knox.settings import CONSTANTS

from access import audit
from access.models import Account, TokenDetails

logger = logging.getLogger(__name__)


class Scope(models.TextChoices):
    """What of what its user may do a token may do; each scope includes the ones before."""

    READ = "read", "read: only read"
    SUBMIT = "submit", "submit: also submit work"
    MANAGE = "manage", "manage: all that the user may do, such as cancel, retry and schedule"


# How a token of a scope begins. knox signs the whole token, so nobody can take the beginning off.
PREFIXES = {Scope.READ: "ro_", Scope.SUBMIT: "sub_", Scope.MANAGE: ""}
READ_ONLY_PREFIX = PREFIXES[Scope.READ]
MAX_NAME_LENGTH = 100

_USER = [field.attname for field in User._meta.concrete_fields]
_TOKEN = [field.attname for field in AuthToken._meta.concrete_fields]
# A token that can be used, with its user, whose work it is, whether the user might have permissions at all, and
# whether its last use is to be noted. SQL, since every request asks. None outlives TOKEN_MAX_DAYS, whatever it says.
FIND = f"""
SELECT account.owner,
       is_superuser
           OR EXISTS (SELECT FROM auth_user_user_permissions WHERE user_id = auth_user.id)
           OR EXISTS (SELECT FROM auth_user_groups WHERE user_id = auth_user.id),
       coalesce(details.last_used_at < statement_timestamp() - interval '1 minute', true),
       {", ".join(f"token.{name}" for name in _TOKEN)},
       {", ".join(f"auth_user.{name}" for name in _USER)}
FROM knox_authtoken token
JOIN auth_user ON auth_user.id = token.user_id
JOIN access_account account ON account.user_id = token.user_id
LEFT JOIN access_tokendetails details ON details.token_id = token.digest
WHERE token.token_key = %(key)s AND auth_user.is_active
  AND statement_timestamp() < least(token.expiry, token.created + %(max_age)s)
"""  # noqa: S608 It is made of constants.

# At most once a minute, however many use it at once.
NOTE_USE = """
INSERT INTO access_tokendetails AS details (token_id, last_used_at)
SELECT digest, statement_timestamp() FROM knox_authtoken WHERE digest = %(digest)s
ON CONFLICT (token_id) DO UPDATE SET last_used_at = excluded.last_used_at
WHERE coalesce(details.last_used_at < excluded.last_used_at - interval '1 minute', true)
"""


class BadToken(ValueError):
    """A token cannot be made as asked."""


def max_age() -> timedelta:
    return timedelta(days=settings.ENV.TOKEN_MAX_DAYS)


def create_token(
    user: User, *, name: str = "", scope: Scope = Scope.MANAGE, days: float | None = None
) -> tuple[AuthToken, str]:
    """Makes a token and returns its row and the token itself, which cannot be recovered later.

    days: until it expires; TOKEN_DEFAULT_DAYS if not given. Raises BadToken for more than TOKEN_MAX_DAYS.
    """
    days = settings.ENV.TOKEN_DEFAULT_DAYS if days is None else days
    check_days(days)
    if len(name) > MAX_NAME_LENGTH or "\0" in name:
        raise BadToken(f"A token's name may have at most {MAX_NAME_LENGTH} characters, each of which can be stored.")
    with transaction.atomic():
        row, token = AuthToken.objects.create(user, expiry=timedelta(days=days), prefix=PREFIXES[Scope(scope)])
        TokenDetails.objects.create(token=row, name=name)
        details = {"user": user, "name": name, "scope": Scope(scope).value, "expiry": row.expiry}
        audit.record("token.create", row.token_key, name, after=details)
    return row, token


def check_days(days: float) -> None:
    """Raises BadToken for a life that is none, or too long."""
    if not 0 < days <= settings.ENV.TOKEN_MAX_DAYS:
        raise BadToken(
            f"A token must expire in more than 0 and at most {settings.ENV.TOKEN_MAX_DAYS:g} days, not {days:g}."
        )


def revoke(row: AuthToken) -> None:
    """Ends a token at once."""
    with transaction.atomic():
        audit.record("token.revoke", row.token_key, before={"user": row.user, "scope": scope_of(row).value})
        row.delete()


def scope_of(row: AuthToken) -> Scope:
    begins = [scope for scope, prefix in PREFIXES.items() if prefix and row.token_key.startswith(prefix)]
    return begins[0] if begins else Scope.MANAGE


def allows(row: AuthToken, needed: Scope) -> bool:
    order = list(Scope)
    return order.index(scope_of(row)) >= order.index(needed)


def expired() -> QuerySet[AuthToken]:
    """Tokens that nobody can use any more."""
    expired: QuerySet[AuthToken] = AuthToken.objects.filter(Q(expiry__lt=Now()) | Q(created__lt=Now() - max_age()))
    return expired


def find(token: str) -> AuthToken | None:
    """The row of a token that can be used, with its user; None if there is none. Its use is noted, once a minute."""
    digest = hash_token(token)
    with connection.cursor() as cursor:
        parameters: dict[str, Any] = {"key": token[: CONSTANTS.TOKEN_KEY_LENGTH], "max_age": max_age()}
        cursor.execute(FIND, parameters)
        rows = cursor.fetchall()
    for owner, has_grants, is_use_due, *columns in rows:
        row = AuthToken.from_db(connection.alias, _TOKEN, columns[: len(_TOKEN)])
        if compare_digest(digest, row.digest):
            row.user = _user(columns[len(_TOKEN) :], owner, has_grants)
            if is_use_due:
                _note_use(row)
            return row
    return None


def _user(columns: list[object], owner: str, has_grants: bool) -> User:
    user = User.from_db(connection.alias, _USER, columns)
    user.account = Account(owner=owner, user_id=user.pk)
    user.has_grants = has_grants  # type: ignore[attr-defined]
    return user


def _note_use(row: AuthToken) -> None:
    """A database that only reads at the moment still lets read."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(NOTE_USE, {"digest": row.digest})
    except DatabaseError as error:
        logger.warning("The last use of a token was not recorded: %s", error)


def listed(username: str | None = None) -> QuerySet[AuthToken]:
    """Tokens with their users and details, the latest first."""
    tokens: QuerySet[AuthToken] = AuthToken.objects.select_related("user", "details").order_by("-created", "digest")
    return tokens.filter(user__username=username) if username else tokens
