"""One job that is run in this process as soon as it is submitted, for somebody who watches it: `manage.py run-job`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from types import FrameType
from typing import Any

from django.db import connection, transaction

from orchestrator import models
from orchestrator.async_running import AsyncRunningJob
from orchestrator.attempt.timeouts import InFlightBatch
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.running import RunningJob
from orchestrator.submission import NotCancellable, cancel, submit
from orchestrator.worker.batches import run_alone
from orchestrator.worker.leased import claim_one, run_claimed
from orchestrator.worker.process import WorkerProcess

# How long a transactional job may be locked by a worker that looks at it and leaves it to us.
LOCKED_SECONDS = 5
LOCKED_PAUSE_SECONDS = 0.05

# Somebody may think for longer at a breakpoint than a worker may be frozen.
NO_IDLE_LIMIT = "SET LOCAL idle_in_transaction_session_timeout = 0"


class NotStarted(Exception):
    """The job cannot run in this way, so it was not submitted."""


class ForegroundJob:
    """Submits and runs one job of a kind, under the fences of any other, with one attempt and no timeout."""

    def __init__(self, kind: Kind, process: WorkerProcess, say: Callable[[str], object]) -> None:
        """process: registered, with its heartbeat. say: tells whoever watches what happens; called by any thread."""
        self._kind = replace(kind, handler=self._watched(kind), timeout=None)
        self._process = process
        self._say = say
        self._job: Job | None = None
        self._handling = False
        self._cancelling = False

    def run(self, payload: Any = None, *, owner: str = "") -> Job:
        """Returns the job as it is when its attempt has ended. Raises NotStarted, or as `submit` does."""
        self._check_startable()
        if self._kind.execution == "transactional":
            job = self._run_transactional(payload, owner)
        else:
            job = self._run_leased(payload, owner)
        job.refresh_from_db()
        return job

    def on_interrupt(self, *_: int | FrameType | None) -> None:
        """What Ctrl-C does, as a signal handler: it cancels the job, and the second time interrupts its handler.

        A transactional job has no checkpoint, so the first time does so. An async handler cannot be interrupted, so
        KeyboardInterrupt is raised out of `run`.
        """
        if self._job is None:
            raise KeyboardInterrupt
        if self._cancelling or self._kind.execution == "transactional":
            if self._handling or self._kind.is_async:
                raise KeyboardInterrupt
            return
        self._cancelling = True
        threading.Thread(target=self._cancel, args=(self._job,), daemon=True).start()

    def _check_startable(self) -> None:
        name = self._kind.name
        if self._kind.plan:
            raise NotStarted(
                f"Jobs of kind {name!r} are pipelines, whose children run in workers. Run one of its children's kinds "
                "here, or the whole pipeline in a test, with orchestrator.testing.run_now()."
            )
        if models.Kind.objects.filter(name=name).exclude(paused_at=None).exists():
            raise NotStarted(f"The kind {name!r} is paused. Resume it in the admin.")

    def _run_leased(self, payload: Any, owner: str) -> Job:
        # It becomes this process's in the transaction that submits it, so no worker ever sees it waiting.
        with transaction.atomic():
            job = submit(self._kind, payload, owner=owner, max_attempts=1)
            running = self._claim(job)
            if running is None:
                raise NotStarted(f"The kind {self._kind.name!r} has just been paused.")
        self._started(job)
        if isinstance(running, AsyncRunningJob):
            self._process.async_jobs.run_claimed(running)
        else:
            run_claimed(running, self._process)
        return job

    def _claim(self, job: Job) -> RunningJob | AsyncRunningJob | None:
        if self._kind.is_async:
            return self._process.async_jobs.claim_one(self._kind, job.id)
        return claim_one(self._kind, self._process, job.id)

    def _run_transactional(self, payload: Any, owner: str) -> Job:
        with transaction.atomic():
            job = submit(self._kind, payload, owner=owner, max_attempts=1)
            # Workers leave alone what another process has noted that it runs.
            noted = InFlightBatch(self._kind, {str(job.id): 0}, connection.connection.info.backend_pid)
            self._process.in_flight.record_in_flight(noted)
        self._started(job)
        gives_up_at = time.monotonic() + LOCKED_SECONDS
        while not run_alone(self._kind, self._process, str(job.id), 0) and time.monotonic() < gives_up_at:
            time.sleep(LOCKED_PAUSE_SECONDS)
        self._process.in_flight.forget(noted)
        return job

    def _started(self, job: Job) -> None:
        self._job = job
        self._say(f"{job} started.")

    def _watched(self, kind: Kind) -> Callable[..., Any]:
        if kind.is_async:  # It runs on the event loop, where no signal interrupts it.
            return kind.handler

        @wraps(kind.handler)
        def handler(*args: Any) -> Any:
            if kind.execution == "transactional":
                with connection.cursor() as cursor:
                    cursor.execute(NO_IDLE_LIMIT)
            self._handling = True
            try:
                return kind.handler(*args)
            finally:
                self._handling = False

        return handler

    def _cancel(self, job: Job) -> None:
        self._say("Cancelling the job at its next checkpoint. Ctrl-C again interrupts it at once.")
        try:
            cancel(job.id)
        except NotCancellable:
            return
        finally:
            connection.close()
        self._process.heartbeat.beat_soon()
