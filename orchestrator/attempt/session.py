"""The database connection while a handler uses it: what is refused, and how it is cleaned for the next job."""

from __future__ import annotations

import logging
import re
import reprlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import psycopg2.extensions as pg
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from orchestrator.attempt import prepared
from orchestrator.attempt.process_state import Raised, shielded
from orchestrator.attempt.watched_connection import WatchedConnection, WatchedCursor
from orchestrator.database_errors import is_database_fault, is_lost_connection
from orchestrator.failures import error_of

logger = logging.getLogger(__name__)

_ROLE = settings.DATABASES[DEFAULT_DB_ALIAS]["OPTIONS"].get("assume_role")

# Undoes whatever a handler set on its session: settings, role, cursors, prepared statements, LISTEN, temporary tables,
# sequences' last values, and locks. Unlike DISCARD ALL it runs within a transaction, hence in the message that
# completes the job, and keeps the plans of foreign keys. Time zone and date style are those that Django and psycopg2
# set when they connect.
_CLEAN = f"""
RESET SESSION AUTHORIZATION; RESET ROLE; {f'SET ROLE "{_ROLE}";' if _ROLE else ""} RESET ALL;
SET TimeZone TO 'UTC'; SET DateStyle TO 'ISO';
CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES;
"""
CLEAN = f"{_CLEAN} DEALLOCATE ALL; SELECT pg_advisory_unlock_all()"
# Keeps what the worker has prepared.
CLEAN_BUT_PREPARED = f"{_CLEAN} SELECT pg_advisory_unlock_all(), orchestrator_deallocate()"

# When the current transaction began, in microseconds: differs from that of the next one, whatever date style is set.
BEGAN_AT = "(extract(epoch FROM now()) * 1000000)::bigint"

_COMMENTS = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
# Statements that end or begin a transaction; savepoints do not.
_TRANSACTION_CONTROL = re.compile(
    _COMMENTS
    + r"(?:COMMIT|END|ABORT|BEGIN|START\s+TRANSACTION|PREPARE\s+TRANSACTION"
    + r"|ROLLBACK(?!\s+(?:(?:WORK|TRANSACTION)\s+)?TO\b))\b",
    re.IGNORECASE | re.DOTALL,
)
_BACK_TO_SAVEPOINT = re.compile(
    _COMMENTS + r"(?:ROLLBACK\s+(?:(?:WORK|TRANSACTION)\s+)?TO|RELEASE)\s+(?:SAVEPOINT\s+)?\"?(?P<name>\w+)",
    re.IGNORECASE | re.DOTALL,
)
# Statements that leave the transaction as it is, in a text that has but one.
_STAYS = re.compile(
    r"\s*(?:SELECT|INSERT|UPDATE|DELETE|WITH|SAVEPOINT|RELEASE\s+SAVEPOINT|ROLLBACK\s+TO\s+SAVEPOINT)\b[^;]*$",
    re.IGNORECASE,
)
# Statements that change the session for the rest of a batch.
_SESSION_CONTROL = re.compile(
    _COMMENTS + r"(?:SET|RESET|DISCARD|LISTEN|UNLISTEN|PREPARE|DEALLOCATE|DECLARE|LOAD|CREATE\s+(?:\w+\s+)?TEMP)",
    re.IGNORECASE | re.DOTALL,
)
_SESSION_FUNCTIONS = ("set_config", "advisory_lock")
_SET = re.compile(r"\s*SET\b", re.IGNORECASE)
REPLACED = "replaced its database connection"

Hook = Callable[[], object]


class ConnectionMisused(Exception):
    """A handler ended or broke the transaction that belongs to its worker."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The handler {what}. A job's transaction is ended by its worker, together with the job, so that its "
            "writes are kept if and only if it completes; job.step() commits them earlier."
        )


class ConnectionState(NamedTuple):
    """What Django and psycopg2 know of a connection and its transaction, as far as handlers may change it."""

    is_idle: bool
    savepoint_ids: list[str]
    atomic_blocks: list[Any]
    execute_wrappers: list[Any]
    hooks: int
    settings: tuple[Any, ...]
    reading: tuple[Any, ...]
    flags: tuple[Any, ...]

    @classmethod
    def of(cls, wrapper: BaseDatabaseWrapper) -> ConnectionState:
        return cls(
            _is_idle(wrapper.connection),
            list(wrapper.savepoint_ids),
            list(wrapper.atomic_blocks),
            list(wrapper.execute_wrappers),
            len(wrapper.run_on_commit),
            _settings(wrapper.connection),
            _reading(wrapper.connection),
            (
                wrapper.in_atomic_block,
                wrapper.autocommit,
                wrapper.needs_rollback,
                wrapper.connection.autocommit,
                wrapper.connection.closed,
                vars(wrapper).get("close"),
            ),
        )


class Watch:
    """Notices whether a connection is used, from now on."""

    def __init__(self, wrapper: BaseDatabaseWrapper) -> None:
        self._wrapper, self._raw = wrapper, wrapper.connection
        self._any_cursor = False
        self._factory_before = self._raw.cursor_factory
        # Without a cursor of psycopg2's nothing can be sent.
        self._factory = self._raw.cursor_factory = self._make_cursor
        self._before = ConnectionState.of(wrapper)

    @property
    def saw_nothing(self) -> bool:
        """Whether nothing was sent, and the connection and its state are the same."""
        if self._any_cursor or connections[DEFAULT_DB_ALIAS] is not self._wrapper:
            return False
        with suppress(Exception):  # A handler may have set anything.
            return self._wrapper.connection is self._raw and ConnectionState.of(self._wrapper) == self._before
        return False

    @property
    def is_lost(self) -> bool:
        return bool(self._raw.closed)

    def end(self) -> None:
        if self._raw.cursor_factory is self._factory:
            self._raw.cursor_factory = self._factory_before

    def _make_cursor(self, *options: Any) -> pg.cursor:
        self._any_cursor = True
        return (WatchedCursor if self._factory_before in (None, pg.cursor) else self._factory_before)(*options)


class Lent:
    """Lends the connection, within a transaction, to a handler, and restores it when it is given back.

    Statements that would end the transaction are refused, and any that would be sent outside it. What bypasses that
    (psycopg2's own connection, a transaction.atomic() left open) is detected when the connection is given back.
    """

    def __init__(self, *, watched: bool = False, replaces_lost: bool = False) -> None:
        """watched: `began_at` is read before anything is sent that could end the transaction, for
        `transitions.complete` to check that it is still the same one.
        replaces_lost: the connection before it may have been lost, so such a failure is not another database's.
        """
        self.began_at: int | None = None
        self.hooks: list[Hook] = []
        self.changed_session = False
        self._replaces_lost = replaces_lost
        self._wrapper = connections[DEFAULT_DB_ALIAS]
        self._raw = self._wrapper.connection
        self._before = ConnectionState.of(self._wrapper)
        self._wrapper.execute_wrappers.append(self._execute)
        self._wrapper.close = self._refuse_close  # type: ignore[method-assign]
        # When the handler last sent a statement, by this process's monotonic clock.
        self.sent_at = 0.0
        self._watch = Watch(self._wrapper) if watched else None
        # Whether a statement has begun the transaction, and whether anything may end it from here on unseen.
        self._is_begun = False
        self._may_end = not isinstance(self._raw, WatchedConnection)
        # What Django is sending, after `_execute` has seen it.
        self._sending: Any = None
        if watched and not self._may_end:
            self._raw.before_use = self._before_use

    def __enter__(self) -> Lent:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.give_back(error)

    @property
    def is_untouched(self) -> bool:
        """Whether the handler has sent nothing through a watched connection, and left it as it was lent."""
        return self._watch is not None and self._watch.saw_nothing

    @property
    def idle_seconds(self) -> float:
        """How long the handler has kept its transaction open without sending anything. Any thread may ask."""
        return time.monotonic() - self.sent_at if self.sent_at and is_in_transaction(self._raw) else 0

    @property
    def hooks_so_far(self) -> int:
        return len(self._wrapper.run_on_commit or []) - self._before.hooks

    def check(self) -> None:
        """Raises ConnectionMisused if what this thread sends from now on would not be in this transaction."""
        if self._is_replaced():
            raise ConnectionMisused(REPLACED)
        self._check_transaction()

    def _is_replaced(self) -> bool:
        return connections[DEFAULT_DB_ALIAS] is not self._wrapper

    def _check_transaction(self) -> None:
        if ended := self._how_transaction_ended():
            raise ConnectionMisused(ended)

    def give_back(self, failure: BaseException | None = None) -> None:
        """Restores what Django knows of the transaction.

        Raises ConnectionMisused if the handler misused the connection, unless it failed for another reason anyway.
        """
        wrapper = self._wrapper
        vars(wrapper).pop("close", None)
        if isinstance(self._raw, WatchedConnection):
            self._raw.before_use = None
        # New lists, here and below: a handler may have replaced them.
        wrapper.execute_wrappers = self._before.execute_wrappers
        # Otherwise Django queries the connection just after the transaction ends, which begins another one.
        wrapper.health_check_done = True  # type: ignore[attr-defined]
        hooks = list(wrapper.run_on_commit or [])
        self.hooks = [each[1] for each in hooks[self._before.hooks :]]
        wrapper.run_on_commit = hooks[: self._before.hooks]
        self._restore_reading()
        cause = failure.error if isinstance(failure, Raised) else failure
        ended = REPLACED if self._is_replaced() else self._how_transaction_ended()
        misuse = ended or self._why_uncommittable()
        if misuse:
            self._restore()
        if misuse and (cause is None or (ended and is_database_fault(cause))):
            raise ConnectionMisused(misuse) from cause
        if isinstance(failure, Raised) and is_lost_connection(failure.error):
            failure.is_from_another_database = not (self._raw.closed or self._replaces_lost)

    def _restore_reading(self) -> None:
        if self._watch:
            self._watch.end()
        if _reading(self._raw) != self._before.reading:
            self.changed_session = True
            self._raw.cursor_factory, *converters = self._before.reading
            for now, before in zip((self._raw.string_types, self._raw.binary_types), converters, strict=True):
                now.clear()
                now.update(before)

    def _execute(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        text = _text_of(sql, context)
        if _TRANSACTION_CONTROL.match(text):
            raise ConnectionMisused(f"sent {reprlib.repr(text)}")
        if (savepoint := _BACK_TO_SAVEPOINT.match(text)) and savepoint["name"] in self._before.savepoint_ids:
            raise ConnectionMisused("rolled back to or released a savepoint that is not its own")
        self._check_transaction()
        if _changes_session(text):
            self.changed_session = True
            prepared.distrust()
        self._may_end = self._may_end or not _STAYS.match(text)
        # SET TRANSACTION must come before any query, and what fails beyond Django's cursors is rolled back before any.
        if self._may_end and not _SET.match(text):
            self._read_began_at()
        self._sending = sql
        try:
            result = execute(sql, params, many, context)
            self._is_begun = True
            return result
        finally:
            self._sending = None
            self._is_begun = self._is_begun or not _is_idle(self._raw)
            self.sent_at = time.monotonic()

    def _before_use(self, sql: Any = None) -> None:
        """Something is sent, or will be, that `_execute` has not seen."""
        if sql is not None and sql is self._sending:
            return
        if self._is_begun:
            self._check_transaction()
            self._read_began_at()
        self._may_end = True

    def _read_began_at(self) -> None:
        if self._watch and self.began_at is None and not _is_failed(self._raw):
            self.began_at = transaction_began_at(self._wrapper)
            self._is_begun = True

    def _refuse_close(self) -> None:
        raise ConnectionMisused("closed its database connection, as django.db.close_old_connections() does")

    def _how_transaction_ended(self) -> str | None:
        """What the handler did that ended the transaction; None if it still runs."""
        wrapper, raw = self._wrapper, self._raw
        if wrapper.connection is not raw:
            return REPLACED
        if raw.closed > 1:  # The connection was lost, which is not the handler's fault.
            return None
        if raw.closed:
            return "closed its database connection"
        if raw.autocommit or not wrapper.in_atomic_block or wrapper.autocommit:
            return "ended its transaction by switching autocommit on"
        if _is_idle(raw) and (not self._before.is_idle or self._is_begun or raw.status == pg.STATUS_BEGIN):
            return "ended its transaction, as COMMIT and ROLLBACK do"
        if _settings(raw) != self._before.settings:
            return "set the encoding or isolation of psycopg2's own connection"
        return None

    def _why_uncommittable(self) -> str | None:
        """What the handler did so that its running transaction cannot be committed; None if it can."""
        wrapper, raw, before = self._wrapper, self._raw, self._before
        if (wrapper.savepoint_ids, wrapper.atomic_blocks) != (before.savepoint_ids, before.atomic_blocks):
            return "left a transaction.atomic() open, or ended one that it had not started"
        if _is_failed(raw):
            return "continued after a database error without a transaction.atomic() around what failed"
        if wrapper.needs_rollback:
            return "left its transaction marked for a rollback, as set_rollback(True) does"
        return None

    def _restore(self) -> None:
        wrapper, raw = self._wrapper, self._raw
        connections[DEFAULT_DB_ALIAS] = wrapper
        if wrapper.connection is not raw:
            with suppress(Exception):
                wrapper.connection.close()
            wrapper.connection = raw
        wrapper.savepoint_ids, wrapper.atomic_blocks = self._before.savepoint_ids, self._before.atomic_blocks
        wrapper.in_atomic_block, wrapper.autocommit, wrapper.needs_rollback = True, False, False
        if raw.closed or raw.autocommit or _is_idle(raw) or _settings(raw) != self._before.settings:
            # How Django marks a transaction as lost, whatever state it is in.
            wrapper.closed_in_transaction = False
            wrapper.close()


def _is_idle(raw: pg.connection) -> bool:
    return bool(raw.info.transaction_status == pg.TRANSACTION_STATUS_IDLE)


def _is_failed(raw: pg.connection) -> bool:
    """Whether its transaction can only be rolled back, as a whole or to a savepoint."""
    return bool(raw.info.transaction_status == pg.TRANSACTION_STATUS_INERROR)


def is_in_transaction(raw: pg.connection | None) -> bool:
    """Whether a transaction is open in which nothing is being done just now."""
    return raw is not None and raw.info.transaction_status in (
        pg.TRANSACTION_STATUS_INTRANS, pg.TRANSACTION_STATUS_INERROR
    )  # fmt: skip


def _settings(raw: pg.connection) -> tuple[Any, ...]:
    """What psycopg2 itself keeps for a connection, whatever PostgreSQL has set."""
    return () if raw.closed else (raw.encoding, raw.isolation_level, raw.readonly, raw.deferrable)


def _reading(raw: pg.connection) -> tuple[Any, ...]:
    """How psycopg2 converts what it reads to Python values."""
    return raw.cursor_factory, dict(raw.string_types), dict(raw.binary_types)


def _text_of(sql: Any, context: Mapping[str, Any]) -> str:
    if isinstance(sql, bytes):
        return sql.decode(errors="replace")
    return sql if isinstance(sql, str) else str(sql.as_string(context["cursor"].cursor))


def _changes_session(text: str) -> bool:
    return bool(_SESSION_CONTROL.match(text)) or any(name in text.lower() for name in _SESSION_FUNCTIONS)


@contextmanager
def session_kept() -> Iterator[None]:
    """While others read an exception, such as what a library adds to the log, its text cannot change the session."""
    with connection.execute_wrapper(_refuse_changes):
        yield


def _refuse_changes(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Mapping[str, Any]) -> Any:
    if _changes_session(_text_of(sql, context)):
        raise RuntimeError("The text of an exception may not change the database session.")
    return execute(sql, params, many, context)


@contextmanager
def workers_cursor(connection: BaseDatabaseWrapper) -> Iterator[pg.cursor]:
    """A plain cursor of psycopg2, for a statement of the worker's own in a handler's transaction: the handler may have
    set other factories, and `_execute` wraps Django's cursors.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors, pg.cursor(connection.connection) as cursor:
        yield cursor


def transaction_began_at(connection: BaseDatabaseWrapper) -> int:
    with workers_cursor(connection) as cursor:
        pg.register_type(pg.LONGINTEGER, cursor)
        cursor.execute(f"SELECT {BEGAN_AT}")
        return int(cursor.fetchone()[0])


def read_aside(sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What a statement reads for a handler that has not asked the database itself: it begins no transaction, and the
    connection counts as unused.
    """
    wrapper = connections[DEFAULT_DB_ALIAS]
    wrapper.ensure_connection()
    raw = wrapper.connection
    begins_one = not raw.autocommit and _is_idle(raw)
    if begins_one:
        raw.autocommit = True
    try:
        with wrapper.wrap_database_errors, pg.cursor(raw) as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())
    finally:
        if begins_one and not raw.closed:
            raw.autocommit = False


def run_hooks(hooks: Sequence[Hook], whose: str) -> None:
    """Runs a handler's on_commit hooks. The job is already completed, so what a hook raises is only logged."""
    for hook in hooks:
        try:
            shielded(hook)
        except Raised as raised:
            error = raised.error
            logger.error(
                "An on_commit hook of %s failed; the job stays as it is. %s", whose, error_of(error), exc_info=error
            )
    if hooks:
        clean()


def clean() -> None:
    """Undoes whatever a handler or a hook set on the connection, outside any transaction; replaces it if it must."""
    wrapper = connections[DEFAULT_DB_ALIAS]
    if wrapper.connection is None:
        return
    try:
        if wrapper.in_atomic_block or not wrapper.connection.autocommit or wrapper.connection.closed:
            raise ConnectionMisused("left a transaction open")
        prepared.forget()
        with wrapper.cursor() as cursor:
            cursor.execute(CLEAN)
    except Exception as error:
        logger.info("The connection to the database is replaced: %s", error_of(error))
        discard()


def discard() -> None:
    """Closes the connection, in whatever state it is; the next statement opens a new one."""
    wrapper = connections[DEFAULT_DB_ALIAS]
    wrapper.execute_wrappers = []
    wrapper.in_atomic_block = wrapper.closed_in_transaction = False
    with suppress(Exception):
        wrapper.close()
    wrapper.connection = None
