"""The transaction in which the handler of a leased job runs, with the connection lent to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import TypeVar

from django.db import connection, transaction

from orchestrator.attempt.session import ConnectionMisused, Hook, Lent, run_hooks
from orchestrator.failpoints import Failpoint

T = TypeVar("T")

step_committing = Failpoint("step-committing")
step_committed = Failpoint("step-committed")


class OwnTransaction:
    """The transaction of an attempt; a step commits it and begins the next.

    PostgreSQL begins it at the first statement only, so a handler that waits first keeps no transaction open. One that
    a handler has left untouched serves the next attempt of the slot, too.

    As a context manager it is the transaction of one attempt: committed at its end, or rolled back.
    """

    def __init__(self) -> None:
        # Whether the handler has sent nothing and left the connection as it was lent.
        self.is_untouched = True
        self._stack = ExitStack()
        self._lent: Lent | None = None
        # The handler's on_commit hooks.
        self._hooks: list[Hook] = []

    def __enter__(self) -> OwnTransaction:
        self._hooks = []
        if self._lent is None:
            self._begin()
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error or not self.is_untouched:
            self._lent, self.is_untouched = None, True
            self._stack.__exit__(type(error) if error else None, error, traceback)

    def call(self, handler: Callable[[], T]) -> T:
        """Calls a handler with the connection, and takes that back if it was used."""
        failure: BaseException | None = None
        try:
            return handler()
        except BaseException as error:
            failure = error
            raise
        finally:
            self.is_untouched &= failure is None and self._lent is not None and self._lent.is_untouched
            if not self.is_untouched:
                self._take_back(failure)

    def end(self) -> None:
        """Ends a transaction that was left open for a next attempt."""
        lent, self._lent = self._lent, None
        if lent:
            try:
                lent.give_back()
            finally:
                self._stack.close()

    @property
    def began_at(self) -> int | None:
        """When PostgreSQL began the transaction that the handler has used; None if it used none."""
        return self._lent.began_at if self._lent else None

    @property
    def idle_seconds(self) -> float:
        """How long the handler has kept the transaction open without sending anything. Any thread may ask."""
        lent = self._lent
        return lent.idle_seconds if lent else 0

    @property
    def is_in_use(self) -> bool:
        """Whether its thread and connection are still needed, after what was run in it so far."""
        return self._lent is None or not self._lent.is_untouched or bool(self._hooks)

    @property
    def is_unused(self) -> bool:
        """Whether its handler, which is running, has sent nothing so far."""
        return self.is_untouched and self._lent is not None and self._lent.is_untouched

    @property
    def is_begun(self) -> bool:
        """Whether PostgreSQL has begun it."""
        return connection.connection is not None and connection.connection.info.transaction_status != 0

    @contextmanager
    def step(self, whose: str, write_progress: Callable[[], None]) -> Iterator[None]:
        """Commits what was written until its end together with the progress."""
        yield
        if len(connection.savepoint_ids) > 0 or not connection.in_atomic_block:
            raise RuntimeError("A step must not end inside a transaction of the handler's own.")
        write_progress()
        step_committing()
        with self._between():
            step_committed()
            self.run_hooks(whose)

    @contextmanager
    def connection_closed(self) -> Iterator[None]:
        """Nothing was sent in this transaction: gives its connection back meanwhile."""
        with self._between():
            connection.close()
            yield

    def use(self) -> None:
        """The worker writes in it, even if the handler has not."""
        if self.is_untouched:
            self.is_untouched = False
            self._take_back(None)

    def completing(self) -> AbstractContextManager[object]:
        """Within it the job is completed: in the handler's own transaction."""
        return nullcontext()

    def run_hooks(self, whose: str) -> None:
        """Runs the handler's on_commit hooks, after the commit."""
        hooks, self._hooks = self._hooks, []
        run_hooks(hooks, whose)

    def _begin(self, *, replaces_lost: bool = False) -> None:
        self._stack.enter_context(transaction.atomic())
        self._lent = Lent(watched=True, replaces_lost=replaces_lost)

    @contextmanager
    def _between(self) -> Iterator[None]:
        """Commits the transaction, and begins another at the end, even after an error: a handler continues in one."""
        self.is_untouched &= self._lent is not None and self._lent.is_untouched
        self._take_back(None)
        # Nothing is lent if the next transaction cannot be begun, as while the database is down.
        self._lent = None
        committed = False
        try:
            self._stack.close()
            committed = True
            yield
        finally:
            self._begin(replaces_lost=not committed)

    def _take_back(self, failure: BaseException | None) -> None:
        if self._lent:
            self._lent.give_back(failure)
            self._hooks += self._lent.hooks
        elif failure is None:
            raise ConnectionMisused("continued although its next transaction could not be started")
