"""Runs processes until told to stop: one that dies is started again, and all stop together."""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import IO

import psutil
from honcho.colour import get_colours
from honcho.printer import Message, Printer

# In the environment of all we start, with the data folder as its value: known again after their owner was killed.
MARK = "MUSTER_UP"
LONG_LIFE_SECONDS = 10
PAUSES_SECONDS = (0, 0.5, 1, 2, 5)
# A second signal kills the processes, but not one that comes with the first: a terminal and `make` may each send one.
SECOND_SIGNAL_AFTER_SECONDS = 1
LOG_POLL_SECONDS = 0.1
MAX_LINE_BYTES = 65_536


class Output:
    """Writes lines with the time and a name before them, from any thread, one at a time."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._lock = threading.Lock()

    def fit(self, name: str) -> None:
        """Makes room for the name, so that the lines of all names are aligned."""
        self._printer.width = max(self._printer.width, len(name))

    def write(self, text: str | bytes, name: str = "system", colour: str | None = None) -> None:
        """A terminal that was closed is no reason to stop: the logs have everything."""
        message = Message(type="line", data=text, time=datetime.now(), name=name, colour=colour)  # noqa: DTZ005
        with self._lock, suppress(OSError):
            self._printer.write(message)


class KeptProcess:
    """A command that is started again whenever it ends, after a growing pause if it keeps ending early, until stopped.

    It writes into a log file that is followed here, not into a pipe, which would break when we are killed, and the
    process with it.
    """

    def __init__(
        self,
        name: str,
        command: str,
        write: Callable[[str | bytes], None],
        say: Callable[[str], None],
        log_path: Path,
        *,
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self._command = command
        self._write = write
        self._say = say
        self._log_path = log_path
        self._environment = environment
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        # Since it was started, it was told to stop or to restart.
        self._told_to_end = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Returns once the process was stopped."""
        early_deaths = 0
        while True:
            started_at = time.monotonic()
            if (code := self._run_once()) is None or self._stopping.is_set():
                break
            if self._told_to_end.is_set():
                early_deaths = 0
                continue
            early_deaths = early_deaths + 1 if time.monotonic() - started_at < LONG_LIFE_SECONDS else 1
            pause = PAUSES_SECONDS[min(early_deaths, len(PAUSES_SECONDS)) - 1]
            self._write(f"died ({code}); starting again in {pause} s")
            if self._told_to_end.wait(pause) and self._stopping.is_set():
                break
        self._say(f"{self.name} stopped (rc={code})")

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Signals the process, which now ends for good.

        Only itself: what it started, it stops in its own order.
        """
        with self._lock:
            self._stopping.set()
            self._told_to_end.set()
            if self._child is not None:
                self._child.send_signal(signal_number)

    def restart(self, *, patience_seconds: float) -> None:
        """Signals the process to stop, kills it if that takes longer, and has it started again as soon as it ended."""
        with self._lock:
            # Not signalled twice: what starts next is new anyway.
            if self._child is None or self._told_to_end.is_set():
                return
            self._told_to_end.set()
            self._child.send_signal(signal.SIGTERM)
            timer = threading.Timer(patience_seconds, self._child.kill)
            timer.daemon = True
            timer.start()

    def _run_once(self) -> int | None:
        """The exit code; None if it was stopped before it started."""
        with self._log_path.open("ab") as log, self._log_path.open("rb") as reader:
            reader.seek(0, os.SEEK_END)
            if (child := self._start(log)) is None:
                return None
            self._say(f"{self.name} started (pid={child.pid})")
            for line in follow(reader, lambda: child.poll() is not None):
                self._write(line)
        kill_group(child.pid)
        return child.wait()

    def _start(self, log: IO[bytes]) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            self._told_to_end.clear()
            self._child = subprocess.Popen(  # noqa: S602 - the lines of a Procfile are for a shell
                self._command,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )
            return self._child


def follow(log: IO[bytes], has_ended: Callable[[], bool]) -> Iterator[bytes]:
    """Each line of the log as soon as it is whole, until its writer has ended."""
    line = b""
    while True:
        ended = has_ended()  # Asked first, so that the last words are not missed.
        while part := log.readline(MAX_LINE_BYTES - len(line)):
            line += part
            if line.endswith(b"\n") or len(line) >= MAX_LINE_BYTES:
                yield line
                line = b""
        if ended:
            break
        time.sleep(LOG_POLL_SECONDS)
    if line:
        yield line


def kill_group(leader: int) -> None:
    """Kills what outlived its parent, such as the pool of a killed worker: it would hold ports and connections."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


class Supervisor:
    """Runs and keeps processes until told to stop: SIGTERM for all, and SIGKILL for those that take too long.

    A thread watches each process: whoever is killed, be it us or one of them, no watcher remains without its process,
    nor a process without its watcher.
    """

    def __init__(self, printer: Printer, log_folder: Path, *, patience_seconds: float) -> None:
        self._output = Output(printer)
        self._output.fit("system")
        self._log_folder = log_folder
        self._patience_seconds = patience_seconds
        self._colours = get_colours()
        self._processes: list[KeptProcess] = []
        # A signal to stop, or None when the watch of a process has ended.
        self._events: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._stopping_since = 0.0
        self.stopping = threading.Event()

    def add(
        self, name: str, command: str, *, environment: dict[str, str] | None = None, folder: Path | None = None
    ) -> None:
        self._output.fit(name)
        colour = next(self._colours)
        self._processes.append(
            KeptProcess(
                name,
                command,
                lambda text: self._output.write(text, name, colour),
                self.say,
                self._log_folder / f"{name}.log",
                environment=environment,
                folder=folder,
            )
        )

    @property
    def names(self) -> list[str]:
        return [process.name for process in self._processes]

    def say(self, message: str) -> None:
        self._output.write(message)

    def run_until_signalled(self) -> None:
        """Runs until SIGINT or SIGTERM; only the main thread may. A second one, a second later or more, kills."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        self.run()

    def run(self) -> None:
        """Returns once all processes have stopped."""
        for process in self._processes:
            threading.Thread(name=process.name, target=self._watch, args=(process,), daemon=True).start()
        running = len(self._processes)
        try:
            while running:
                if (event := self._events.get()) is None:
                    running -= 1
                else:
                    self._stop_or_kill(event)
        finally:
            self.kill()

    def stop(self) -> None:
        """Asks `run` to stop all processes; from any thread."""
        self._events.put(signal.SIGTERM)

    def restart(self, names: Container[str]) -> None:
        """Restarts the processes of those names, each as soon as it has stopped; from any thread."""
        for process in self._processes:
            if process.name in names:
                process.restart(patience_seconds=self._patience_seconds)

    def kill(self) -> None:
        self._signal_all(signal.SIGKILL)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        # Nothing that takes a lock or writes: another signal may interrupt it.
        self._events.put(number)

    def _watch(self, process: KeptProcess) -> None:
        try:
            process.run()
        finally:
            self._events.put(None)

    def _stop_or_kill(self, number: int) -> None:
        self.say(f"{signal.Signals(number).name} received")
        if not self.stopping.is_set():
            self._stopping_since = time.monotonic()
            self.stopping.set()
            self._signal_all(signal.SIGTERM)
            timer = threading.Timer(self._patience_seconds, self.kill)
            timer.daemon = True
            timer.start()
        elif time.monotonic() - self._stopping_since > SECOND_SIGNAL_AFTER_SECONDS:
            self.kill()

    def _signal_all(self, number: int) -> None:
        for process in self._processes:
            process.stop(number)


def processes_marked(folder: Path) -> list[psutil.Process]:
    """The processes that an `up` on this data folder started, and theirs."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(folder):
                found.append(process)
    return found
