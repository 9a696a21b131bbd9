"""Statements that a session plans once, not each time: PostgreSQL takes longer to plan a claim than to run it."""

from __future__ import annotations

import hashlib
import re
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import django.db
import psycopg2.errors
from django.db import connection

# What is planned is planned anew after so long: tables may have grown from nothing meanwhile.
PLAN_SECONDS = 10.0
# So often a session sends a statement as it is: one that is cleaned after each job would prepare it for one use.
USES_BEFORE = 2

_PARAMETER = re.compile(r"%\((\w+)\)s")
# One plan whatever the values are, which must be right for many rows also where there were few when it was made.
ONE_PLAN = (
    "SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; "
    "SET LOCAL enable_bitmapscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;"
)
# What PostgreSQL raises where a session has lost a statement, has it already, or a table has changed.
_NOT_AS_KNOWN = (
    psycopg2.errors.InvalidSqlStatementName,
    psycopg2.errors.DuplicatePreparedStatement,
    psycopg2.errors.FeatureNotSupported,
)


class Statement:
    """A statement with named parameters. One that may be a fraction has its type written at it: PostgreSQL would take
    it for an integer beside one.
    """

    def __init__(self, sql: str) -> None:
        names = list(dict.fromkeys(_PARAMETER.findall(sql)))
        places = {name: f"${place}" for place, name in enumerate(names, start=1)}
        numbered = _PARAMETER.sub(lambda found: places[found[1]], sql).replace("%%", "%")
        self.sql = sql
        self.name = f"muster_{hashlib.sha256(sql.encode()).hexdigest()[:16]}"
        self.prepare = f"PREPARE {self.name} AS {numbered}"
        values = ", ".join(f"%({name})s" for name in names)
        self.execute = f"EXECUTE {self.name} ({values});" if names else f"EXECUTE {self.name};"


@dataclass
class _Session:
    """What is known of the session of a connection."""

    of: weakref.ReferenceType[Any]
    uses: Counter[str] = field(default_factory=Counter)
    prepared: dict[str, float] = field(default_factory=dict)
    # It does not keep statements, as behind a pool that gives each transaction another session: nothing is prepared.
    forgets: bool = False
    # A handler may have prepared others, or have thrown these away.
    is_suspect: bool = False


_here = threading.local()


@lru_cache(maxsize=200)
def _statement(sql: str) -> Statement:
    return Statement(sql)


def execute(
    cursor: Any,
    statements: Sequence[str],
    parameters: dict[str, Any],
    *,
    before: str = "",
    plan: str = ONE_PLAN,
) -> None:
    """Runs statements as one transaction, prepared ones if this session has run them often enough; the last one's rows
    are the cursor's. Within a transaction of the caller they are sent as they are.

    before: SQL that sets what they run with, until the end of the transaction. plan: so also, where they are prepared.
    """
    plain = before + ";".join(statements)
    if connection.in_atomic_block or (session := _session()).forgets:
        cursor.execute(plain, parameters)
        return
    try:
        known = [_statement(sql) for sql in statements]
        are_prepared = [_is_prepared(session, each, cursor) for each in known]
        if not all(are_prepared):
            cursor.execute(plain, parameters)
            return
        cursor.execute(before + plan + "".join(each.execute for each in known), parameters)
    except django.db.Error as error:
        if not isinstance(error.__cause__, _NOT_AS_KNOWN):
            raise
        # It was a transaction of its own, so nothing of it is left.
        session.forgets = True
        cursor.execute(plain, parameters)


def forget() -> None:
    """What this thread's session has prepared is about to be gone: it is cleaned."""
    _here.__dict__.pop("session", None)


def distrust() -> None:
    """A handler may do something to what this thread's session has prepared."""
    if session := getattr(_here, "session", None):
        session.is_suspect = True


def are_kept() -> bool:
    """Whether what this thread's session has prepared can stay when it is cleaned."""
    session: _Session | None = getattr(_here, "session", None)
    return session is not None and not session.is_suspect


def _session() -> _Session:
    connection.ensure_connection()
    raw = connection.connection
    session: _Session | None = getattr(_here, "session", None)
    if session is None or session.of() is not raw:
        session = _here.session = _Session(weakref.ref(raw))
    return session


def _is_prepared(session: _Session, statement: Statement, cursor: Any) -> bool:
    """Prepares it if it has been used often enough."""
    session.uses[statement.name] += 1
    if session.uses[statement.name] <= USES_BEFORE:
        return False
    now = time.monotonic()
    prepared_at = session.prepared.get(statement.name)
    if prepared_at is None or now - prepared_at > PLAN_SECONDS:
        if prepared_at is not None:
            cursor.execute(f"DEALLOCATE {statement.name}")
        cursor.execute(statement.prepare)
        session.prepared[statement.name] = now
    return True
