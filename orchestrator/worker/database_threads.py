"""The threads in which async jobs use the database: a bounded number, each with a connection of its own."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from django.db import close_old_connections, connections

from orchestrator.attempt.process_state import end_if_forked
from orchestrator.worker.completions import NotEnded, Transaction

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseThreads(Executor):
    """Like a ThreadPoolExecutor, but nobody waits for its threads at exit, and they close their connections."""

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._work: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._stopped = False

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            self._work.append(_Work(future, partial(function, *args, **kwargs)))
            if len(self._work) > self._idle and len(self._threads) < self._count:
                self._threads.append(threading.Thread(target=self._serve, name=self._name, daemon=True))
                self._threads[-1].start()
            self._changed.notify()
        return future

    def stop(self, timeout_seconds: float) -> None:
        """Ends the threads, once they are done."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout_seconds)

    def _serve(self) -> None:
        try:
            while work := self._next():
                # As before a request: a connection that is old or has broken is not used again.
                close_old_connections()
                work.run()
                del work
        finally:
            connections.close_all()

    def _next(self) -> _Work | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._work or self._stopped)
            self._idle -= 1
            return self._work.popleft() if self._work else None


class Statements(Executor):
    """The statements of one attempt, for asgiref: they run one by one in a thread that the attempt has to itself.

    It gets one with its first statement, as soon as one is free, and keeps it for as long as its transaction lasts.
    """

    def __init__(self, threads: DatabaseThreads, attempt: Callable[[Callable[[Transaction], str]], None]) -> None:
        """attempt: runs the attempt in the current thread, by calling what it is given for the handler's result.

        It raises NotEnded if that does.
        """
        self._threads, self._attempt = threads, attempt
        self._work: deque[_Work] = deque()
        self._changed = threading.Condition()
        self._serving: Future[None] | None = None
        # How the handler has ended: returns its result or raises what it raised.
        self._outcome: Callable[[], str] | None = None

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            if self._outcome:
                raise RuntimeError("The job has ended, and what it has left behind cannot use its transaction.")
            self._work.append(_Work(future, partial(function, *args, **kwargs)))
            if self._serving is None:
                self._serving = self._threads.submit(self._serve)
            self._changed.notify()
        return future

    def end(self, outcome: Callable[[], str]) -> bool:
        """The handler has ended. Returns whether a thread ends its attempt, in the transaction that it has begun.

        Calls that wait are cancelled. `outcome` returns the handler's result as JSON, or raises.
        """
        with self._changed:
            self._outcome = outcome
            while self._work:
                self._work.popleft().future.cancel()
            self._changed.notify()
            return self._serving is not None and not self._serving.cancel()

    def _serve(self) -> None:
        while True:
            try:
                self._attempt(self._run_statements)
                return
            except NotEnded:
                with self._changed:
                    if not (self._work or self._outcome):
                        self._serving = None
                        return

    def _run_statements(self, transaction: Transaction) -> str:
        while work := self._next(transaction):
            work.run()
            del work
        assert self._outcome
        return self._outcome()

    def _next(self, transaction: Transaction) -> _Work | None:
        """The next statement; None once the handler has ended."""
        with self._changed:
            if not self._work and not self._outcome and not transaction.is_in_use:
                raise NotEnded
            self._changed.wait_for(lambda: self._work or self._outcome)
            return None if self._outcome else self._work.popleft()


class _Work:
    def __init__(self, future: Future[Any], function: Callable[[], Any]) -> None:
        self.future, self._function = future, function

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        pid = os.getpid()
        try:
            result = self._function()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)
        finally:
            end_if_forked(pid)
