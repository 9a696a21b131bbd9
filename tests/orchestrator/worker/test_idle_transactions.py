"""Handlers that keep their transaction open for long without a statement are warned about, once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from orchestrator.running import RunningJob
from orchestrator.submission import submit
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, run, threads, write


@pytest.fixture
def beaten_while(
    kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Runs a handler that begins with a step and then waits; the warnings after three beats meanwhile."""
    monkeypatch.setattr("orchestrator.running.IDLE_SECONDS", 1e-9)

    def beat_while(begin: Callable[[], Any], **options: Any) -> list[str]:
        waits, released = threading.Event(), threading.Event()

        def handler(running: RunningJob) -> None:
            with transaction.atomic() if options else threading.Lock():
                begin()
                waits.set()
                wait_here(released)

        waiting = kind(handler, **options)
        submit(waiting)
        with threads(1) as call:
            ran = call(run, waiting, worker)
            assert waits.wait(PATIENCE_SECONDS)
            for _ in range(3):
                worker.heartbeat.beat()
            released.set()
            ran.result(PATIENCE_SECONDS)
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    return beat_while


def wait_here(released: threading.Event) -> None:
    released.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("options", [{}, {"atomic": False}])
def test_a_transaction_that_is_kept_open_unused_is_warned_about_once_with_the_line(
    options: dict[str, Any], beaten_while: Callable[..., list[str]]
) -> None:
    [warning] = beaten_while(lambda: write("row"), **options)

    assert "has had its transaction open for 0 s without a statement" in warning
    assert f"{__file__}:" in warning
    assert "in wait_here" in warning


def test_a_handler_that_waits_before_its_first_statement_is_not_warned_about(
    beaten_while: Callable[..., list[str]],
) -> None:
    assert beaten_while(lambda: None) == []
