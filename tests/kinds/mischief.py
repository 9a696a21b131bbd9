"""What handlers do that they should not: a grammar for tests, of acts by name, and whether they fail the job."""

from __future__ import annotations

import asyncio
import decimal
import gc
import logging
import os
import random
import socket
import threading
import warnings
from collections.abc import Callable
from typing import Any

import msgspec
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connection, connections, transaction
from django.utils import translation

from orchestrator.models import Job
from orchestrator.running import Cancelled, Interrupted, RunningJob, TimedOut
from orchestrator.stops import LeaseLost
from tests.moves import put

Act = Callable[[RunningJob], Any]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Numeric(Exception):
    def __str__(self) -> Any:
        return 5


class Setting(Exception):
    def __str__(self) -> str:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = '1ms'")
        return "set"


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise KeyboardInterrupt


class Anonymous(Exception, metaclass=Nameless):
    """Its class does not tell its name."""


class Shifty(Exception):
    __class__ = property(lambda self: 1 / 0)
    __cause__ = property(lambda self: 1 / 0)


class Lazy(dict[str, Any]):
    """A result that cannot be read."""

    def __iter__(self) -> Any:
        raise KeyboardInterrupt


def in_a_circle() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def raising(make: Callable[[], BaseException] | type[BaseException]) -> Act:
    def act(running: RunningJob) -> None:
        raise make()

    return act


def raising_class(error: type[BaseException]) -> Act:
    def act(running: RunningJob) -> None:
        raise error

    return act


def recursing(running: RunningJob) -> None:
    recursing(running)


def sending(*statements: str) -> Act:
    def act(running: RunningJob) -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return act


def sending_raw(*statements: str) -> Act:
    def act(running: RunningJob) -> None:
        with connection.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return act


def in_turn(*acts: Act) -> Act:
    def act(running: RunningJob) -> None:
        for each in acts:
            each(running)

    return act


def raw(method: str) -> Act:
    return lambda running: getattr(connection.connection, method)()


def swallowing(running: RunningJob) -> None:
    try:
        sending("SELECT 1/0")(running)
    except Exception:
        return


def leaving(*hooks: Callable[[], Any], robust: bool = False) -> Act:
    def act(running: RunningJob) -> None:
        for hook in hooks:
            transaction.on_commit(hook, robust=robust)

    return act


def lost() -> None:
    raise SystemExit("lost")


def moving(**columns: Any) -> Act:
    return lambda running: put(Job.objects.filter(id=running.id), **columns)


def environment(running: RunningJob) -> None:
    os.environ["CHANGED_BY_A_HANDLER"] = "yes"
    os.chdir("/")


# What a job may do and complete.
HARMLESS: dict[str, Act] = {
    "nothing": lambda running: None,
    "SET statement_timeout": sending("SET statement_timeout = '5s'"),
    "set_config": sending("SELECT set_config('search_path', 'pg_temp', false)"),
    "SET LOCAL": sending("SET LOCAL work_mem = '64kB'"),
    "SET TIME ZONE": sending("SET TIME ZONE 'America/New_York'"),
    "SET DateStyle": sending("SET DateStyle = 'German'"),
    "a temporary table": sending("CREATE TEMP TABLE IF NOT EXISTS t (a int)"),
    "an advisory lock": sending("SELECT pg_advisory_lock(4711)"),
    "LISTEN": sending("LISTEN t"),
    "PREPARE": sending("DEALLOCATE ALL", "PREPARE t AS SELECT 1"),
    "a cursor": sending("CLOSE ALL", "DECLARE t CURSOR WITH HOLD FOR SELECT 1"),
    "read only by default": sending("SET default_transaction_read_only = on"),
    "as a replica": sending("SET session_replication_role = 'replica'"),
    "a hook that raises": leaving(lost),
    "a robust hook that raises": leaving(lost, robust=True),
    "a hook that closes": leaving(lambda: connection.close(), lambda: connection.connection.close(), lost),
    "a hook that leaves a transaction": leaving(lambda: transaction.atomic().__enter__()),
    "a hook that sets": leaving(lambda: sending("SET statement_timeout = '1ms'")(None)),  # type: ignore[arg-type]
    "odd progress": lambda running: running.progress(1, 2, "reading \udcff\0.txt" * 1_000),
    "a child's environment": environment,
    "decimal context": lambda running: setattr(decimal.getcontext(), "prec", 2),
    "a language": lambda running: translation.activate("de"),
    "no time for sockets": lambda running: socket.setdefaulttimeout(0.001),
    "no warnings": lambda running: warnings.simplefilter("ignore"),
    "no log": lambda running: logging.disable(logging.CRITICAL),
    "a seed": lambda running: random.seed(1),
    "a collection": lambda running: gc.collect(),
    "an odd log": lambda running: running.log.info("%s", Mute.__name__ + "\0"),
    "a thread": lambda running: threading.Thread(target=lambda: None, daemon=True).start(),
    "an event loop": lambda running: asyncio.run(asyncio.sleep(0)),
    "a running loop": lambda running: asyncio._set_running_loop(asyncio.new_event_loop()),
    "a savepoint": sending("SAVEPOINT mine", "ROLLBACK TO SAVEPOINT mine"),
}

# What fails the job that does it, and no other.
HARMFUL: dict[str, Act] = {
    "raise ValueError": raising(lambda: ValueError("no")),
    "raise a class": raising_class(ValueError),
    "raise Mute": raising(Mute),
    "raise Numeric": raising(Numeric),
    "raise Setting": raising(Setting),
    "raise Anonymous": raising(Anonymous),
    "raise Shifty": raising(Shifty),
    "raise odd text": raising(lambda: ValueError("a\0b \udcff")),
    "raise megabytes": raising(lambda: ValueError("x" * 3_000_000)),
    "raise a group": raising(lambda: ExceptionGroup("some", [Mute(), ValueError("\udcff")])),
    "raise a base group": raising(lambda: BaseExceptionGroup("some", [KeyboardInterrupt(), Mute()])),
    "raise in a circle": raising(in_a_circle),
    "raise with notes": raising(lambda: _with_notes(ValueError("no"))),
    "KeyboardInterrupt": raising(KeyboardInterrupt),
    "SystemExit": raising(lambda: SystemExit(3)),
    "GeneratorExit": raising(GeneratorExit),
    "StopIteration": raising(StopIteration),
    "MemoryError": raising(MemoryError),
    "RecursionError": recursing,
    "CancelledError": raising(asyncio.CancelledError),
    "raise Cancelled": raising_class(Cancelled),
    "raise Interrupted": raising_class(Interrupted),
    "raise TimedOut": raising_class(TimedOut),
    "raise LeaseLost": raising_class(LeaseLost),
    "progress of text": lambda running: running.progress("5 of 50", 50),  # type: ignore[arg-type]
    "progress of NaN": lambda running: running.progress(float("nan")),  # type: ignore[arg-type]
    "progress below 0": lambda running: running.progress(-1),
    "progress beyond a bigint": lambda running: running.progress(2**70),
    "progress of a flag": lambda running: running.progress(True),
    "sleep for ever": lambda running: running.sleep(float("nan")),
    "connection.close": lambda running: connection.close(),
    "close_old_connections": lambda running: close_old_connections(),
    "close_all": lambda running: connections.close_all(),
    "request_started": lambda running: request_started.send(sender=None),
    "request_finished": lambda running: request_finished.send(sender=None),
    "a raw close": raw("close"),
    "connect anew": lambda running: connection.connect(),
    "COMMIT": sending("COMMIT"),
    "ROLLBACK": sending("/* so there */ rollback"),
    "ABORT": sending("ABORT"),
    "BEGIN": sending("BEGIN"),
    "COMMIT behind a semicolon": sending("SELECT 1; COMMIT"),
    "connection.commit": lambda running: connection.commit(),
    "connection.rollback": lambda running: connection.rollback(),
    "set_autocommit": lambda running: connection.set_autocommit(True),
    "a raw rollback": in_turn(sending("SELECT 1"), raw("rollback")),
    "ROLLBACK and BEGIN": in_turn(sending("SELECT 1"), sending_raw("ROLLBACK", "BEGIN")),
    "set_rollback": lambda running: transaction.set_rollback(True),
    "an atomic left open": lambda running: transaction.atomic().__enter__(),
    "an error swallowed": swallowing,
    "a deferred constraint": sending(
        "INSERT INTO orchestrator_dependency (job_id, depends_on_id)"
        " SELECT id, '00000000-0000-7000-8000-000000000000' FROM orchestrator_job LIMIT 1"
    ),
    "delete its own row": lambda running: Job.objects.filter(id=running.id).delete(),
    "end its own row": moving(
        status="FAILED", ready=False, worker=None, deadline_at=None, finished_at="2030-01-01T0Z"
    ),
    "raise its own attempt": moving(attempt=99),
}

# What a job returns, and cannot keep.
UNKEPT: dict[str, Callable[[], Any]] = {
    "an object": object,
    "NaN": lambda: {"x": [float("nan")]},
    "Infinity": lambda: decimal.Decimal("-Infinity"),
    "NUL": lambda: "a\0b",
    "a surrogate": lambda: {"\udcff": 1},
    "a tuple as a key": lambda: {(1, 2): 3},
    "a circle": lambda: _circle(),
    "a deep list": lambda: _deep(200),
    "a huge number": lambda: 10**5_000,
    "a huge exponent": lambda: msgspec.Raw(b"[1e130000]"),
    "a long number": lambda: msgspec.Raw(b"1" * 5_000),
    "too much": lambda: "x" * 2_000_000,
    "no JSON": lambda: msgspec.Raw(b"{nothing"),
    "a function": lambda: lambda: 1,
}


def _with_notes(error: BaseException) -> BaseException:
    error.__notes__ = [Mute(), 5]  # type: ignore[list-item]
    return error


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep(depth: int) -> list[Any]:
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep]
    return deep


class Acts(msgspec.Struct, forbid_unknown_fields=True):
    """What a job does, in turn, and what it returns in the end."""

    acts: list[str] = []
    returns: str = ""


def misbehave(running: RunningJob, payload: Acts) -> Any:
    running.progress(0, 1)
    for name in payload.acts:
        (HARMLESS | HARMFUL)[name](running)
    if payload.returns:
        return UNKEPT[payload.returns]()
    running.progress(1, 1, "done")
    return {"prec": decimal.getcontext().prec, "language": translation.get_language()}


def fails(payload: Acts) -> bool:
    return bool(payload.returns) or any(name in HARMFUL for name in payload.acts)
