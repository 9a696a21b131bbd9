"""Ways in which handlers do not end, for kinds in tests with real workers."""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable

from django.db import connection

from orchestrator.models import Job
from orchestrator.running import RunningJob


def hang(how: str, running: RunningJob) -> None:
    """Does not end, in one of the ways below."""
    (HANGS | HANGS_WITH_GIL)[how](running)


def never_ends() -> None:
    # Not time.sleep, which fails at once where libfaketime gives the process a wrong clock.
    threading.Event().wait(100_000)


def swallows_everything(running: RunningJob) -> None:
    """As a loop with a bare except does: it hears that it is to end, and goes on."""
    while True:
        try:
            running.sleep(1)
        except BaseException:
            time.sleep(0.1)


def computes() -> None:
    while True:
        sum(range(1_000))


def waits_for_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def waits_for_thread() -> None:
    thread = threading.Thread(target=never_ends)
    thread.start()
    thread.join()


def waits_in_c() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.CDLL(None).sleep(100_000)


def waits_for_database(running: RunningJob) -> None:
    """Meanwhile it holds a lock, so that the next attempt sees whether the connection has ended."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [running.id])
        cursor.execute("SELECT pg_sleep(100000)")


def locks_own_row(running: RunningJob) -> None:
    Job.objects.filter(id=running.id).update(progress_message="mine")
    never_ends()


def holds_gil_in_c() -> None:
    """A signal does not end it, as it would a sleep."""
    lock = ctypes.PyDLL(None).pthread_mutex_lock
    mutex = ctypes.create_string_buffer(64)  # A mutex of zeros is a fresh one.
    lock(mutex)
    lock(mutex)


def holds_gil_in_regex() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


# The ways in which a handler does not end, by name. Those that hold the GIL keep their whole process from going on.
HANGS: dict[str, Callable[[RunningJob], object]] = {
    "sleep": lambda _: never_ends(),
    "swallow": swallows_everything,
    "compute": lambda _: computes(),
    "lock": lambda _: waits_for_lock(),
    "thread": lambda _: waits_for_thread(),
    "subprocess": lambda _: subprocess.run(["sleep", "60"], check=True),
    "c": lambda _: waits_in_c(),
    "query": waits_for_database,
    "own_row": locks_own_row,
}
HANGS_WITH_GIL: dict[str, Callable[[RunningJob], object]] = {
    "gil_in_c": lambda _: holds_gil_in_c(),
    "gil_in_regex": lambda _: holds_gil_in_regex(),
}
