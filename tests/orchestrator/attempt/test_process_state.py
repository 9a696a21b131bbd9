"""What a handler changes of a process that it has to itself ends with it."""

from __future__ import annotations

import io
import logging
import logging.config
import signal
import sys
from collections.abc import Callable

import pytest

from orchestrator.attempt.process_state import restored


def switch_off_loggers() -> None:
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})


def log_elsewhere() -> None:
    logging.basicConfig(force=True, level=logging.CRITICAL, stream=io.StringIO())


def refuse_records() -> None:
    logging.root.addFilter(lambda record: False)
    logging.getLogger("orchestrator.attempts").setLevel(logging.CRITICAL)


@pytest.mark.parametrize("change", [switch_off_loggers, log_elsewhere, refuse_records])
def test_a_handler_cannot_silence_what_is_logged_of_the_next_one(
    change: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    with restored(alone=True):
        change()

    logging.getLogger("orchestrator.attempts").error("It failed.")

    assert [record.getMessage() for record in caplog.records] == ["It failed."]


def test_the_recursion_limit_is_restored() -> None:
    before = sys.getrecursionlimit()

    with restored(alone=True):
        sys.setrecursionlimit(before + 1_000)

    assert sys.getrecursionlimit() == before


@pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGQUIT, signal.SIGTERM])
def test_signal_handlers_are_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    with restored(alone=True):
        signal.signal(number, signal.SIG_IGN)

    assert signal.getsignal(number) is before
