"""What a handler changes of a process that it has to itself ends with it."""

from __future__ import annotations

import gc
import io
import logging
import logging.config
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.attempt.process_state import Raised, restored, shielded


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


def umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def fewer_files() -> None:
    files, at_most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files - 1, at_most))


def another_time_zone() -> None:
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "umask": (umask, lambda: os.umask(0o777)),
    "a limit": (lambda: resource.getrlimit(resource.RLIMIT_NOFILE), fewer_files),
    "garbage": (gc.isenabled, gc.disable),
    "switches": (sys.getswitchinterval, lambda: sys.setswitchinterval(50)),
    "blocked signals": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1}),
    ),
    "a profile": (sys.getprofile, lambda: sys.setprofile(lambda *_: None)),
    "time zone": (lambda: time.tzname, another_time_zone),
    "paths": (lambda: sys.path[:], sys.path.clear),
    "stdout": (lambda: sys.stdout, lambda: setattr(sys, "stdout", None)),
    "stderr": (lambda: sys.stderr, lambda: setattr(sys, "stderr", io.StringIO())),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_handler_changes_of_its_process_ends_with_it(name: str) -> None:
    read, change = CHANGES[name]
    before = read()

    with restored(alone=True):
        change()

    assert read() == before


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_was_closed_is_open_for_the_next_job(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = open(getattr(sys, f"__{name}__").fileno(), "w", closefd=False)  # noqa: SIM115
    monkeypatch.setattr(sys, name, stream)

    with restored(alone=True):
        shielded(stream.close)

    assert not getattr(sys, name).closed


def test_a_factory_of_log_records_is_undone_where_jobs_run_beside_each_other_too() -> None:
    before = logging.getLogRecordFactory()

    def change() -> None:
        logging.setLogRecordFactory(lambda *args, **kwargs: 1 / 0)  # type: ignore[arg-type]
        raise ValueError

    with pytest.raises(Raised):
        shielded(change)

    assert logging.getLogRecordFactory() is before


@pytest.mark.parametrize("name", ["time", "monotonic", "perf_counter", "sleep"])
def test_a_clock_that_a_handler_has_stopped_goes_on_after_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = getattr(time, name)
    monkeypatch.setattr(time, name, clock)  # Undone if it stays stopped.

    shielded(lambda: setattr(time, name, lambda *_: 0.0))

    assert getattr(time, name) is clock
