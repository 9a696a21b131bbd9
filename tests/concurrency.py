"""Concurrent operations in a fixed order: one holds its locks, another waits for them, then the first commits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from queue import Queue
from typing import Any

from django.db import connection, transaction

from tests.orchestrator.workbench import PATIENCE_SECONDS

# How often it is asked whether somebody waits.
ASK_SECONDS = 0.002


def in_thread(action: Callable[[], Any]) -> Future[Any]:
    """Begins to do it in a thread with a connection of its own."""
    future: Future[Any] = Future()

    def act() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)
        finally:
            connection.close()

    threading.Thread(target=act, daemon=True).start()
    return future


@contextmanager
def held_open(action: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Does it in a thread, and commits only after the block, which must not wait for it; its result is known then."""
    acted, commit, waited_in_vain = threading.Event(), threading.Event(), threading.Event()

    def act_and_hold() -> Any:
        with transaction.atomic():
            try:
                return action()
            finally:
                acted.set()
                if not commit.wait(PATIENCE_SECONDS):
                    waited_in_vain.set()

    future = in_thread(act_and_hold)
    assert acted.wait(PATIENCE_SECONDS)
    try:
        yield future
    finally:
        commit.set()
        future.exception(PATIENCE_SECONDS)
        assert not waited_in_vain.is_set(), "Something within the block waited for it to commit."


def waiting(action: Callable[[], Any]) -> Future[Any]:
    """Begins to do it in a thread, and returns once it waits for a lock."""
    process_ids: Queue[int] = Queue()

    def introduce_and_act() -> Any:
        connection.ensure_connection()
        process_ids.put(connection.connection.info.backend_pid)
        return action()

    future = in_thread(introduce_and_act)
    process_id = process_ids.get(timeout=PATIENCE_SECONDS)
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not is_blocked(process_id):
        assert not future.done(), f"It did not wait: {future.exception() or future.result()}"
        assert time.monotonic() < deadline
        pause.wait(ASK_SECONDS)
    return future


def is_blocked(process_id: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", [process_id])
        return bool(cursor.fetchone()[0])


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Does all of it at the same moment; returns what each returned or raised."""
    together = threading.Barrier(len(actions), timeout=PATIENCE_SECONDS)

    def act(action: Callable[[], Any]) -> Any:
        connection.ensure_connection()
        together.wait()
        return action()

    futures = [in_thread(partial(act, action)) for action in actions]
    return [future.exception(PATIENCE_SECONDS) or future.result() for future in futures]
