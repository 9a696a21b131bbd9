"""What the suite hurts: a whole stack, a broker of its own, and workers behind a network that can be cut."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import requests
from celery import Celery
from kombu import Connection

from config.local.server import Keeper, end_all
from config.local.supervisor import processes_marked
from tests.chaos.network import new_namespace, proxy_to
from tests.chaos.proxy import POSTGRESQL_KEEPALIVE, Proxy
from tests.chaos.servers import Broker, Database
from tests.system.stack import LEASE_SECONDS, Stack, until

SETTINGS = {
    "EXTRA_APPS": "tests.kinds,tests.sabotage",
    "ORCHESTRATION_STEP_SECONDS": "0.2",
    "QUEUES": "default:prefork:2,io:threads:8",
    "CONSUMER_STALL_SECONDS": "10",
}
# How long the suite waits for the database to answer it.
PATIENCE_SECONDS = 60


class World:
    """Everything that runs, and the handles to hurt it by. One world may serve many runs, one after the other."""

    def __init__(self, folder: Path, broker: Broker, **settings: str) -> None:
        self.folder = folder
        self.broker = broker
        self.outside = folder / "outside.jsonl"
        # The names of points at which a process is to crash once, and of guards that are missing, as files.
        self.failpoints, self.sabotage = folder / "failpoints", folder / "sabotage"
        for path in (self.failpoints, self.sabotage):
            path.mkdir(exist_ok=True)
        self.outside.touch()
        self.database = Database(folder)
        self.database.start()
        self._keeper = Keeper(self.database, self._note)
        self._keeper.start()
        broker.start()
        self.stack = Stack(
            folder / "data",
            **SETTINGS,
            DATABASE_URL=self.database.url,
            BROKER_URL=broker.url,
            OUTSIDE_FILE=str(self.outside),
            FAILPOINTS=str(self.failpoints),
            SABOTAGE=str(self.sabotage),
            **settings,
        )
        self._local = threading.local()
        self._far: list[Kept] = []
        try:
            self.stack.wait_until_ready(120)
            self._templates = {name: Template(self.stack.process(name)) for name in RUNNABLE}
            # The far workers' host, where there can be one: without it they are behind the proxies alone.
            self.far_host = new_namespace()
            self.network = proxy_to(self.database.port, self.far_host, POSTGRESQL_KEEPALIVE)
            self._far_broker = proxy_to(broker.port, self.far_host)
            self._start_far_workers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for far in self._far:
            far.stop()
        self.stack.stop()
        if hasattr(self, "network"):
            self.network.stop()
            self._far_broker.stop()
        if far_host := getattr(self, "far_host", None):
            far_host.close()
        self._keeper.stop()
        self.database.stop()
        self.database.destroy()
        self.broker.destroy()

    def left_processes(self) -> list[psutil.Process]:
        """What still runs of a world that was stopped."""
        return processes_marked(self.folder / "data")

    # The database, seen from outside the system.

    def query(self, sql: str, *parameters: Any, patience: float = PATIENCE_SECONDS) -> list[tuple[Any, ...]]:
        """Asks on a connection of the thread's own, again and again until the database answers."""
        deadline = time.monotonic() + patience
        while True:
            try:
                with self._connection().cursor() as cursor:
                    cursor.execute(sql, parameters or None)
                    return list(cursor.fetchall()) if cursor.description else []
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                self._local.connection = None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def connect(self) -> Any:
        """A connection of its own, on which each statement is a transaction."""
        connection = psycopg2.connect(
            self.database_url(),
            connect_timeout=3,
            application_name="chaos",
            options="-c lock_timeout=0 -c statement_timeout=0",
        )
        connection.autocommit = True
        return connection

    def database_is_up(self) -> bool:
        try:
            self.query("SELECT 1", patience=0)
        except psycopg2.Error:
            return False
        return True

    def api_answers(self) -> bool:
        try:
            return requests.get(f"{self.stack.url}/api/health/", timeout=2).ok
        except requests.RequestException:
            return False

    def database_url(self) -> str:
        return self.database.url

    def _connection(self) -> Any:
        if getattr(self._local, "connection", None) is None:
            self._local.connection = self.connect()
        return self._local.connection

    # Processes.

    def processes(self, target: str) -> list[psutil.Process]:
        """The processes that the target may mean: a name of the Procfile, or "child" for those of the prefork pool."""
        return until(lambda: self._found(target), PATIENCE_SECONDS)

    def _found(self, target: str) -> list[psutil.Process]:
        try:
            if target == "child":
                return list(self.stack.process("worker-default").children())
            if target == "postgres":
                return [psutil.Process(self.database.pid)]
            return [self.stack.process(target)]
        except (AssertionError, psutil.Error):
            return []

    @contextmanager
    def extra(self, name: str, **environment: str) -> Iterator[psutil.Popen]:
        """One process more of that name, with another environment, for as long as the block lasts."""
        process = self._templates[name].start(self._log(f"extra-{name}"), environment, rename=f"extra-{name}")
        try:
            yield process
        finally:
            process.terminate()
            end_all([process], patience=15)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _start_far_workers(self) -> None:
        broker_url = as_seen_from_afar(self.broker.url, self._far_broker)
        environment = {
            "DATABASE_URL": as_seen_from_afar(self.database.url, self.network),
            "BROKER_URL": broker_url,
            "CACHE_URL": broker_url if broker_url.startswith("redis") else "",
        }
        prefix = self.far_host.prefix if self.far_host else []
        for name in ("worker-default", "worker-io"):
            log_path = self._log(f"far-{name}")
            self._far.append(Kept(self._templates[name], log_path, f"far-{name}", prefix, **environment))

    def far_pids(self) -> set[int]:
        """The processes of the workers behind the network."""
        return {pid for far in self._far for pid in far.pids()}

    def _note(self, said: str) -> None:
        with self._log("world").open("a") as log:
            log.write(f"{time.time():.1f} {said}\n")

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    # Messages.

    def send_again(self, kind: str, queue: str, id: str, times: int) -> None:
        """Sends a message that was answered long ago so many times more."""
        message = Celery().amqp.as_task_v2(id, kind)
        prefix = {"global_keyprefix": "muster:"} if self.broker.url.startswith("redis") else {}
        with Connection(self.broker.url, connect_timeout=2, transport_options=prefix) as connection:
            producer = connection.Producer(serializer="json")
            for _ in range(times):
                producer.publish(
                    message.body, exchange="", routing_key=queue, headers=message.headers, **message.properties
                )


RUNNABLE = ("worker-default", "worker-io", "control", "beat")


class Template:
    """How a process of the stack was started."""

    def __init__(self, process: psutil.Process) -> None:
        self._command, self._folder, self._environment = process.cmdline(), process.cwd(), process.environ()

    def start(
        self, log_path: Path, environment: dict[str, str], *, rename: str, prefix: Sequence[str] = ()
    ) -> psutil.Popen:
        command = [*prefix, *(argument.replace("@%h", f"-{rename}@%h") for argument in self._command)]
        with log_path.open("ab") as log:
            return psutil.Popen(
                command,
                cwd=self._folder,
                env=self._environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class Kept:
    """A process that is started again whenever it ends, until it is told to stop."""

    def __init__(
        self, template: Template, log_path: Path, name: str, prefix: Sequence[str] = (), **environment: str
    ) -> None:
        self._start: Callable[[], psutil.Popen] = lambda: template.start(
            log_path, environment, rename=name, prefix=prefix
        )
        self._stopping = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)
        self._thread.start()

    def pids(self) -> set[int]:
        with suppress(psutil.Error):
            return {process.pid for process in (self._process, *self._process.children(recursive=True))}
        return set()

    def stop(self) -> None:
        self._stopping.set()
        with suppress(psutil.Error):
            self._process.terminate()
        end_all([self._process], patience=15)
        self._thread.join()

    def _keep(self) -> None:
        while True:
            self._process.wait()
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            if self._stopping.wait(0.5):
                return
            self._process = self._start()


def as_seen_from_afar(url: str, proxy: Proxy) -> str:
    return re.sub(r"127\.0\.0\.1:\d+", f"{proxy.host}:{proxy.port}", url)


def affected_jobs(world: World, pids: set[int]) -> dict[str, int]:
    """The leased jobs that those processes run, each with its attempt; nothing if the database does not say."""
    with suppress(psycopg2.Error):
        return dict(
            world.query(
                "SELECT job.id::text, job.attempt FROM orchestrator_job job"
                " JOIN orchestrator_worker worker ON worker.id = job.worker_id WHERE worker.pid = ANY(%s)",
                sorted(pids),
                patience=0,
            )
        )
    return {}


def with_children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """The processes hang for as long as the block lasts."""
    for process in processes:
        with suppress(psutil.Error):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.Error):
                process.resume()


BEYOND_LEASE_SECONDS = LEASE_SECONDS + 2
