"""A whole Muster, as `manage.py up` runs it, for tests that watch it from outside and hurt it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import psutil
import psycopg2
import requests
from celery import Celery

from config.local.ports import free_port
from config.local.postgres import postgres_url
from config.local.valkey import valkey_url

BASE_DIR = Path(__file__).resolve().parent.parent.parent
STEP_SECONDS = 0.5
LEASE_SECONDS = 3
# default, io and control: an inspection that has so many replies need not wait for more.
CELERY_WORKERS = 3
# A job waits at least so long for a worker that finds it without a bell.
UNRUNG_SECONDS = 1

T = TypeVar("T")


class Stack:
    """The running stack: its URL, its database, its processes by their names in the Procfile."""

    # Somebody may be editing the code while the tests run.
    up_options: tuple[str, ...] = ("--no-reload",)

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.settings = settings
        self.ports = {name: str(free_port()) for name in ("WEB_PORT", "FLOWER_PORT", "POSTGRES_PORT", "VALKEY_PORT")}
        self.url = f"http://127.0.0.1:{self.ports['WEB_PORT']}"
        self._log = data_dir.with_suffix(".log").open("wb")
        self._up = subprocess.Popen(
            [sys.executable, "manage.py", "up", *self.up_options],
            cwd=BASE_DIR,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def environment(self) -> dict[str, str]:
        """That of `manage.py up`, free of what the test run's own servers are found by."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return (
            inherited
            | self.ports
            | {
                "DATA_DIR": str(self.data_dir),
                "EXTRA_APPS": "tests.kinds",
                "ORCHESTRATION_STEP_SECONDS": str(STEP_SECONDS),
                "HEARTBEAT_SECONDS": "1",
                "LEASE_SECONDS": str(LEASE_SECONDS),
                "SHUTDOWN_GRACE_SECONDS": "2",
                "MAX_UNFINISHED_ORCHESTRATIONS": "1000",
                "WEBHOOK_PRIVATE_NETWORKS": "127.0.0.0/8",
                "INGESTION_EXTERNAL_SERVICE": "tests.kinds.services.remember",
            }
            | self.settings
        )

    def __enter__(self) -> Self:
        """Once it is ready."""
        try:
            self.wait_until_ready(120)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self, timeout_seconds: float = 60) -> None:
        until(lambda: self._up.poll() is not None or self._is_ready(), timeout_seconds)
        assert self._up.poll() is None, self.output[-5_000:]

    def stop(self) -> None:
        self._up.send_signal(signal.SIGINT)
        self._up.wait(60)
        self._log.close()

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=10, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=70, **options)

    def stream(self, lines: Iterator[bytes]) -> requests.Response:
        """Uploads NDJSON in chunks, packed."""

        def packed() -> Iterator[bytes]:
            packer = zlib.compressobj(1, wbits=31)
            while piece := b"".join(islice(lines, 2_000)):
                yield packer.compress(piece) or packer.flush(zlib.Z_SYNC_FLUSH)
            yield packer.flush()

        headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip"}
        return requests.post(f"{self.url}/api/data/ingest/stream/", data=packed(), headers=headers, timeout=120)

    def delete(self, path: str) -> requests.Response:
        return requests.delete(self.url + path, timeout=10)

    def submit(self, kind: str, payload: Any = None, **fields: Any) -> str:
        """Submits a job and answers its id."""
        answer = self.post("/jobs", {"kind": kind, "payload": payload or {}, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def end_of(self, job_id: str, timeout_seconds: float = 30) -> dict[str, Any]:
        """The job once it has ended."""
        return until(lambda: self._ended(job_id), timeout_seconds)

    def running(self, job_id: str, timeout_seconds: float = 20) -> dict[str, Any]:
        """The job once a worker runs it."""
        return until(lambda: (job := self.job(job_id))["status"] == "RUNNING" and job, timeout_seconds)

    def starts_at_once(self, kind: str) -> bool:
        """Whether a bell wakes a worker for a job of the kind, before one looks for work by itself."""
        ended = self.end_of(self.submit(kind, {"seconds": 0}))
        assert ended["status"] == "COMPLETED", ended
        started, created = (datetime.fromisoformat(ended[name]) for name in ("started_at", "created_at"))
        return started - created < timedelta(seconds=UNRUNG_SECONDS)

    @contextmanager
    def remote_control(self) -> Iterator[Celery]:
        """A Celery app that asks the workers, as `celery inspect` does."""
        with Celery(broker=self.broker_url, set_as_current=False) as app:
            app.conf.broker_transport_options = {"global_keyprefix": "muster:"}
            yield app

    def manage(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a `manage.py` command beside the stack, as its operator would."""
        return subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=BASE_DIR,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        url = postgres_url(self.data_dir / "postgres", self.ports["POSTGRES_PORT"])
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())

    def effects_of(self, job_id: str) -> list[tuple[int, int]]:
        """(attempt, number) of each write that the job's handler committed."""
        return self.query("SELECT attempt, number FROM kinds_effect WHERE job_id = %s ORDER BY id", job_id)

    def process(self, name: str) -> psutil.Process:
        """The main process of that name in the Procfile; also "postgres" and "valkey-server"."""
        return min(self._processes(name), key=lambda process: process.create_time())

    def worker_of(self, job_id: str) -> psutil.Process:
        """The process that runs the job."""
        [[pid]] = self.query(
            "SELECT worker.pid FROM orchestrator_job job JOIN orchestrator_worker worker ON worker.id = job.worker_id"
            " WHERE job.id = %s",
            job_id,
        )
        return psutil.Process(pid)

    @contextmanager
    def stopped(self, process: psutil.Process) -> Iterator[None]:
        """The process hangs for as long as the block lasts."""
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    @contextmanager
    def doubled(self, *names: str) -> Iterator[None]:
        """Each of those processes runs twice for as long as the block lasts."""
        originals = [self.process(name) for name in names]
        doubles = [psutil.Popen(one.cmdline(), cwd=one.cwd(), env=one.environ()) for one in originals]
        try:
            yield
        finally:
            for double in doubles:
                double.terminate()
            for double in doubles:
                double.wait(20)

    @property
    def broker_url(self) -> str:
        return self.settings.get("BROKER_URL") or valkey_url(self.ports["VALKEY_PORT"])

    def _processes(self, name: str) -> list[psutil.Process]:
        marks = {
            "web": "granian",
            **{f"worker-{queue}": f"{queue}@%h" for queue in ("default", "io", "gpu")},
            "control": "control@%h",
            "beat": "beat",
            "flower": "flower",
            "postgres": f"port={self.ports['POSTGRES_PORT']}",
            "valkey-server": self.ports["VALKEY_PORT"],
        }
        candidates = psutil.Process(self._up.pid).children(recursive=True)
        found = [process for process in candidates if self._is(process, marks[name])]
        assert found, f"There is no process {name!r}."
        return found

    def _is(self, process: psutil.Process, mark: str) -> bool:
        try:
            return any(mark in argument for argument in process.cmdline())
        except psutil.Error:
            return False

    def _ended(self, job_id: str) -> dict[str, Any] | None:
        try:
            job = self.get(f"/jobs/{job_id}?wait=1").json()
        except requests.RequestException:
            return None
        return job if job.get("status") in ("COMPLETED", "FAILED", "CANCELLED") else None

    def _is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/api/health/ready/", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    @property
    def output(self) -> str:
        """What `manage.py up` has printed so far."""
        return self.data_dir.with_suffix(".log").read_text(errors="replace")


def until(condition: Callable[[], T | Literal[False] | None], timeout_seconds: float = 120) -> T:
    """What the condition returns as soon as it is true; fails the test after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"Not so within {timeout_seconds} s."
        time.sleep(0.05)
    return value
