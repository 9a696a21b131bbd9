"""The program that runs the workers of queues without a container of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from config import workers
from config.local.supervisor import kill_group
from config.settings import BASE_DIR

# Each says that it runs, by one write, since two say so at once; it ends in order when it is asked to.
WAITING = "import os, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); os.write(1, b'runs\\n'); "
WAITING += "signal.pause()"
ENDING = "import sys; sys.stdin.readline(); sys.exit(7)"


# Before it begins, so that a signal that comes early is not missed.
BEGIN = "import signal, sys; from config import workers; signal.pthread_sigmask(signal.SIG_BLOCK, workers.STOP); "
BEGIN += "print('begins', flush=True); "


@contextmanager
def program(*scripts: str) -> Iterator[subprocess.Popen[str]]:
    """config.workers in a process of its own, with these for its workers."""
    commands = [[sys.executable, "-c", script] for script in scripts]
    process = subprocess.Popen(
        [sys.executable, "-c", f"{BEGIN} sys.exit(workers.run({commands}))"],
        cwd=BASE_DIR,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        kill_group(process.pid)
        process.communicate()


def said(process: subprocess.Popen[str], lines: int) -> list[str]:
    assert process.stdout
    return [process.stdout.readline() for _ in range(lines)]


def test_all_queues_but_those_served_elsewhere_have_a_worker() -> None:
    assert workers.queues_but([]) == ["default", "io"]
    assert workers.queues_but(["io"]) == ["default"]
    assert workers.queues_but(["default", "io", "gpu"]) == []
    assert workers.command("gpu")[1:7] == ["-m", "config", "worker", "-n", "gpu@%h", "-Q"]


def test_sigterm_stops_all_workers_in_order() -> None:
    with program(WAITING, WAITING) as process:
        assert said(process, 3) == ["begins\n", "runs\n", "runs\n"]

        process.send_signal(signal.SIGTERM)

        assert said(process, 1) == [""]  # Nobody has it open any more.
        assert process.wait() == 0


def test_when_one_ends_all_end_with_its_exit_code() -> None:
    with program(WAITING, ENDING) as process:
        assert said(process, 2) == ["begins\n", "runs\n"]

        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()

        assert said(process, 1) == [""]
        assert process.wait() == 7


def test_without_queues_it_waits_until_it_is_stopped() -> None:
    with program() as process:
        assert said(process, 1) == ["begins\n"]
        assert process.poll() is None

        process.send_signal(signal.SIGTERM)

        assert said(process, 1) == [""]
        assert process.wait() == 0
