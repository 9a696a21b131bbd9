"""The servers that all are measured on, and the processes that run on them: started, watched and ended here alone."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg2
import redis

from config.local.ports import free_port
from config.local.postgres import Postgres
from config.local.processes import commands as processes_of_up
from config.local.server import end_all
from config.local.valkey import Valkey

BASE_DIR = Path(__file__).resolve().parent.parent
# Where `make bench` puts what it compares Muster with, away from what Muster needs.
BASELINES = BASE_DIR / ".venv" / "baselines"

# PostgreSQL's own defaults are meant for small machines. Everything measured runs with these; what makes commits
# durable is left alone, and checked. Databases that take turns, two of a million jobs among them, fit in the buffers
# together: else each would measure how its pages are read and written again that another has pushed out.
POSTGRES_SETTINGS = {"shared_buffers": "3GB", "max_wal_size": "8GB", "max_connections": "1500"}
# Loaded, and idle but where `benchmarks.written` counts.
COUNTERS = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "none"}
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}

WORKER_PROCESSES = 2
ALL_THAT_WORK_NEEDS = ("web", "worker-default", "worker-io", "control", "beat")
START_SECONDS = 90
END_SECONDS = 20

T = TypeVar("T")


class NotSo(AssertionError):
    """Something that had to be so for a measurement to count was not."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise NotSo(what)


def until(condition: Callable[[], T], timeout_seconds: float, *, every: float = 0.02) -> T:
    """What the condition answers as soon as it is true; raises NotSo after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        require(time.monotonic() < deadline, f"Not so within {timeout_seconds:g} s: {condition}")
        time.sleep(every)
    return value


class Servers:
    """A PostgreSQL that syncs to disk and a Valkey, with a database for each that is measured."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="muster-bench-"))
        self.folder.chmod(0o711)  # PostgreSQL, another user when root starts it, must pass through.
        self.postgres = Postgres(self.folder / "postgres", free_port(), settings=POSTGRES_SETTINGS | COUNTERS)
        self.valkey = Valkey(self.folder / "valkey", free_port())
        self._made: set[str] = set()

    def __enter__(self) -> Servers:
        try:
            self.postgres.start()
            self.valkey.start()
            for name, value in DURABLE.items():
                require(self.value(self.url("postgres"), f"SHOW {name}") == value, f"{name} must be {value}.")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.valkey.stop()
        self.postgres.stop()
        self.postgres.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        return self.postgres.url.removesuffix("muster") + database

    def fresh(self, name: str, create_tables: Callable[[str], object]) -> str:
        """The URL of a new database with the tables that `create_tables(url)` makes; they are made once and copied."""
        template = f"{name}_template"
        if template not in self._made:
            self.execute("postgres", f"CREATE DATABASE {template}")
            create_tables(self.url(template))
            self._made.add(template)
        self.execute("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.execute("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        redis.Redis.from_url(self.valkey.url).flushall()
        # What an earlier measurement wrote is on disk before the next one begins.
        self.execute("postgres", "CHECKPOINT")
        return self.url(name)

    def execute(self, database: str, sql: str) -> None:
        with closing(connect(self.url(database))) as connection, connection.cursor() as cursor:
            cursor.execute(sql)

    @staticmethod
    def value(url: str, sql: str) -> Any:
        with closing(connect(url)) as connection:
            return value(connection, sql)

    def prove(self, check: Callable[[], None]) -> None:
        """Checks, pulls the plug on PostgreSQL, starts it again, and checks once more: what was counted is kept."""
        check()
        self.postgres.kill()
        self.postgres.start()
        check()

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time that the servers have used so far."""
        return {"postgres": cpu_seconds(self.postgres.pid), "valkey": cpu_seconds(self.valkey.pid)}


class Stack:
    """Processes that run side by side, each in a group of its own, until the block ends."""

    def __init__(self, servers: Servers, commands: Mapping[str, str], environment: Mapping[str, str]) -> None:
        self.servers = servers
        self.port = int(environment.get("WEB_PORT", "0"))
        self.database_url = environment.get("DATABASE_URL", "")
        self.environment = dict(environment)
        self._commands = dict(commands)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Stack:
        for name, command in self._commands.items():
            self.start(name, command)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            with suppress(ProcessLookupError):
                self._processes[name].terminate()
        for name in list(self._processes):
            self.end(name)

    def start(self, name: str, command: str) -> None:
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["/bin/sh", "-c", command],
                cwd=BASE_DIR,
                env={**inherited(), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self, name: str) -> None:
        """Ends a process and what it started; by force when that takes too long."""
        process = self._processes.pop(name)
        with suppress(psutil.NoSuchProcess):
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            process.terminate()
            end_all(tree, patience=END_SECONDS)
        process.wait()

    def log(self, name: str) -> Path:
        return self.servers.folder / f"{name}.log"

    def wait_until(self, condition: Callable[[], Any], timeout_seconds: float = START_SECONDS) -> None:
        """Waits for something that is to happen; raises NotSo when a process has ended, or after the timeout."""

        def happened() -> bool:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise NotSo(f"{name} ended: {self.log(name).read_text(errors='replace')[-3_000:]}")
            return bool(condition())

        until(happened, timeout_seconds)

    def wait_until_serving(self, path: str, status: int = 200) -> None:
        self.wait_until(lambda: self._status_of(path) == status)

    def _status_of(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time that each process, with all it started, and the servers have used so far."""
        own = {name: cpu_seconds(process.pid) for name, process in self._processes.items()}
        return own | self.servers.cpu_seconds()

    def memory(self) -> dict[str, float]:
        """Each process's and its children's memory in MB, pages that are shared counted in parts (PSS)."""
        return {name: pss_mb(process.pid) for name, process in self._processes.items()}


def inherited() -> dict[str, str]:
    """What every process is given of our own environment: none of the settings that a developer's shell has."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "PYTHONWARNINGS": "ignore"}


# Muster


def muster_environment(servers: Servers, database_url: str, **settings: str) -> dict[str, str]:
    return {
        "SECRET_KEY": "only-for-benchmarks-0123456789-abcdefghijklmnopqrstuv",
        "DATABASE_URL": database_url,
        "BROKER_URL": servers.valkey.url,
        "REQUIRE_AUTH": "false",
        "ALLOW_UNAUTHENTICATED": "true",
        "SECURE_COOKIES": "false",
        "LOG_LEVEL": "WARNING",
        "EXTRA_APPS": "benchmarks.kinds",
        "ORCHESTRATION_STEP_SECONDS": "0",
        "INGESTION_EXTERNAL_CALL_SECONDS": "0",
        "REQUESTS_PER_MINUTE": "100000000",
        "REQUESTS_PER_MINUTE_PER_ADDRESS": "100000000",
        "QUEUES": queues(),
        "WEB_PORT": str(free_port()),
        "FLOWER_PORT": str(free_port()),
        "DJANGO_SETTINGS_MODULE": "config.settings",
        **settings,
    }


def queues(*, processes: int = WORKER_PROCESSES, threads: int = 32) -> str:
    return f"default:prefork:{processes},io:threads:{threads}"


def procfile() -> dict[str, str]:
    """The commands that `make up` runs."""
    return processes_of_up(("default", "io"))


@contextmanager
def muster(servers: Servers, processes: Sequence[str] = ALL_THAT_WORK_NEEDS, **settings: str) -> Iterator[Stack]:
    """Those processes of the Procfile on an empty database, ready for work."""
    environment = muster_environment(servers, servers.fresh("muster", migrated(servers)), **settings)
    commands = {name: command for name, command in procfile().items() if name in processes}
    with Stack(servers, commands, environment) as stack:
        if "web" in processes:
            stack.wait_until_serving("/api/health/ready/" if "beat" in processes else "/api/health/")
        yield stack


def migrated(servers: Servers) -> Callable[[str], None]:
    def migrate(url: str) -> None:
        run([sys.executable, "manage.py", "migrate", "--verbosity=0"], muster_environment(servers, url))

    return migrate


def run(
    command: list[str],
    environment: Mapping[str, str],
    *,
    folder: Path = BASE_DIR,
    timeout_seconds: float | None = None,
) -> str:
    """Runs a program to its end and answers what it printed; raises NotSo with its last words if it fails."""
    try:
        outcome = subprocess.run(
            command,
            cwd=folder,
            env={**inherited(), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired:
        raise NotSo(f"{shlex.join(command)} took longer than {timeout_seconds:g} s.") from None
    require(outcome.returncode == 0, f"{shlex.join(command)} failed: {outcome.stderr[-3_000:]}")
    return outcome.stdout


# Baselines


@contextmanager
def baseline(servers: Servers, module: str, *parts: str) -> Iterator[Stack]:
    """A program of benchmarks/baselines on an empty database: its `web`, under the same granian as Muster's, and its
    Celery `worker` with as many processes.
    """
    name = f"benchmarks.baselines.{module}"
    environment = {
        "BASELINE": name,
        "DJANGO_SETTINGS_MODULE": "benchmarks.baselines.django_settings",
        "BROKER_URL": servers.valkey.url,
        "WEB_PORT": str(free_port()),
    }

    def create_tables(url: str) -> None:
        program = f"import {name}; {name}.create_tables()"
        run([sys.executable, "-c", program], {**environment, "DATABASE_URL": url})

    environment["DATABASE_URL"] = servers.fresh(module, create_tables)
    commands = {
        # They are WSGI applications, served as Muster's front serves Django: by as many threads.
        "web": procfile()["web"]
        .replace("--interface asginl", "--interface wsgi --blocking-threads 32")
        .replace("config.asgi:application", f"{name}:application"),
        "worker": celery_worker(name),
    }
    with Stack(servers, {part: commands[part] for part in parts}, environment) as stack:
        if "web" in parts:
            stack.wait_until_serving("/ready/")
        yield stack


def celery_worker(module: str) -> str:
    """As Muster's worker-default: so many processes, no mingling; all else as Celery has it."""
    return (
        f"exec celery -q -A {module} worker -P prefork -c {WORKER_PROCESSES} -O fair"
        " --without-mingle --without-gossip -l WARNING"
    )


# Looking at processes and rows


def cpu_seconds(pid: int | None) -> float:
    """Processor time that a process, its children and theirs have used so far, also those that have ended."""
    if pid is None:
        return 0.0
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += sum(each.cpu_times()[:4])
    return total


def pss_mb(pid: int) -> float:
    """Memory of a process and all below it in MB, each page shared by n of all processes counted as 1/n of a page."""
    process = psutil.Process(pid)
    total = 0
    for each in (process, *process.children(recursive=True)):
        with suppress(OSError):
            lines = Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def connect(url: str) -> Any:
    """A connection of psycopg2 that commits each statement."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


def value(connection: Any, sql: str, parameters: Any = None) -> Any:
    """The first column of the first row."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()[0]


def rows(connection: Any, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Processor time each has used in between."""
    return {name: after[name] - before.get(name, 0.0) for name in after}
