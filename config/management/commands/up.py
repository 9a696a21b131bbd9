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

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from honcho.printer import Printer

from config.load_code import LIBRARIES
from config.local.environment import data_dir, write_environment
from config.local.ports import PortTaken, require_free_port
from config.local.postgres import Postgres
from config.local.processes import commands
from config.local.reloader import Reloader
from config.local.server import Server, ServerFailed, kept_running, stop_all
from config.local.supervisor import MARK, Supervisor, processes_marked
from config.local.valkey import Valkey
from orchestrator.diagnostics.readiness import readiness

# Beyond the grace period of the jobs: time that the processes have for the rest of their shutdown.
SHUTDOWN_ALLOWANCE_SECONDS = 8

# They know nothing of your code, so they are not restarted when it changes.
WITHOUT_YOUR_CODE = {"flower"}

SAY_MISSING_AFTER_SECONDS = 30

# Running as root is fine here.
IGNORED_WARNINGS = "ignore:You're running the worker with superuser privileges"


class Command(BaseCommand):
    help = "Runs everything on this machine, with embedded PostgreSQL and Valkey, until Ctrl-C."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--no-reload",
            action="store_false",
            dest="reloads",
            help="Keep the processes running when Python code changes, instead of restarting them with it.",
        )

    def handle(self, *args: Any, reloads: bool = True, **options: Any) -> None:
        self.began_at = time.monotonic()
        self.reloads = reloads
        # Each line appears at once, also in a file.
        self.stdout.reconfigure(line_buffering=True)
        self.folder = data_dir().resolve()
        self.logs = self.folder / "logs"
        env = settings.ENV
        self.postgres = Postgres(self.folder / "postgres", env.POSTGRES_PORT, self.logs / "postgres.log")
        self.valkey = Valkey(self.folder / "valkey", env.VALKEY_PORT, self.logs / "valkey.log")
        with only_one(self.folder), ExitStack() as servers:
            begin_logs(self.logs)
            self.supervisor = Supervisor(
                self.printer(),
                self.logs,
                patience_seconds=env.SHUTDOWN_GRACE_SECONDS + SHUTDOWN_ALLOWANCE_SECONDS,
            )
            ignore_signals()
            self.stop_remains()
            with interruptible():
                try:
                    self.start_servers(servers)
                    call_command("migrate", interactive=False, verbosity=0)
                    connections.close_all()
                    self.run_processes()
                except (PortTaken, ServerFailed) as failure:
                    raise CommandError(str(failure)) from None
        self.stdout.write("Everything has stopped; the data is kept.")

    def printer(self) -> Printer:
        return Printer(sys.stdout)

    def when_ready(self) -> None:
        """What is left to do once everything serves; runs beside the processes."""
        self.stdout.write(self.summary())

    def stop_remains(self) -> None:
        """Stops what is left of an `up` that was killed, in the order of any shutdown."""
        left = processes_marked(self.folder)
        stop_all(left, signal.SIGTERM, patience=settings.ENV.SHUTDOWN_GRACE_SECONDS)
        for server in (self.valkey, self.postgres):
            left += server.stop_remains()
        if left:
            pids = ", ".join(str(process.pid) for process in left)
            self.supervisor.say(f"stopped processes left over from an earlier run that was killed: {pids}")

    def start_servers(self, stack: ExitStack) -> None:
        """Starts the servers for which the environment names no others, to be stopped with the stack."""
        env = settings.ENV
        ports = {"WEB_PORT": env.WEB_PORT, "FLOWER_PORT": env.FLOWER_PORT}
        wanted: list[Server] = []
        if env.DATABASE_URL == self.postgres.url:
            ports["POSTGRES_PORT"] = env.POSTGRES_PORT
            wanted.append(self.postgres)
        if env.BROKER_URL == self.valkey.url:
            ports["VALKEY_PORT"] = env.VALKEY_PORT
            wanted.append(self.valkey)
        for setting, port in ports.items():
            require_free_port(port, setting)
        write_environment()
        for server in wanted:
            stack.enter_context(kept_running(server, self.supervisor.say))

    def run_processes(self) -> None:
        """Runs the processes until told to stop.

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
            "WEB_PORT": str(env.WEB_PORT),
            "FLOWER_PORT": str(env.FLOWER_PORT),
        }
        for name, command in commands(settings.QUEUES).items():
            self.supervisor.add(name, command, environment=environment, folder=settings.BASE_DIR)
        threading.Thread(target=self.await_ready, name="readiness", daemon=True).start()
        if self.reloads:
            self.start_reloader(environment)
        self.supervisor.run_until_signalled()

    def start_reloader(self, environment: dict[str, str]) -> None:
        names = [name for name in self.supervisor.names if name not in WITHOUT_YOUR_CODE]
        reloader = Reloader(
            code_folders(), self.supervisor, names, environment=environment, working_directory=settings.BASE_DIR
        )
        threading.Thread(target=reloader.run, name="reloader", daemon=True).start()

    def await_ready(self) -> None:
        """Says what is missing if that takes long, such as the worker of a queue."""
        said = ""
        while missing := self.missing():
            seconds = time.monotonic() - self.began_at
            if seconds > SAY_MISSING_AFTER_SECONDS and missing != said:
                self.supervisor.say(f"not ready after {seconds:.0f} s: {missing}")
                said = missing
            if self.supervisor.stopping.wait(0.2):
                return
        self.ready_seconds = time.monotonic() - self.began_at
        self.new_password = create_admin()
        self.when_ready()

    def missing(self) -> str:
        """Why not everything is ready; empty if all is. Readiness is not asked over HTTP, which logs each 503."""
        try:
            urllib.request.urlopen(f"{self.url}/api/health/", timeout=5).close()  # noqa: S310
        except OSError as error:
            return f"The web process does not respond: {error}"
        _, checks = readiness()
        return " ".join(f"{name}: {check.get('detail', '')}" for name, check in checks.items() if not check["ok"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{settings.ENV.WEB_PORT}"

    def summary(self) -> str:
        logs = self.logs.relative_to(settings.BASE_DIR) if self.logs.is_relative_to(settings.BASE_DIR) else self.logs
        admin = f"   user admin, password {self.new_password} (shown only now)" if self.new_password else ""
        return "\n".join(
            (
                f"Muster is up after {self.ready_seconds:.1f} s.",
                f"  API     {self.url}/swagger/",
                f"  Admin   {self.url}/admin/{admin}",
                f"  Flower  http://127.0.0.1:{settings.ENV.FLOWER_PORT}/",
                f"  Health  {self.url}/api/health/ready/",
                f"  Logs    {logs}",
                "Ctrl-C stops everything.",
            )
        )


def code_folders() -> list[Path]:
    """Those of Muster's apps and yours; not those of apps that are installed packages."""
    folders = [Path(app.path) for app in apps.get_app_configs()]
    return [folder for folder in folders if not any(map(folder.is_relative_to, LIBRARIES))]


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
    """Creates the first superuser and returns its password; None if there is one already."""
    users = get_user_model().objects
    try:
        if users.filter(is_superuser=True).exists():
            return None
        password = secrets.token_urlsafe(12)
        users.create_superuser("admin", password=password)
        return password
    finally:
        connections.close_all()
