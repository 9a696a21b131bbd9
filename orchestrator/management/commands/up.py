"""`manage.py up`: all of Muster on this machine, with a PostgreSQL and a Valkey of its own, until Ctrl-C."""

import fcntl
import os
import secrets
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connections
from honcho.printer import Printer

from config import embedded
from config.development import data_dir, write_environment
from config.processes import MARK, KeepingManager, processes_marked
from orchestrator.health import readiness

# Beyond the grace period of the jobs: time that the processes have for the rest of their shutdown.
SHUTDOWN_ALLOWANCE_SECONDS = 8

# Being root is as it should be here.
IGNORED_WARNINGS = "ignore:You're running the worker with superuser privileges"


class Command(BaseCommand):
    help = "Runs everything on this machine, with embedded PostgreSQL and Valkey, until Ctrl-C."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        self.began_at = time.monotonic()
        # Each line is shown as it is said, also when it goes to a file.
        self.stdout.reconfigure(line_buffering=True)
        self.folder = data_dir().resolve()
        self.logs = self.folder / "logs"
        self.stopping = threading.Event()
        env = settings.ENV
        self.postgres = embedded.Postgres(self.folder / "postgres", env.POSTGRES_PORT, self.logs / "postgres.log")
        self.valkey = embedded.Valkey(self.folder / "valkey", env.VALKEY_PORT, self.logs / "valkey.log")
        with only_one(self.folder), ExitStack() as servers:
            begin_logs(self.logs)
            patience = env.SHUTDOWN_GRACE_SECONDS + SHUTDOWN_ALLOWANCE_SECONDS
            self.manager = KeepingManager(self.printer(), self.logs, patience=patience)
            ignore_signals()
            self.stop_remains()
            with interruptible():
                try:
                    self.start_servers(servers)
                    call_command("migrate", interactive=False, verbosity=0)
                    connections.close_all()
                    self.run_processes()
                except (embedded.PortTaken, embedded.ServerFailed) as failure:
                    raise CommandError(str(failure)) from None
                finally:
                    self.stopping.set()
        self.stdout.write("Everything has stopped; the data is kept.")

    def printer(self) -> Printer:
        return TerminalPrinter(sys.stdout)

    def when_ready(self) -> None:
        """What is left to do once everything serves; runs beside the processes."""
        self.stdout.write(self.summary())

    def stop_remains(self) -> None:
        """Stops what is left of an `up` that was killed, in the order of any shutdown."""
        left = processes_marked(self.folder)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        embedded.end_all(left, patience=settings.ENV.SHUTDOWN_GRACE_SECONDS)
        for server in (self.valkey, self.postgres):
            left += server.stop_remains()
        if left:
            pids = ", ".join(str(process.pid) for process in left)
            self.manager.say(f"stopped what an earlier run, which was killed, had left: {pids}")

    def start_servers(self, stack: ExitStack) -> None:
        """Starts the servers that the environment does not name others for, to be stopped with the stack."""
        env = settings.ENV
        ports = {"WEB_PORT": env.WEB_PORT, "FLOWER_PORT": env.FLOWER_PORT}
        wanted: list[embedded.Server] = []
        if env.DATABASE_URL == self.postgres.url:
            ports["POSTGRES_PORT"] = env.POSTGRES_PORT
            wanted.append(self.postgres)
        if env.BROKER_URL == self.valkey.url:
            ports["VALKEY_PORT"] = env.VALKEY_PORT
            wanted.append(self.valkey)
        for setting, port in ports.items():
            embedded.require_free_port(port, setting)
        write_environment()
        for server in wanted:
            stack.enter_context(embedded.kept_running(server, self.manager.say))

    def run_processes(self) -> None:
        """Runs the Procfile until told to stop.

        They keep Python's bytecode whatever the shell says: without it a killed worker is back in five seconds
        instead of one.
        """
        env = settings.ENV
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            MARK: str(self.folder),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": IGNORED_WARNINGS,
            "WORKER_PROCESSES": str(env.WORKER_PROCESSES),
            "WORKER_THREADS": str(env.WORKER_THREADS),
            "WEB_PORT": str(env.WEB_PORT),
            "FLOWER_PORT": str(env.FLOWER_PORT),
        }
        self.manager.add_procfile(settings.BASE_DIR / "Procfile", environment)
        threading.Thread(target=self.await_ready, name="readiness", daemon=True).start()
        self.manager.loop()

    def await_ready(self) -> None:
        while not self.is_ready():
            if self.stopping.wait(0.2) or self.manager.is_stopping:
                return
        self.ready_seconds = time.monotonic() - self.began_at
        self.new_password = create_admin()
        self.when_ready()

    def is_ready(self) -> bool:
        """Whether the web process answers, and all else is well: asked here, since each "no" over HTTP is logged."""
        try:
            urllib.request.urlopen(f"{self.url}/api/health/", timeout=5).close()  # noqa: S310
        except OSError:
            return False
        everything_is_well, _ = readiness()
        return everything_is_well

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{settings.ENV.WEB_PORT}"

    def summary(self) -> str:
        logs = self.logs.relative_to(settings.BASE_DIR) if self.logs.is_relative_to(settings.BASE_DIR) else self.logs
        admin = f"   user admin, password {self.new_password} (shown only now)" if self.new_password else ""
        return "\n".join(
            (
                f"Muster is up, after {self.ready_seconds:.1f} s.",
                f"  API     {self.url}/swagger/",
                f"  Admin   {self.url}/admin/{admin}",
                f"  Flower  http://127.0.0.1:{settings.ENV.FLOWER_PORT}/",
                f"  Health  {self.url}/api/health/ready/",
                f"  Logs    {logs}",
                "Ctrl-C stops everything.",
            )
        )


class TerminalPrinter(Printer):  # type: ignore[misc]
    """A printer for which a terminal that was closed is no reason to fall over: the logs have it all."""

    def write(self, message: Any) -> None:
        with suppress(OSError):
            super().write(message)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds the data folder; the system lets go of it when this process ends, however it does."""
    with (folder / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CommandError(
                f"Muster already runs on {folder} (pid {lock.read().strip()}); stop it, or set DATA_DIR to another."
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends the block, quietly, at SIGINT, SIGTERM or a closed terminal; what follows is not interrupted again."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        ignore_signals()


def ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def begin_logs(folder: Path) -> None:
    """Begins new logs and keeps those of the run before."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for path in folder.glob("*.log"):
        path.replace(path.with_suffix(".log.1"))


def create_admin() -> str | None:
    """Creates the first superuser and tells its password; None when there is one already."""
    users = get_user_model().objects
    try:
        if users.filter(is_superuser=True).exists():
            return None
        password = secrets.token_urlsafe(12)
        users.create_superuser("admin", password=password)
        return password
    finally:
        connections.close_all()
