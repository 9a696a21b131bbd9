"""Kinds that crash, hang, wait and write, for tests with real workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import msgspec

from orchestrator.kinds import job
from orchestrator.running import RunningJob
from orchestrator.submission import Child
from tests.kinds import outside
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


class Mishaps(msgspec.Struct, forbid_unknown_fields=True):
    """What a job leaves, and what happens to it before it may."""

    number: int = 0
    seconds: float = 0
    deaf: bool = False
    failures: int = 0
    hopeless: bool = False
    kills: bool = False


class NotYet(Exception):
    """The attempt was meant to fail; a later one will not."""


class Hopeless(Exception):
    """The job was meant to fail for good."""


PATIENT = {"max_attempts": 30, "backoff_seconds": 0.1, "backoff_ceiling_seconds": 2, "no_retry": (Hopeless,)}


@job("tests.effect", execution="transactional", batch_size=20, payload=Mishaps, **PATIENT)
def effect(running: RunningJob, payload: Mishaps) -> dict[str, int]:
    """Leaves one row and tells the outside world, unless something happens to it; in a batch with others."""
    return leave_effect(running, payload)


@job("tests.effect_in_thread", queue="io", payload=Mishaps, **PATIENT)
def effect_in_thread(running: RunningJob, payload: Mishaps) -> dict[str, int]:
    """The same, leased, in a thread."""
    return leave_effect(running, payload)


@job("tests.effect_in_child", queue="default", payload=Mishaps, **PATIENT)
def effect_in_child(running: RunningJob, payload: Mishaps) -> dict[str, int]:
    """The same, leased, in a child of the prefork pool."""
    return leave_effect(running, payload)


def leave_effect(running: RunningJob, payload: Mishaps) -> dict[str, int]:
    """The row is written before the mishap, so that one which is not rolled back is seen."""
    outside.tell("began", running.idempotency_key, running.attempt)
    if payload.deaf:
        # Where the clock is wrong: libfaketime has every time.sleep fail (EINVAL), unless it fakes all clocks.
        threading.Event().wait(payload.seconds)
    elif payload.seconds:
        running.sleep(payload.seconds)
    Effect.objects.create(job_id=running.id, attempt=running.attempt, number=payload.number)
    if payload.kills:
        os.kill(os.getpid(), signal.SIGKILL)
    if payload.hopeless:
        raise Hopeless("as it was meant to")
    if running.attempt <= payload.failures:
        raise NotYet(f"as it was meant to, {payload.failures} times")
    outside.tell("done", running.idempotency_key, running.attempt)
    return {"number": payload.number}


class Family(msgspec.Struct, forbid_unknown_fields=True):
    """The numbers of a pipeline's children, and whether one more child is hopeless."""

    numbers: list[int]
    hopeless: bool = False


def members(payload: Family) -> list[Child]:
    """Children of every kind in turn; the hopeless one comes last, after the first."""
    kinds = ("tests.effect", "tests.effect_in_thread", "tests.effect_in_child")
    children = [
        Child(name=f"child {place}", kind=kinds[place % 3], payload={"number": number})
        for place, number in enumerate(payload.numbers)
    ]
    if payload.hopeless:
        children.append(Child(name="hopeless", kind="tests.effect", payload={"hopeless": True}, after=["child 0"]))
    return children


@job("tests.family", queue="io", payload=Family, plan=members, **PATIENT)
def family(running: RunningJob, payload: Family) -> dict[str, int]:
    """Adds up its children's numbers and leaves a row with the sum."""
    total = sum(result["number"] for result in running.inputs.values())
    Effect.objects.create(job_id=running.id, attempt=running.attempt, number=total)
    return {"sum": total}


@job("tests.overdue", queue="io", max_attempts=2, timeout_seconds=1, backoff_seconds=0.1)
def overdue(running: RunningJob) -> None:
    """Takes longer than it may, each time."""
    Effect.objects.create(job_id=running.id, attempt=running.attempt)
    running.sleep(60)
