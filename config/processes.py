"""The processes of the Procfile under honcho, except that one which dies is started again instead of ending all."""

import os
import queue
import signal
import subprocess
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from honcho.environ import parse_procfile
from honcho.manager import Manager
from honcho.printer import Printer
from honcho.process import Popen, Process

# In the environment of all we start, with the data folder as its value: known again after their owner was killed.
MARK = "MUSTER_UP"
LONG_LIFE_SECONDS = 10
PAUSES_SECONDS = (0, 0.5, 1, 2, 5)


class LoggedPopen(Popen):  # type: ignore[misc]
    """A child that writes into a file, which is followed here.

    A pipe would break when we are killed, and the writers with it; and whoever inherits it keeps it open after the
    child's death.
    """

    def __init__(self, command: str, *, log_path: Path, **options: Any) -> None:
        with log_path.open("ab") as log:
            self._log = log_path.open("rb")
            self._log.seek(0, os.SEEK_END)
            super().__init__(command, stdin=subprocess.DEVNULL, stdout=log, **options)
        self.stdout = self

    def readline(self) -> bytes:
        """The next whole line of the log, as soon as there is one; nothing once the child has ended."""
        line = b""
        while True:
            ended = self.poll() is not None  # Asked first, so that its last words are not missed.
            line += self._log.readline()
            if line.endswith(b"\n") or ended:
                return line
            time.sleep(0.1)

    def close(self) -> None:
        self._log.close()


class KeptProcess(Process):  # type: ignore[misc]
    """A process that is started again, after a growing pause if it keeps dying young, until it is told to stop."""

    def __init__(self, *args: Any, log_folder: Path, **options: Any) -> None:
        super().__init__(*args, **options)
        self._log_path = log_folder / f"{self.name}.log"
        self._child_ctor = self._start_child
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        early_deaths = 0
        while True:
            started_at = time.monotonic()
            super().run(events, ignore_signals)
            self._end_group()
            if self._stopping.is_set():
                break
            early_deaths = early_deaths + 1 if time.monotonic() - started_at < LONG_LIFE_SECONDS else 1
            pause = PAUSES_SECONDS[min(early_deaths, len(PAUSES_SECONDS)) - 1]
            self._send_message(f"died ({self._child.returncode}); starting again in {pause} s\n")
            if self._stopping.wait(pause):
                break
        super()._send_message({"returncode": self._child.returncode}, type="stop")

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """Signals the process, which now ends for good.

        Only itself: what it started, it stops in its own order.
        """
        with self._lock:
            self._stopping.set()
            if self._child is not None:
                self._child.send_signal(signal_number)

    def _start_child(self, command: str, **options: Any) -> LoggedPopen:
        with self._lock:
            self._child = LoggedPopen(command, log_path=self._log_path, **options)
            if self._stopping.is_set():
                self._child.terminate()
            return self._child

    def _send_message(self, data: Any, type: str = "line") -> None:
        # The end of one life is news to the manager only when no other follows.
        if type != "stop":
            super()._send_message(data, type)

    def _end_group(self) -> None:
        """Kills what outlived its parent, such as the pool of a killed worker: it would hold ports and connections."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)


class KeepingManager(Manager):  # type: ignore[misc]
    """Runs and keeps the processes until SIGINT or SIGTERM; a second one, a second later or more, kills them.

    The processes are watched by threads of this process, where honcho forks: whoever is killed, be it us or one of
    them, no watcher remains without its process, nor a process without its watcher.
    """

    def __init__(self, printer: Printer, log_folder: Path, *, patience: float) -> None:
        super().__init__(printer)
        self.events: queue.Queue[Any] = queue.Queue()
        self._process_ctor = partial(KeptProcess, log_folder=log_folder)
        self._patience = patience
        self._stopping_since = 0.0

    def add_procfile(self, path: Path, environment: dict[str, str]) -> None:
        for name, command in parse_procfile(path.read_text()).processes.items():
            self.add_process(name, command, env=environment, cwd=str(path.parent))

    def say(self, message: str) -> None:
        self._system_print(f"{message}\n")

    @property
    def is_stopping(self) -> bool:
        return self._terminating

    def loop(self) -> None:
        try:
            super().loop()
        finally:
            self.kill()

    def terminate(self) -> None:
        if not self._terminating:
            self._terminating = True
            self._stopping_since = time.monotonic()
            self._killall()
            timer = threading.Timer(self._patience, self.kill)
            timer.daemon = True
            timer.start()
        elif time.monotonic() - self._stopping_since > 1 and not self._all_stopped():
            self.kill()

    def _start(self) -> None:
        for name, entry in self._processes.items():
            entry["process"] = threading.Thread(name=name, target=entry["obj"].run, args=(self.events,), daemon=True)
            entry["process"].start()

    def _killall(self, force: bool = False) -> None:
        for entry in self._processes.values():
            entry["obj"].stop(signal.SIGKILL if force else signal.SIGTERM)


def processes_marked(folder: Path) -> list[psutil.Process]:
    """The processes that an `up` on this data folder started, and theirs."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(folder):
                found.append(process)
    return found
