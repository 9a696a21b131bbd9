"""Tells the failures of the database from those of a handler."""

from __future__ import annotations

import django.db
import psycopg2

DATABASE_ERRORS = (
    django.db.OperationalError,
    django.db.InterfaceError,
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
)

# SQLSTATE classes: connection exception, insufficient resources, operator intervention, system error.
# Source: PostgreSQL's manual, appendix A.
UNAVAILABLE_CLASSES = ("08", "53", "57", "58")
# A statement that took too long is the handler's; a conflict with somebody else's transaction is not.
QUERY_CANCELED = "57014"
CONFLICTS = ("40001", "40P01", "55P03")  # serialization failure, deadlock detected, lock not available

READ_ONLY = "25006"


def is_database_fault(error: BaseException) -> bool:
    """Whether the database could not serve whoever asked: another attempt may well succeed, and nobody is to blame.

    A lost connection has no SQLSTATE.
    """
    if not isinstance(error, DATABASE_ERRORS):
        return False
    code = _sqlstate(error)
    return code is None or code in CONFLICTS or (code[:2] in UNAVAILABLE_CLASSES and code != QUERY_CANCELED)


def is_read_only(error: BaseException) -> bool:
    """Whether a database that only reads was asked to write: a replica, or one that is the primary no more."""
    return _sqlstate(error) == READ_ONLY


def _sqlstate(error: BaseException) -> str | None:
    cause = error if isinstance(error, psycopg2.Error) else error.__cause__
    return getattr(cause, "pgcode", None)
