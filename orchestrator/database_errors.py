"""Distinguishes failures of the database from those of a handler."""

from __future__ import annotations

import time

import django.db
import psycopg2
from django.db import connection

from orchestrator.failures import is_one_of

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
LOCK_NOT_AVAILABLE = "55P03"
CONFLICTS = ("40001", "40P01", LOCK_NOT_AVAILABLE)  # serialization failure, deadlock detected, lock not available

READ_ONLY = "25006"


def is_database_fault(error: BaseException) -> bool:
    """Whether the error is the database's: another attempt may well succeed, and nobody is to blame.

    A lost connection has no SQLSTATE. What only calls itself an error of the database, without one as its cause, is
    the handler's.
    """
    if not is_one_of(error, DATABASE_ERRORS) or (cause := _cause(error)) is None:
        return False
    code = cause.pgcode
    return code is None or code in CONFLICTS or (code[:2] in UNAVAILABLE_CLASSES and code != QUERY_CANCELED)


def is_lost_connection(error: BaseException) -> bool:
    """Whether it says that a connection is gone, or was never made: PostgreSQL itself has said nothing."""
    return is_database_fault(error) and _sqlstate(error) is None


def is_lock_timeout(error: BaseException) -> bool:
    """Whether it says that others had something locked for too long: the database itself is there."""
    return _sqlstate(error) == LOCK_NOT_AVAILABLE


def is_read_only(error: BaseException) -> bool:
    """Whether a database that only reads was asked to write: a replica, or one that is the primary no more."""
    return _sqlstate(error) == READ_ONLY


def leave_read_only(error: BaseException) -> None:
    """Has this thread's connection made anew before it is used again, if it led to a database that only reads: of the
    hosts in the URL another may take writes by now.
    """
    if is_read_only(error):
        connection.close_at = time.monotonic()


def _sqlstate(error: BaseException) -> str | None:
    cause = _cause(error)
    return cause.pgcode if cause else None


def _cause(error: BaseException) -> psycopg2.Error | None:
    """What psycopg2 raised; Django's errors have it as their cause."""
    # Not error.__cause__, which an exception may override.
    cause = error if is_one_of(error, (psycopg2.Error,)) else BaseException.__dict__["__cause__"].__get__(error)
    return cause if isinstance(cause, psycopg2.Error) else None
