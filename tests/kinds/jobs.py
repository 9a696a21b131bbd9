"""Kinds that crash, hang, wait and write, for tests with real workers."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import msgspec

from orchestrator.kinds import job
from orchestrator.running import RunningJob
from tests.kinds.models import Effect


class Wait(msgspec.Struct):
    seconds: float = 60


class Steps(msgspec.Struct):
    steps: int
    seconds_per_step: float = 0.1


@job("tests.write", execution="transactional", max_attempts=1)
def write(running: RunningJob) -> dict[str, Any]:
    """Writes one row."""
    Effect.objects.create(job_id=running.id, attempt=running.attempt)
    return {}


@job("tests.wait_and_write", queue="io", payload=Wait)
def wait_and_write(running: RunningJob, payload: Wait) -> dict[str, Any]:
    """Waits as a good handler does, then writes one row."""
    running.sleep(payload.seconds)
    Effect.objects.create(job_id=running.id, attempt=running.attempt)
    return {"attempt": running.attempt}


@job("tests.wait_in_child", queue="default", payload=Wait)
def wait_in_child(running: RunningJob, payload: Wait) -> dict[str, Any]:
    """The same in a child of the prefork pool."""
    return wait_and_write.handler(running, payload)


@job("tests.wait_deaf", queue="default", payload=Wait)
def wait_deaf(running: RunningJob, payload: Wait) -> dict[str, Any]:
    """Waits without ever reaching a checkpoint, then writes one row."""
    time.sleep(payload.seconds)
    Effect.objects.create(job_id=running.id, attempt=running.attempt)
    return {"attempt": running.attempt}


@job("tests.steps", queue="io", payload=Steps)
def steps(running: RunningJob, payload: Steps) -> dict[str, Any]:
    """Writes one row a step, and goes on where the last finished step left it."""
    for number in range(running.done, payload.steps):
        with running.step(number + 1, payload.steps):
            Effect.objects.create(job_id=running.id, attempt=running.attempt, number=number)
        running.sleep(payload.seconds_per_step)
    return {"steps": payload.steps}


@job("tests.kill_worker", queue="default", max_attempts=2, backoff_seconds=0.1)
def kill_worker(running: RunningJob) -> None:
    """Kills the process it runs in, each time."""
    os.kill(os.getpid(), signal.SIGKILL)


@job("tests.kill_worker_in_batch", execution="transactional", max_attempts=2)
def kill_worker_in_batch(running: RunningJob) -> None:
    """The same as part of a batch."""
    os.kill(os.getpid(), signal.SIGKILL)


@job("tests.exhaust_memory", queue="default", max_attempts=1)
def exhaust_memory(running: RunningJob) -> None:
    """Raises what would end Celery's main process if it reached it."""
    raise MemoryError("too much")


@job("tests.exit", queue="default", max_attempts=1)
def leave(running: RunningJob) -> None:
    """Tries to end its process in order."""
    raise SystemExit(3)
