"""`manage.py run-job` in a terminal, beside running workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.system.stack import BASE_DIR, Stack, until
from tests.system.test_start import start

pytestmark = pytest.mark.slow


class Terminal:
    """A program in a terminal, and what it has shown."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self._screen = screen
        os.set_blocking(screen, False)
        self._shown = b""

    def shows(self, text: str) -> bool:
        with suppress(OSError):  # Nothing is new, or the program has ended.
            self._shown += os.read(self._screen, 65_536)
        return text in self.text

    @property
    def text(self) -> str:
        return self._shown.decode()

    def types(self, line: str) -> None:
        os.write(self._screen, f"{line}\n".encode())


@contextmanager
def run_job(stack: Stack, *words: str) -> Iterator[Terminal]:
    screen, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "run-job", *words],
        cwd=BASE_DIR,
        env=stack.environment() | {"TERM": "dumb"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    try:
        yield Terminal(process, screen)
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def last_job(stack: Stack, kind: str) -> tuple[str, int, str]:
    [job] = stack.query(
        "SELECT status, attempt, worker_name FROM orchestrator_job WHERE kind = %s ORDER BY id DESC LIMIT 1", kind
    )
    status, attempt, worker_name = job
    return status, attempt, worker_name.partition("@")[0]


def test_a_breakpoint_in_a_handler_stops_in_the_terminal(stack: Stack) -> None:
    with run_job(stack, "tests.stop_at_breakpoint") as terminal:
        until(lambda: terminal.shows("(Pdb)"), 30)
        terminal.types("answer = 42")
        terminal.types("continue")

        until(lambda: terminal.shows("is COMPLETED."), 30)
        until(lambda: terminal.shows('"answer": 42'), 30)
        assert terminal.process.wait(30) == 0
    assert last_job(stack, "tests.stop_at_breakpoint") == ("COMPLETED", 1, "run-job")


def test_ctrl_c_cancels_the_job(stack: Stack) -> None:
    with run_job(stack, "tests.wait_in_child", '{"seconds": 600}') as terminal:
        until(lambda: terminal.shows("started."), 30)

        terminal.process.send_signal(signal.SIGINT)

        assert terminal.process.wait(30) == 130
        until(lambda: terminal.shows("is CANCELLED."), 30)
    assert last_job(stack, "tests.wait_in_child") == ("CANCELLED", 1, "run-job")


def test_a_database_that_is_away_is_reported_in_one_sentence() -> None:
    ended = start(sys.executable, "manage.py", "run-job", "demo.slices")

    assert ended.returncode == 2
    assert ended.stderr.startswith("CommandError: The database cannot be used: connection to server")
    assert "Traceback" not in ended.stderr
