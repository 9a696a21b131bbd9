"""Processes are kept running: started again when they die, and stopped together."""

from __future__ import annotations

import io
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from honcho.printer import Printer

from config.local import supervisor
from config.local.supervisor import Output, Supervisor, follow
from tests.system.stack import until


class Running:
    """A supervisor at work in a thread, as `up` runs one in the main thread, and what it printed."""

    def __init__(self, folder: Path, commands: dict[str, str], patience_seconds: float) -> None:
        self._output = io.StringIO()
        self.supervisor = Supervisor(Printer(self._output), folder, patience_seconds=patience_seconds)
        for name, command in commands.items():
            self.supervisor.add(name, command)
        self._thread = threading.Thread(target=self.supervisor.run, daemon=True)
        self._thread.start()

    @property
    def output(self) -> str:
        return self._output.getvalue()

    def started(self, name: str) -> list[int]:
        """The process ids that the name has had so far."""
        return [int(pid) for pid in re.findall(rf"{name} started \(pid=(\d+)\)", self.output)]

    def stop(self) -> None:
        self.supervisor.stop()
        self.wait()

    def wait(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


@contextmanager
def supervised(folder: Path, *, patience_seconds: float = 60, **commands: str) -> Iterator[Running]:
    running = Running(folder, commands, patience_seconds)
    try:
        yield running
    finally:
        running.supervisor.stop()
        running.supervisor.kill()
        running.wait()


def sleeping(*, on_sigterm: str, ready: Path) -> str:
    return f"trap '{on_sigterm}' TERM; touch {ready}; while true; do sleep 0.1; done"


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_process_that_dies_is_started_again_and_stops_for_good(tmp_path: Path) -> None:
    with supervised(tmp_path, sleeper="exec sleep 600", other="exec sleep 600") as running:
        [first] = until(lambda: running.started("sleeper"))
        [other] = until(lambda: running.started("other"))

        os.kill(first, signal.SIGKILL)

        _, second = until(lambda: len(pids := running.started("sleeper")) == 2 and pids)
        assert is_running(other)
        running.stop()
        assert not any(is_running(pid) for pid in (first, second, other))
        assert len(running.started("sleeper")) == 2
        assert "died (-9)" in running.output


def test_the_children_of_a_dead_process_are_killed_before_it_starts_again(tmp_path: Path) -> None:
    with supervised(tmp_path, parent=f"sleep 600 & echo $! >> {tmp_path}/child; wait") as running:
        [parent] = until(lambda: running.started("parent"))
        child = int(until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().split())[0])

        os.kill(parent, signal.SIGKILL)

        until(lambda: len(running.started("parent")) == 2)
        until(lambda: not is_running(child))


def test_a_process_that_keeps_dying_is_started_after_growing_pauses(tmp_path: Path) -> None:
    with supervised(tmp_path, broken="echo no such luck; exit 1") as running:
        until(lambda: len(running.started("broken")) == 4)

        assert re.findall(r"starting again in (\S+) s", running.output)[:3] == ["0", "0.5", "1"]
        assert "no such luck" in running.output


def test_a_process_that_ignores_sigterm_is_killed_in_the_end(tmp_path: Path) -> None:
    command = sleeping(on_sigterm="", ready=tmp_path / "ready")
    with supervised(tmp_path, patience_seconds=0.5, stubborn=command) as running:
        until((tmp_path / "ready").exists)

        running.stop()

        assert not any(is_running(pid) for pid in running.started("stubborn"))


def test_a_restarted_process_ends_in_order_and_is_started_again(tmp_path: Path) -> None:
    command = sleeping(on_sigterm="echo in order; exit 0", ready=tmp_path / "ready")
    with supervised(tmp_path, orderly=command, other="exec sleep 600") as running:
        until((tmp_path / "ready").exists)

        running.supervisor.restart(["orderly"])

        until(lambda: len(running.started("orderly")) == 2)
        assert "in order" in running.output
        assert "died" not in running.output
        assert len(running.started("other")) == 1


def test_a_process_that_ignores_its_restart_is_killed_and_started_again(tmp_path: Path) -> None:
    command = sleeping(on_sigterm="", ready=tmp_path / "ready")
    with supervised(tmp_path, patience_seconds=0.5, stubborn=command) as running:
        until((tmp_path / "ready").exists)

        running.supervisor.restart(["stubborn"])

        first, _ = until(lambda: len(pids := running.started("stubborn")) == 2 and pids)
        assert not is_running(first)


def test_a_restart_ends_the_pause_of_a_process_that_kept_dying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PAUSES_SECONDS", (0, 600))
    with supervised(tmp_path, broken=f"test -e {tmp_path}/mended && exec sleep 600") as running:
        until(lambda: "starting again in 600 s" in running.output)
        (tmp_path / "mended").touch()

        running.supervisor.restart(["broken"])

        *_, last = until(lambda: len(pids := running.started("broken")) == 3 and pids)
        assert is_running(last)


def test_a_restart_does_not_start_what_was_stopped(tmp_path: Path) -> None:
    with supervised(tmp_path, sleeper="exec sleep 600") as running:
        until(lambda: running.started("sleeper"))
        running.stop()

        running.supervisor.restart(["sleeper"])

        assert len(running.started("sleeper")) == 1


def test_a_second_signal_kills_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SECOND_SIGNAL_AFTER_SECONDS", 0)
    command = sleeping(on_sigterm="", ready=tmp_path / "ready")
    with supervised(tmp_path, stubborn=command) as running:
        until((tmp_path / "ready").exists)

        running.supervisor.stop()
        running.stop()

        assert "stubborn stopped (rc=-9)" in running.output


def test_a_signal_that_comes_with_the_first_does_not_kill(tmp_path: Path) -> None:
    command = sleeping(on_sigterm="sleep 0.2; echo in order; exit 0", ready=tmp_path / "ready")
    with supervised(tmp_path, orderly=command) as running:
        until((tmp_path / "ready").exists)

        running.supervisor.stop()
        running.stop()

        assert "in order" in running.output
        assert "orderly stopped (rc=0)" in running.output


def test_each_line_has_the_name_of_its_process(tmp_path: Path) -> None:
    with supervised(tmp_path, one="echo first; exec sleep 600", longer="echo second; exec sleep 600") as running:
        until(lambda: "first" in running.output and "second" in running.output)

        lines = [re.sub(r"^\S+ ", "", line) for line in running.output.splitlines()]
        assert {"one    | first", "longer | second"} <= set(lines)
        assert (tmp_path / "one.log").read_text() == "first\n"


def test_the_lines_of_an_earlier_run_are_not_shown_again(tmp_path: Path) -> None:
    (tmp_path / "again.log").write_text("of yesterday\n")

    with supervised(tmp_path, again="echo of today; exec sleep 600") as running:
        until(lambda: "of today" in running.output)

        assert "of yesterday" not in running.output


def test_lines_that_cannot_be_written_stop_nothing() -> None:
    class Closed(io.StringIO):
        is_closed = True

        def write(self, text: str) -> int:
            if self.is_closed:
                raise OSError("Input/output error")
            return super().write(text)

    terminal = Closed()
    output = Output(Printer(terminal))

    output.write("unseen")
    terminal.is_closed = False
    output.write("seen")

    assert [line.split("| ")[1] for line in terminal.getvalue().splitlines()] == ["seen"]


def test_lines_are_followed_until_their_writer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_LINE_BYTES", 8)

    lines = list(follow(io.BytesIO(b"short\nmuch too long\nlast words"), lambda: True))

    assert lines == [b"short\n", b"much too", b" long\n", b"last wor", b"ds"]
