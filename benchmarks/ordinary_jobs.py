"""What the jobs of the benchmark `ordinary` do, whichever program runs them, and how a program submits them:

python -m MODULE one|many|apart|RATE/s JOB COUNT | schema

JOB is `no-op`, `row` (writes one row) or `wait` (waits 50 ms). `apart` pauses before each, so that each finds idle
workers; by a rate they come at random, so many a second. What is printed as JSON is when each was sent, and the
processor time that it took to submit them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psycopg2

WAIT_SECONDS = 0.05
INSERT_ROW = "INSERT INTO effect (number) VALUES (%s)"
PAUSE_SECONDS = (0.05, 0.15)
# The number of a job ahead of the others: what it takes to import and connect is none of theirs.
FIRST = -1

_TRACE = struct.Struct("=idi")
_own = threading.local()


class Trace(NamedTuple):
    """What a job leaves behind that ran to its end. `began_at`: seconds since 1970."""

    number: int
    began_at: float
    pid: int


@contextmanager
def traced(number: int) -> Iterator[None]:
    """Notes in a file that a job ran to its end. It takes a few µs, the same for all, and needs no program's help."""
    began_at = time.time()
    yield
    os.write(trace_file(), _TRACE.pack(number, began_at, os.getpid()))


@cache
def trace_file() -> int:
    """Each process opens it at its first job, and each write is appended whole."""
    return os.open(os.environ["TRACES"], os.O_WRONLY | os.O_APPEND)


def traces(path: Path) -> list[Trace]:
    """Of all jobs so far that ran to their end, in the order of their numbers."""
    return sorted(Trace(*each) for each in _TRACE.iter_unpack(path.read_bytes()))


def count_traces(path: Path) -> int:
    return path.stat().st_size // _TRACE.size


def run_job(job: str, number: int) -> None:
    """The job of a program that calls plain functions. A thread keeps its connection, and commits each statement."""
    with traced(number):
        if job == "row":
            with _connection().cursor() as cursor:
                cursor.execute(INSERT_ROW, (number,))
        elif job == "wait":
            time.sleep(WAIT_SECONDS)


def _connection() -> Any:
    if not hasattr(_own, "connection"):
        _own.connection = psycopg2.connect(os.environ["DATABASE_URL"])
        _own.connection.autocommit = True
    return _own.connection


class Numbers:
    """The numbers of the jobs, each taken when its job is sent."""

    def __init__(self, count: int, how: str) -> None:
        self.count = count
        self.sent_at: list[float] = []
        self._pause = _apart if how == "apart" else _Arrivals(float(how[:-2])) if how.endswith("/s") else None
        self._cpu_before = 0.0

    def __iter__(self) -> Iterator[int]:
        self._cpu_before = time.process_time()
        for number in range(self.count):
            if self._pause:
                self._pause()
            self.sent_at.append(time.time())
            yield number

    @property
    def cpu_seconds(self) -> float:
        """Processor time since the first was taken."""
        return time.process_time() - self._cpu_before


def _apart() -> None:
    time.sleep(random.uniform(*PAUSE_SECONDS))


class _Arrivals:
    """Waits for the next of those who come independently of each other, at the same times in each run."""

    def __init__(self, rate: float) -> None:
        self._rate, self._random = rate, random.Random(0)
        self._next_at = time.monotonic()

    def __call__(self) -> None:
        self._next_at += self._random.expovariate(self._rate)
        time.sleep(max(0, self._next_at - time.monotonic()))


Done = Coroutine[Any, Any, None] | None
Submit = Callable[[str, Iterable[int]], Done]


def main(one: Submit, many: Submit | None = None, schema: Callable[[], Done] | None = None) -> None:
    """Does as the command line says. The functions may be async; without `many` all are submitted one by one."""
    if sys.argv[1] == "schema":
        assert schema
        finish(schema())
        return
    how, job, count = sys.argv[1:]
    numbers = Numbers(int(count), how)
    finish(one("no-op", [FIRST]))
    finish(many(job, numbers) if many and how == "many" else one(job, numbers))
    print(json.dumps({"sent_at": numbers.sent_at, "cpu_seconds": numbers.cpu_seconds}))


def finish(done: Done) -> None:
    if done is not None:
        asyncio.run(done)
