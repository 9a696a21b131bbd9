"""Calls a user's function in a transaction that must not depend on it: it may fail, hang or end the transaction."""

from __future__ import annotations

import contextvars
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import psycopg2.extensions as pg
from django.db import DEFAULT_DB_ALIAS, OperationalError, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from orchestrator.attempt import prepared, session
from orchestrator.attempt.process_state import Raised, shielded
from orchestrator.attempt.session import CLEAN, Hook, Lent
from orchestrator.attempt.timeouts import stack_of
from orchestrator.database_errors import is_database_fault
from orchestrator.failures import error_of

logger = logging.getLogger(__name__)

Call = ParamSpec("Call")
R = TypeVar("R")

# How long each statement of a callback may take. Whoever calls it may be a tick or a heartbeat, which others wait for.
LIMIT_SECONDS = 5.0
# How much longer a callback may take, so that PostgreSQL ends its statement first, and after the commit its hooks.
MARGIN_SECONDS = 1.0
# How often a callback is called whose failure is the database's.
MAX_TRIES = 3
# How many callbacks are remembered that are not to be called again.
MAX_REMEMBERED = 1_000

SET_LIMITS = """
SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'),
       set_config('statement_timeout', %s, true)
"""
RESET_LIMITS = """
SELECT set_config('statement_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true)
"""
# Otherwise what violates them would fail the commit.
CHECK_DEFERRED_CONSTRAINTS = "SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED"

# Of a callback: whose it is, so that it is recognized when it would be called again.
Key = tuple[Any, ...]

# How often each has lost its caller's transaction in this process.
_lost: dict[Key, int] = {}


class TransactionLost(OperationalError):
    """A callback has lost the transaction in which it was called; when that is tried again, all may go well."""


class _Hangs(Exception):
    """The function has not returned in time."""


def call(callback: Callable[[], object], whose: str, *, key: Key, verify: Callable[[], object]) -> None:
    """Calls it, then `verify`, within a savepoint of the current transaction. Whatever they raise is logged and rolls
    back to the savepoint; after a failure of the database, such as a deadlock, the callback is called again.

    whose: for the log. key: of a callback that has lost its caller's transaction before, which is not called again.

    Raises TransactionLost if it hangs, or has ended the transaction: then nothing of the transaction is kept. Whoever
    began it starts it again, see `begun_again`.
    """
    if _lost.get(key, 0) >= MAX_TRIES:
        return
    *before, _ = _execute(SET_LIMITS, [f"{LIMIT_SECONDS:g}s"])
    for _ in range(MAX_TRIES):
        running = _Callback(callback)
        error = _error_of(running, verify)
        if error is not None:
            _log(f"{whose} failed; the job stays as it is. %s", error)
            connection_failed = running.connection_failed
            if not _is_usable(running.raw):
                _remember(key, at_once=not connection_failed)
                raise TransactionLost(f"{whose} has lost the transaction: {error_of(error)}") from None
        if running.changed_session:
            _clean()
        if error is None or not is_database_fault(error):
            break
    _execute(RESET_LIMITS, before)
    if running.hooks and error is None:
        transaction.on_commit(partial(_run_hooks, running.hooks, whose))


def _clean() -> None:
    prepared.forget()
    _execute(CLEAN)


def _error_of(running: _Callback, verify: Callable[[], object]) -> BaseException | None:
    """Runs the callback, and returns what it or `verify` raised."""
    try:
        with transaction.atomic():
            running.run()
            if running.changed_session:
                _clean()
            _execute(CHECK_DEFERRED_CONSTRAINTS)
            verify()
    except BaseException as failure:
        return failure.error if isinstance(failure, Raised) else failure
    return None


def begun_again(function: Callable[Call, R]) -> Callable[Call, R]:
    """Has the function, which begins a transaction, called again if a callback has lost that transaction.

    Within another transaction TransactionLost is raised, for whoever began that one.
    """

    @wraps(function)
    def wrapped(*args: Call.args, **kwargs: Call.kwargs) -> R:
        while True:
            try:
                return function(*args, **kwargs)
            except TransactionLost:
                if connection.in_atomic_block:
                    raise

    return wrapped


class _Limited:
    """A user's function in a thread of its own, so that nobody needs to wait for it longer than the limit."""

    def __init__(self, function: Callable[[], object]) -> None:
        # A context has what the caller's log lines and spans are about.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=[function], name="callback", daemon=True)

    def run(self) -> None:
        """Raises _Hangs if it has not returned in time."""
        self._thread.start()
        self._thread.join(LIMIT_SECONDS + MARGIN_SECONDS)
        if self._thread.is_alive():
            where = stack_of(self._thread)
            raise _Hangs(f"It had not returned after {LIMIT_SECONDS + MARGIN_SECONDS:g} s:\n{where}")


class _Callback:
    """A callback that uses the caller's transaction by a Django connection of its own.

    So one that hangs can be left behind: when it goes on, it finds that connection closed.
    """

    def __init__(self, callback: Callable[[], object]) -> None:
        self.raw: pg.connection = connection.connection
        self.hooks: Sequence[Hook] = []
        self.changed_session = False
        self._callback = callback
        self._failure: BaseException | None = None
        self._in_statement = False

    def run(self) -> None:
        """Raises Raised with what the callback raised, _Hangs, or ConnectionMisused."""
        try:
            _Limited(self._call).run()
        except BaseException:  # Also Ctrl-C while it waits.
            self._leave_behind()
            raise
        if self._failure:
            raise self._failure

    def _call(self) -> None:
        lent: Lent | None = None
        try:
            connections[DEFAULT_DB_ALIAS] = _within_transaction(self.raw)
            with Lent() as lent:
                shielded(self._callback)
        except BaseException as failure:
            self._failure = failure
        finally:
            if lent:
                self.hooks, self.changed_session = lent.hooks, lent.changed_session
            _close(but=DEFAULT_DB_ALIAS)

    @property
    def connection_failed(self) -> bool:
        """Whether PostgreSQL may be what it failed of: the connection is lost, or a statement has not returned."""
        return self._in_statement or self.raw.closed > 1

    def _leave_behind(self) -> None:
        self._in_statement = self.raw.info.transaction_status == pg.TRANSACTION_STATUS_ACTIVE
        # psycopg2 closes a connection only when its statement has returned, which this makes it do at once.
        with suppress(Exception), socket.socket(fileno=os.dup(self.raw.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        # Not the method of this connection, which a handler that is the caller is refused.
        BaseDatabaseWrapper.close(connections[DEFAULT_DB_ALIAS])


def _within_transaction(raw: pg.connection) -> BaseDatabaseWrapper:
    """Another of Django's connections by the same connection to PostgreSQL, and in its transaction."""
    wrapper = connections.create_connection(DEFAULT_DB_ALIAS)
    wrapper.connection = raw
    wrapper.in_atomic_block = True
    return wrapper


def _is_usable(raw: pg.connection) -> bool:
    """Whether the caller can go on with its transaction."""
    wrapper = connections[DEFAULT_DB_ALIAS]
    if raw.closed:
        BaseDatabaseWrapper.close(wrapper)
    return not (raw.closed or wrapper.needs_rollback) and raw.info.transaction_status == pg.TRANSACTION_STATUS_INTRANS


def _remember(key: Key, *, at_once: bool) -> None:
    _lost[key] = MAX_TRIES if at_once else _lost.pop(key, 0) + 1
    while len(_lost) > MAX_REMEMBERED:
        del _lost[next(iter(_lost))]


def _execute(sql: str, parameters: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Returns the first row, if there is one."""
    # By a plain cursor of psycopg2: what a handler sends by Django's, which may be the caller, is watched.
    with connection.wrap_database_errors, pg.cursor(connection.connection) as cursor:
        cursor.execute(sql, parameters)
        return tuple(cursor.fetchone()) if cursor.description else ()


def _run_hooks(hooks: Sequence[Hook], whose: str) -> None:
    """Runs a callback's on_commit hooks, after the commit."""

    def run() -> None:
        try:
            session.run_hooks(hooks, whose)
        finally:
            _close()

    try:
        _Limited(run).run()
    except _Hangs as hangs:
        _log(f"An on_commit hook of {whose} hangs; the job stays as it is. %s", hangs)


def _close(*, but: str = "") -> None:
    """Closes the connections of a thread that ends."""
    for each in connections.all(initialized_only=True):
        if each.alias != but:
            with suppress(Exception):
                each.close()


def _log(message: str, error: BaseException) -> None:
    try:
        logger.error(message, error_of(error), exc_info=error)
    except BaseException:  # What formats the traceback may not be ours, and the exception is a user's.
        logger.error(message, error_of(error))
