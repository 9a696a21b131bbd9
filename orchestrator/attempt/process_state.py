"""Calls a handler so that what it changes in its process is undone, where the process runs one job at a time."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # Typeshed does not know it.
import asyncio
import contextvars
import decimal
import gc
import locale
import logging
import os
import posix
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from orchestrator.attempt.parameters import Parameters

T = TypeVar("T")


class Raised(Exception):
    """Wraps what a handler raised, so that no code on the way up uses an exception that may itself misbehave."""

    # Whether a lost connection was to a database other than the worker's, whose own connection works.
    is_from_another_database = False

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def shielded(function: Callable[[], T]) -> T:
    """Calls a user's function in a context of its own, so that it changes little for the calls that follow.

    Raises Raised with whatever it raised.
    """
    pid, log_level_disabled = os.getpid(), logging.root.manager.disable
    make_record, clocks, parameters = logging.getLogRecordFactory(), _clocks(), Parameters()
    try:
        return contextvars.copy_context().run(_in_own_context, function)
    except BaseException as error:
        raise Raised(error) from None
    finally:
        end_if_forked(pid)
        parameters.restore()
        if logging.root.manager.disable != log_level_disabled:  # Otherwise failures would not be logged.
            logging.disable(log_level_disabled)
        logging.setLogRecordFactory(make_record)
        _reopen_streams()
        if _clocks() != clocks:  # Otherwise this process would renew its lease no more.
            time.time, time.monotonic, time.perf_counter, time.sleep = clocks
        # Some libraries leave an event loop marked as running, and Django would refuse every query then.
        asyncio._set_running_loop(None)


def _reopen_streams() -> None:
    """A library that closes a standard stream means its own output to end, not that of the next job. Python has closed
    it without its descriptor.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(getattr(sys, name), "closed", False):
            setattr(sys, name, open(number, "w" if number else "r", closefd=False, errors="backslashreplace"))  # noqa: SIM115


def _clocks() -> tuple[Any, ...]:
    """Time as Python tells it. Libraries that freeze time for tests put other functions in their places."""
    return time.time, time.monotonic, time.perf_counter, time.sleep


def end_if_forked(pid: int) -> None:
    """Ends this process at once if it is not that one, but a child that a handler has forked: it must not run or end
    jobs a second time.
    """
    if os.getpid() != pid:
        os._exit(1)


def _in_own_context(function: Callable[[], T]) -> T:
    # A copied context still shares the decimal context.
    decimal.setcontext(decimal.getcontext().copy())
    return function()


_SIGNALS = [
    signal.SIGALRM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGCHLD,
    signal.SIGQUIT,
]
_TIMERS = [signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF]


def _environment() -> dict[bytes, bytes]:
    """As bytes, and from where `os.environ` keeps them: that decodes all of them for each attempt."""
    return dict(posix.environ)


def _set_environment(variables: dict[bytes, bytes]) -> None:
    os.environb.clear()
    os.environb.update(variables)
    time.tzset()  # A handler may have set TZ, which times in the log go by.


def _signal_handlers() -> list[Any]:
    """As the interpreter keeps them: the module `signal` makes an enum of each first."""
    return [_signal.getsignal(number) for number in _SIGNALS]


def _set_signals(handlers: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        if handler is not None and _signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _umask() -> int:
    """Can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


# Without them this process opens no connection, writes no file, or gets no memory, for as long as it lives.
_LIMITS = [resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS]


def _limits() -> list[tuple[int, int]]:
    return [resource.getrlimit(which) for which in _LIMITS]


def _set_limits(were: list[tuple[int, int]]) -> None:
    for which, was in zip(_LIMITS, were, strict=True):
        with suppress(ValueError):  # Only root raises a limit that was lowered for good.
            resource.setrlimit(which, was)


def _set_gc(is_enabled: bool) -> None:
    (gc.enable if is_enabled else gc.disable)()


def _streams() -> tuple[Any, Any, Any]:
    return sys.stdin, sys.stdout, sys.stderr


def _set_streams(were: tuple[Any, Any, Any]) -> None:
    sys.stdin, sys.stdout, sys.stderr = were
    _reopen_streams()


def _blocked_signals() -> set[Any]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def _set_blocked_signals(were: set[Any]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, were)


def _set_filters(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]


def _timers() -> list[tuple[float, float]]:
    return [signal.getitimer(which) for which in _TIMERS]


def _set_timers(were: list[tuple[float, float]]) -> None:
    """Resets timers that now have more time left than before, so were set meanwhile."""
    for which, was in zip(_TIMERS, were, strict=True):
        if signal.getitimer(which)[0] > was[0]:
            signal.setitimer(which, *was)


# If logging.basicConfig(force=True) or dictConfig turned one of them off, failures would not be logged.
_LOGGERS = [logging.root, *map(logging.getLogger, ("orchestrator", "orchestrator.attempts"))]


def _loggers() -> list[tuple[bool, int, bool, list[logging.Handler], list[Any]]]:
    return [(each.disabled, each.level, each.propagate, each.handlers[:], each.filters[:]) for each in _LOGGERS]


def _set_loggers(were: list[tuple[bool, int, bool, list[logging.Handler], list[Any]]]) -> None:
    for logger, (disabled, level, propagate, handlers, filters) in zip(_LOGGERS, were, strict=True):
        logger.disabled, logger.propagate, logger.handlers, logger.filters = disabled, propagate, handlers, filters
        logger.setLevel(level)


# How each is read, and restored if it changed. Signals belong to the main thread, where a prefork child runs its jobs.
_ALONE: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (os.getcwd, os.chdir),
    (_environment, _set_environment),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (lambda: locale.setlocale(locale.LC_ALL), lambda was: locale.setlocale(locale.LC_ALL, was)),
    (lambda: list(warnings.filters), _set_filters),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.getswitchinterval, sys.setswitchinterval),
    (gc.isenabled, _set_gc),
    (_umask, os.umask),
    (_limits, _set_limits),
    (_streams, _set_streams),
    (lambda: sys.path[:], lambda was: sys.path.__setitem__(slice(None), was)),
    (_loggers, _set_loggers),
]
_MAIN_THREAD: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (_signal_handlers, _set_signals),
    (_timers, _set_timers),
    (_blocked_signals, _set_blocked_signals),
    (sys.gettrace, sys.settrace),
    (sys.getprofile, sys.setprofile),
]


class ProcessState:
    """What handlers could change of their process, as it was when this object was made."""

    def __init__(self, *, alone: bool) -> None:
        """alone: no other job runs in this process. Otherwise another's handler may have made a change: it stays."""
        self._parts = list(_ALONE) if alone else []
        if alone and threading.current_thread() is threading.main_thread():
            self._parts += _MAIN_THREAD
        self._before = [read() for read, _ in self._parts]

    def restore(self) -> None:
        """Undoes what was changed since."""
        with suppress(Exception):
            if [read() for read, _ in self._parts] == self._before:
                return
        for (read, write), was in zip(self._parts, self._before, strict=True):
            with suppress(Exception):
                if _now(read) != was:
                    write(was)


@contextmanager
def restored(*, alone: bool) -> Iterator[None]:
    """Undoes, at the end, what was changed meanwhile. See `ProcessState`."""
    state = ProcessState(alone=alone)
    try:
        yield
    finally:
        state.restore()


def _now(read: Callable[[], Any]) -> Any:
    """The current value; None if it cannot be read any more, such as a folder that was deleted."""
    with suppress(Exception):
        return read()
    return None
