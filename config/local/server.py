"""A server process of a developer's machine or of the tests: started, stopped, and kept running."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

START_SECONDS = 60
STOP_SECONDS = 20


class ServerFailed(Exception):
    """The server did not start; the message ends with the last lines of its log."""


class Server:
    """One server process, in a session of its own so that a Ctrl-C meant for its owner does not reach it."""

    name: str
    program: str
    stop_signal = signal.SIGTERM

    def __init__(self, data_dir: Path, port: int, log_path: Path | None = None) -> None:
        self.data_dir = data_dir
        self.port = port
        self.log_path = log_path or data_dir.with_name(f"{data_dir.name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, timeout: float = START_SECONDS) -> None:
        """Starts the server and returns when it responds; does nothing when it runs already.

        What an earlier process left (shared memory, a port that is still closing) can stand in the way for a
        moment, so a server that ends at once is tried again until the timeout.
        """
        self.prepare()
        try:
            self._start_until(time.monotonic() + timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server in order, keeping its data; by force when that takes too long."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, like a crash: nothing is flushed, and no client is notified."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def remains(self) -> list[psutil.Process]:
        """The processes of this server that an earlier owner left running: they work in its data folder."""
        return processes_in(self.data_dir.resolve(), named=self.program)

    def stop_remains(self) -> list[psutil.Process]:
        """Stops what an earlier owner left running, and returns it."""
        left = self.remains()
        stop_all(left, self.stop_signal, patience=STOP_SECONDS)
        return left

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        raise NotImplementedError

    def prepare(self) -> None:
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def responds(self) -> bool:
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Popen's arguments for the user that the server runs as."""
        return {}

    def end_orphans(self) -> None:
        """Ends what a killed server left, where that hinders the next one."""

    def _start_until(self, deadline: float) -> None:
        while not self.is_alive or not self.responds():
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} did not start in time. {self._log_tail()}")
            if not self.is_alive:
                if self._process:
                    self.end_orphans()
                    time.sleep(0.2)
                self._launch()
            time.sleep(0.03)

    def _launch(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
                **self.identity(),
            )

    def _log_tail(self) -> str:
        with suppress(OSError):
            lines = self.log_path.read_text(errors="replace").splitlines()[-5:]
            return f"The end of {self.log_path}:\n" + "\n".join(lines)
        return f"It left no log in {self.log_path}."


class Keeper(threading.Thread):
    """Watches a server and starts it again whenever it dies unasked."""

    def __init__(self, server: Server, say: Callable[[str], None]) -> None:
        super().__init__(name=f"keeper of {server.name}", daemon=True)
        self._server = server
        self._say = say
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(0.1):
            if not self._server.is_alive:
                self._revive()

    def stop(self) -> None:
        """Ends the watch for good, so that the server may be stopped."""
        self._stopping.set()
        self.join()

    def _revive(self) -> None:
        self._say(f"{self._server.name} died (pid {self._server.pid}); starting it again")
        try:
            self._server.start()
        except ServerFailed as failure:
            self._say(str(failure))
            self._stopping.wait(5)
        else:
            self._say(f"{self._server.name} is back (pid {self._server.pid})")


@contextmanager
def kept_running(server: Server, say: Callable[[str], None]) -> Iterator[Server]:
    """The server, started again whenever it dies, until the block ends and it is stopped."""
    with server:
        keeper = Keeper(server, say)
        keeper.start()
        try:
            yield server
        finally:
            keeper.stop()


def processes_in(directory: Path, *, named: str) -> list[psutil.Process]:
    """The processes of that name whose working directory is the directory, as servers' are their data folder."""
    found = []
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if process.info["name"] == named and process.cwd() == str(directory):
                found.append(process)
    return found


def stop_all(processes: Sequence[psutil.Process], signal_number: int, *, patience: float) -> None:
    """Signals the processes to stop, and kills those that take longer than `patience` seconds."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal_number)
    end_all(processes, patience=patience)


def end_all(processes: Iterable[psutil.Process], *, patience: float) -> None:
    """Waits `patience` seconds for the processes to end, then kills the others."""
    _, alive = psutil.wait_procs(list(processes), timeout=patience)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
