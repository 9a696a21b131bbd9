"""The watchdog of a process in which no Python runs any more, and what becomes of the tracebacks that it leaves."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now

from orchestrator.models import Attempt, Job, Worker
from orchestrator.queue import tracebacks
from orchestrator.queue.recovery import take_back_from_ended
from orchestrator.queue.tracebacks import collect_tracebacks, threads_of
from orchestrator.submission import submit
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, MakeWorker, again, lease

Start = Callable[[str], subprocess.Popen[str]]

LIMIT_SECONDS = 3
# A process that sets its watchdog, says so, and then does what it is told.
PROGRAM = f"""
import ctypes, sys, time
import django
django.setup()
from orchestrator.worker import watchdog
watchdog.limit_seconds = lambda: {LIMIT_SECONDS}
watchdog.SET_AGAIN_SECONDS = 0.1
dog = watchdog.Watchdog().start()
print("set", flush=True)
def handler():
    exec(sys.argv[1])
handler()
dog.stop()
print("done", flush=True)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "config.settings")
    return tracebacks.folder()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the program; what it is to do follows once its watchdog is set. It is gone after the test."""
    begun: list[subprocess.Popen[str]] = []

    def started(does: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, does], stdout=subprocess.PIPE, text=True)
        begun.append(process)
        assert process.stdout
        assert process.stdout.readline() == "set\n"
        return process

    yield started
    for process in begun:
        process.kill()
        process.wait()


def test_a_process_that_holds_the_gil_ends_and_leaves_its_tracebacks(start: Start, folder: Path) -> None:
    process = start("ctypes.PyDLL(None).sleep(600)")

    assert process.wait(PATIENCE_SECONDS) == 1
    [left] = folder.glob("*.traceback")
    assert "in handler" in left.read_text()


@pytest.mark.parametrize("does", ["cancel_dump_traceback_later()", "dump_traceback_later(3_600)"])
def test_a_handler_that_takes_the_timer_is_ended_nevertheless(start: Start, does: str) -> None:
    process = start(f"import faulthandler; faulthandler.{does}; ctypes.PyDLL(None).sleep(600)")

    assert process.wait(PATIENCE_SECONDS) == 1


def test_a_process_whose_python_runs_goes_on_and_leaves_nothing(start: Start, folder: Path) -> None:
    process = start(f"time.sleep({2 * LIMIT_SECONDS})")

    assert process.wait(PATIENCE_SECONDS) == 0
    assert process.stdout
    assert process.stdout.read() == "done\n"
    assert list(folder.glob("*")) == []


def test_a_process_that_was_stopped_for_less_than_the_limit_goes_on(start: Start) -> None:
    process = start(f"time.sleep({LIMIT_SECONDS})")

    for _ in range(3):
        process.send_signal(signal.SIGSTOP)
        time.sleep(LIMIT_SECONDS / 3)
        process.send_signal(signal.SIGCONT)
        time.sleep(LIMIT_SECONDS / 3)

    assert process.wait(PATIENCE_SECONDS) == 0


def test_the_limit_is_longer_than_a_lease_so_that_nothing_ends_that_could_have_gone_on(settings: Any) -> None:
    assert tracebacks.limit_seconds() > settings.ENV.LEASE_SECONDS


def dump(handler: Any) -> str:
    """As faulthandler writes it, of two threads."""
    code = handler.__code__
    return (
        "Timeout (0:00:20)!\n"
        "Thread 0x00007f0000000001 (most recent call first):\n"
        '  File "/lib/threading.py", line 324 in wait\n'
        "\n"
        "Thread 0x00007f0000000002 (most recent call first):\n"
        '  File "/lib/re/__init__.py", line 166 in match\n'
        f'  File "{code.co_filename}", line {code.co_firstlineno + 1} in {code.co_name}\n'
        '  File "/app/orchestrator/worker/calling.py", line 51 in _call\n'
    )


def matches_for_ever(running: Any) -> None:
    """Never runs here."""


def test_of_all_threads_an_attempt_has_the_one_of_its_handler(kind: DeclareKind) -> None:
    found = threads_of(kind(matches_for_ever), dump(matches_for_ever))

    assert found.startswith("Thread 0x00007f0000000002")
    assert "line 166 in match" in found
    assert "threading.py" not in found


def hanging_job(kind: DeclareKind, worker: WorkerProcess) -> Job:
    """A job of the worker's whose handler never returns, in its last attempt."""
    hanging = kind(matches_for_ever, max_attempts=1)
    job = submit(hanging)
    lease(hanging, worker)
    return job


def left_by_the_dead(folder: Path, worker: Any, text: str) -> None:
    """A traceback file of a process that does not exist, whose row is the worker's."""
    Worker.objects.filter(id=worker.row_id).update(pid=4_194_304, process_started="1")
    folder.mkdir(exist_ok=True)
    tracebacks.path_of(4_194_304, "1").write_text(text)


def test_the_next_process_puts_them_into_the_log_and_to_the_attempt(
    kind: DeclareKind, make_worker: MakeWorker, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = make_worker("dead@here")
    job = hanging_job(kind, dead)
    Job.objects.filter(id=job.id).update(deadline_at=Now() - timedelta(seconds=9))
    left_by_the_dead(folder, dead, dump(matches_for_ever))

    make_worker("next@here")
    collect_tracebacks()

    attempt = again(job).attempts.get()
    assert attempt.outcome == Attempt.Outcome.TIMED_OUT
    assert "line 166 in match" in attempt.traceback
    assert "threading.py" in caplog.text
    assert list(folder.glob("*")) == []


def test_tracebacks_wait_for_attempts_that_are_ended_later(
    kind: DeclareKind, make_worker: MakeWorker, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = make_worker("dead@here")
    job = hanging_job(kind, dead)
    left_by_the_dead(folder, dead, dump(matches_for_ever))

    collect_tracebacks()
    Worker.objects.filter(id=dead.row_id).update(ended_at=Now())
    take_back_from_ended()
    collect_tracebacks()

    assert "line 166 in match" in again(job).attempts.get().traceback
    assert caplog.text.count("line 166 in match") == 1


def test_what_was_frozen_and_ended_for_that_is_not_charged(
    kind: DeclareKind, make_worker: MakeWorker, folder: Path
) -> None:
    dead = make_worker("dead@here")
    job = hanging_job(kind, dead)
    left_by_the_dead(folder, dead, dump(matches_for_ever))

    make_worker("next@here")

    assert (again(job).status, again(job).attempts.get().outcome) == ("CREATED", "UNAVAILABLE")


def test_a_process_that_died_otherwise_leaves_an_empty_file_that_is_removed(
    make_worker: MakeWorker, folder: Path
) -> None:
    left_by_the_dead(folder, make_worker("dead@here"), "")

    collect_tracebacks()

    assert list(folder.glob("*")) == []
