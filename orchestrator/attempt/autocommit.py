"""What the handler of a kind that is not atomic has instead of a transaction of its own: it commits as it likes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import psycopg2.extensions as pg
from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from orchestrator.attempt import prepared, session
from orchestrator.attempt.own_transaction import step_committed, step_committing
from orchestrator.attempt.process_state import Raised
from orchestrator.attempt.session import Watch
from orchestrator.database_errors import is_lost_connection

T = TypeVar("T")


class TransactionLeftOpen(Exception):
    """A handler that ends its transactions itself did not."""

    def __init__(self) -> None:
        super().__init__("The handler left a transaction open. What it had written in it was rolled back.")


class Autocommit:
    """Has the interface of `OwnTransaction`. The job is completed in a transaction that the handler has no part in."""

    began_at: int | None = None

    def __init__(self) -> None:
        # Whether the handler has sent nothing and left the connection as it was.
        self.is_untouched = True
        # When the handler last sent a statement, by this process's monotonic clock, and on which connection.
        self._sent_at = 0.0
        self._raw: pg.connection | None = None

    def __enter__(self) -> Autocommit:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def call(self, handler: Callable[[], T]) -> T:
        """Calls a handler. Raises TransactionLeftOpen if it has left a transaction open."""
        connection.ensure_connection()
        wrapper, wrappers = connections[DEFAULT_DB_ALIAS], list(connection.execute_wrappers)
        wrapper.execute_wrappers.append(self._execute)
        watch = Watch(wrapper)
        try:
            result = handler()
        except Raised as raised:
            if is_lost_connection(raised.error):
                raised.is_from_another_database = not watch.is_lost
            raise
        finally:
            self.is_untouched = watch.saw_nothing
            watch.end()
            connections[DEFAULT_DB_ALIAS] = wrapper
            wrapper.execute_wrappers = wrappers
        if not self.is_untouched:
            prepared.distrust()
            _refuse_open_transaction(wrapper)
        return result

    def end(self) -> None:
        """Nothing is open."""

    def use(self) -> None:
        """Whether or not the handler has sent anything, the job is completed in a transaction of its own."""

    def completing(self) -> AbstractContextManager[object]:
        """Within it the job is completed."""
        return transaction.atomic()

    @property
    def idle_seconds(self) -> float:
        """How long the handler has kept a transaction open without sending anything. Any thread may ask."""
        return time.monotonic() - self._sent_at if self._sent_at and session.is_in_transaction(self._raw) else 0

    @property
    def is_in_use(self) -> bool:
        """Whether its thread and connection are still needed, after what was run in it so far."""
        raw = connection.connection
        return connection.in_atomic_block or session.is_in_transaction(raw) or not (raw is None or raw.autocommit)

    @property
    def is_unused(self) -> bool:
        """Never: what a handler that commits as it likes has done to its session is not known."""
        return False

    @property
    def is_begun(self) -> bool:
        """Whether the handler has begun a transaction."""
        return connection.in_atomic_block

    @contextmanager
    def step(self, whose: str, write_progress: Callable[[], None]) -> Iterator[None]:
        """A transaction that commits what is written in it together with the progress."""
        if connection.in_atomic_block:
            raise RuntimeError("A step must not be inside a transaction of the handler's own.")
        with transaction.atomic():
            yield
            write_progress()
            step_committing()
        step_committed()

    @contextmanager
    def connection_closed(self) -> Iterator[None]:
        """Gives the connection back meanwhile."""
        connection.close()
        yield

    def run_hooks(self, whose: str) -> None:
        """Django has run them at each commit."""

    def _execute(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        try:
            return execute(sql, params, many, context)
        finally:
            self._sent_at, self._raw = time.monotonic(), connection.connection


def _refuse_open_transaction(wrapper: BaseDatabaseWrapper) -> None:
    raw = wrapper.connection
    if raw is None:
        return
    if wrapper.in_atomic_block or not raw.autocommit or session.is_in_transaction(raw):
        session.discard()
        raise TransactionLeftOpen
    if raw.closed:
        session.discard()
