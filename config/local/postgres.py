"""PostgreSQL out of its Python wheel, with a database and a password of its own."""

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from config.local.secret_files import kept_secret
from config.local.server import STOP_SECONDS, Server, ServerFailed, end_all, stop_all
from config.local.unprivileged import (
    SHARED,
    anyone_can_enter,
    give_away,
    is_root,
    make_shared_folder,
    packaged_binaries,
    reachable_binaries,
    run_as,
)


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

    def responds(self) -> bool:
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
        stop_all(postmaster, self.stop_signal, patience=STOP_SECONDS)
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


def postgres_url(data_dir: Path, port: int | str) -> str:
    return f"postgresql://muster:{postgres_password(data_dir)}@127.0.0.1:{port}/muster"


def postgres_password(data_dir: Path) -> str:
    return kept_secret(data_dir.with_name(f"{data_dir.name}_password"))
