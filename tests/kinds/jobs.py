"""Kinds that crash, hang, wait and write, for tests with real workers."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from django.db import transaction

from orchestrator.async_running import AsyncRunningJob
from orchestrator.ended import EndedJob
from orchestrator.kinds import job
from orchestrator.running import BaseRunningJob, RunningJob
from orchestrator.spawning import AfterChildren
from orchestrator.submission import Child
from tests.kinds import mischief, outside
from tests.kinds.hanging import hang
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
def wait_and_write(running: RunningJob, payload: Wait) -> dict[str, int]:
    """Waits as a good handler does, then writes one row."""
    running.sleep(payload.seconds)
    return write_effect(running)


def write_effect(running: RunningJob) -> dict[str, int]:
    """One row, and a result that names the attempt."""
    Effect.objects.create(job_id=running.id, attempt=running.attempt)
    return {"attempt": running.attempt}


@job("tests.wait_async", queue="io", payload=Wait)
async def wait_async(running: AsyncRunningJob, payload: Wait) -> dict[str, Any]:
    """The same on the event loop."""
    await running.sleep(payload.seconds)
    await Effect.objects.acreate(job_id=running.id, attempt=running.attempt)
    return {"attempt": running.attempt}


@job("tests.block_loop", queue="io", payload=Wait)
async def block_loop(running: AsyncRunningJob, payload: Wait) -> None:
    """Keeps all other async jobs of its process waiting."""
    time.sleep(payload.seconds)


@job("tests.swallow_async", queue="io", timeout_seconds=1, max_attempts=1)
async def swallow_async(running: AsyncRunningJob) -> None:
    """Hears that it has to end, and goes on."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.1)


@job("tests.wait_in_child", queue="default", payload=Wait)
def wait_in_child(running: RunningJob, payload: Wait) -> dict[str, int]:
    """The same in a child of the prefork pool."""
    return wait_and_write.handler(running, payload)


@job("tests.wait_deaf", queue="default", payload=Wait)
def wait_deaf(running: RunningJob, payload: Wait) -> dict[str, int]:
    """Waits without ever reaching a checkpoint, then writes one row."""
    time.sleep(payload.seconds)
    return write_effect(running)


@job("tests.steps", queue="io", payload=Steps)
def steps(running: RunningJob, payload: Steps) -> dict[str, Any]:
    """Writes one row a step, and goes on where the last finished step left it."""
    for number in range(running.done, payload.steps):
        with running.step(number + 1, payload.steps):
            Effect.objects.create(job_id=running.id, attempt=running.attempt, number=number)
        running.sleep(payload.seconds_per_step)
    return {"steps": payload.steps}


@job("tests.stop_at_breakpoint", queue="default")
def stop_at_breakpoint(running: RunningJob) -> dict[str, Any]:
    """Lets somebody at a terminal change the answer."""
    answer = 0
    breakpoint()
    return {"answer": answer}


@job("tests.kill_worker", queue="default", max_attempts=2, backoff_seconds=0.1)
def kill_worker(running: RunningJob) -> None:
    """Kills the process it runs in, each time."""
    os.kill(os.getpid(), signal.SIGKILL)


@job("tests.kill_threads", queue="io", max_attempts=2, backoff_seconds=0.1, payload=Wait)
def kill_threads(running: RunningJob, payload: Wait) -> None:
    """The same beside other threads, after a while."""
    running.sleep(payload.seconds)
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


@job("tests.die_after_end", queue="io", max_attempts=1)
def die_after_end(running: RunningJob) -> dict[str, int]:
    """Writes one row, and kills its process as soon as its end is committed."""
    transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL))
    return write_effect(running)


class Mishaps(msgspec.Struct, forbid_unknown_fields=True):
    """What a job leaves, and what happens to it before it may."""

    number: int = 0
    seconds: float = 0
    deaf: bool = False
    failures: int = 0
    hopeless: bool = False
    kills: bool = False


class Keyed(Mishaps):
    """The same of a job with a concurrency key."""

    key: str = ""


class NotYet(Exception):
    """The attempt was meant to fail; a later one will not."""


class Hopeless(Exception):
    """The job was meant to fail for good."""


class Ticket(msgspec.Struct, forbid_unknown_fields=True):
    """A file; who deletes it dies."""

    path: str


def die_once(job: EndedJob[Ticket], error: str) -> None:
    """Writes one row, and kills its process the first time."""
    Effect.objects.create(job_id=job.id, attempt=job.attempt)
    ticket = Path(job.payload.path)
    if ticket.exists():
        ticket.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


@job("tests.die_after_failure", queue="default", max_attempts=1, payload=Ticket, on_failure=die_once)
def die_after_failure(running: RunningJob, payload: Ticket) -> None:
    """Fails, and its process dies of what follows."""
    raise Hopeless("as it was meant to")


@job(
    "tests.die_after_failure_in_batch", execution="transactional", max_attempts=1, payload=Ticket, on_failure=die_once
)
def die_after_failure_in_batch(running: RunningJob, payload: Ticket) -> None:
    """The same as part of a batch."""
    raise Hopeless("as it was meant to")


PATIENT: dict[str, Any] = {
    "max_attempts": 30,
    "backoff_seconds": 0.1,
    "backoff_ceiling_seconds": 2,
    "no_retry": (Hopeless,),
}


@job("tests.effect", execution="transactional", batch_size=20, payload=Mishaps, **PATIENT)
def effect(running: RunningJob, payload: Mishaps) -> dict[str, int]:
    """Leaves one row and tells the outside world, unless something happens to it; in a batch with others."""
    return leave_effect(running, payload)


@job("tests.effect_in_thread", queue="io", payload=Mishaps, **PATIENT)
def effect_in_thread(running: RunningJob, payload: Mishaps) -> dict[str, int]:
    """The same, leased, in a thread."""
    return leave_effect(running, payload)


@job("tests.effect_on_loop", queue="io", payload=Mishaps, **PATIENT)
async def effect_on_loop(running: AsyncRunningJob, payload: Mishaps) -> dict[str, int]:
    """The same on the event loop."""
    outside.tell("began", running.idempotency_key, running.attempt)
    ends_at = time.monotonic() + payload.seconds
    while (left := ends_at - time.monotonic()) > 0:
        with suppress(*[asyncio.CancelledError] * payload.deaf):
            await asyncio.sleep(left)
    await Effect.objects.acreate(job_id=running.id, attempt=running.attempt, number=payload.number)
    befall(running, payload)
    outside.tell("done", running.idempotency_key, running.attempt)
    return {"number": payload.number}


@job("tests.effect_in_child", queue="default", payload=Mishaps, **PATIENT)
def effect_in_child(running: RunningJob, payload: Mishaps) -> dict[str, int]:
    """The same, leased, in a child of the prefork pool."""
    return leave_effect(running, payload)


@job(
    "tests.effect_limited", queue="io", payload=Keyed,
    key=lambda payload: payload.key, max_running=4, max_running_per_key=1, **PATIENT,
)  # fmt: skip
def effect_limited(running: RunningJob, payload: Keyed) -> dict[str, int]:
    """The same, of which four run at once, but one of a key."""
    return leave_effect(running, payload)


@job(
    "tests.effect_rated", queue="default", payload=Keyed,
    key=lambda payload: payload.key, rate="6/2s", rate_per="key", burst=3, **PATIENT,
)  # fmt: skip
def effect_rated(running: RunningJob, payload: Keyed) -> dict[str, int]:
    """The same, of which six of a key start within two seconds."""
    return leave_effect(running, payload)


@job(
    "tests.effect_owned", queue="io", payload=Mishaps,
    max_running_per_owner=2, rate="12/2s", rate_per="owner", **PATIENT,
)  # fmt: skip
def effect_owned(running: RunningJob, payload: Mishaps) -> dict[str, int]:
    """The same, of which two of an owner run at once, and twelve start within two seconds."""
    return leave_effect(running, payload)


@job("tests.tell", queue="default", payload=Mishaps, **PATIENT)
def tell(running: RunningJob, payload: Mishaps) -> dict[str, int]:
    """Tells the outside world and sends nothing to the database, so it completes together with others."""
    outside.tell("began", running.idempotency_key, running.attempt)
    if payload.seconds:
        running.sleep(payload.seconds)
    outside.tell("done", running.idempotency_key, running.attempt)
    return {"number": payload.number}


def leave_effect(running: RunningJob, payload: Mishaps) -> dict[str, int]:
    """The row is written before the mishap, so that one which is not rolled back is seen."""
    outside.tell("began", running.idempotency_key, running.attempt)
    if payload.deaf:
        # Where the clock is wrong: libfaketime has every time.sleep fail (EINVAL), unless it fakes all clocks.
        threading.Event().wait(payload.seconds)
    elif payload.seconds:
        running.sleep(payload.seconds)
    Effect.objects.create(job_id=running.id, attempt=running.attempt, number=payload.number)
    befall(running, payload)
    outside.tell("done", running.idempotency_key, running.attempt)
    return {"number": payload.number}


def befall(running: BaseRunningJob, payload: Mishaps) -> None:
    """The mishap that is meant to happen to the job."""
    if payload.kills:
        os.kill(os.getpid(), signal.SIGKILL)
    if payload.hopeless:
        raise Hopeless("as it was meant to")
    if running.attempt <= payload.failures:
        raise NotYet(f"as it was meant to, {payload.failures} times")


class Family(msgspec.Struct, forbid_unknown_fields=True):
    """The numbers of a pipeline's children, and whether one more child is hopeless."""

    numbers: list[int]
    hopeless: bool = False


def members(payload: Family) -> list[Child]:
    """Children of every kind in turn; the hopeless one comes last, after the first."""
    kinds = ("tests.effect", "tests.effect_in_thread", "tests.effect_in_child", "tests.effect_on_loop")
    children = [
        Child(name=f"child {place}", kind=kinds[place % 4], payload={"number": number})
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


class Spread(msgspec.Struct, forbid_unknown_fields=True):
    """The numbers of the children that a job adds, and how long it goes on when it has."""

    numbers: list[int]
    seconds: float = 0


@job("tests.spread_in_thread", queue="io", payload=Spread, **PATIENT)
def spread_in_thread(running: RunningJob, payload: Spread) -> AfterChildren[dict[str, int]]:
    """Adds a child for each number, and leaves a row with the sum of what they return."""
    return spread(running, payload, total_in_thread)


@spread_in_thread.after_children
def total_in_thread(running: RunningJob) -> dict[str, int]:
    return leave_total(running)


@job("tests.spread_in_child", queue="default", payload=Spread, **PATIENT)
def spread_in_child(running: RunningJob, payload: Spread) -> AfterChildren[dict[str, int]]:
    """The same in a child of the prefork pool."""
    return spread(running, payload, total_in_child)


@spread_in_child.after_children
def total_in_child(running: RunningJob) -> dict[str, int]:
    return leave_total(running)


def spread(
    running: RunningJob, payload: Spread, total: Callable[[RunningJob], dict[str, int]]
) -> AfterChildren[dict[str, int]]:
    for number in payload.numbers:
        running.spawn(effect_in_thread, Mishaps(number=number))
    running.sleep(payload.seconds)
    return running.after_children(total)


def leave_total(running: RunningJob) -> dict[str, int]:
    total = sum(child.result["number"] for child in running.children)
    Effect.objects.create(job_id=running.id, attempt=running.attempt, number=total)
    return {"sum": total}


@job("tests.spread_on_loop", queue="io", payload=Spread, **PATIENT)
async def spread_on_loop(running: AsyncRunningJob, payload: Spread) -> AfterChildren[dict[str, int]]:
    """The same on the event loop."""
    for number in payload.numbers:
        running.spawn(effect_on_loop, Mishaps(number=number))
    await running.sleep(payload.seconds)
    return running.after_children(total_on_loop)


@spread_on_loop.after_children
async def total_on_loop(running: AsyncRunningJob) -> dict[str, int]:
    total = sum(child.result["number"] for child in await running.children())
    await Effect.objects.acreate(job_id=running.id, attempt=running.attempt, number=total)
    return {"sum": total}


@job("tests.overdue", queue="io", max_attempts=2, timeout_seconds=1, backoff_seconds=0.1)
def overdue(running: RunningJob) -> None:
    """Takes longer than it may, each time."""
    Effect.objects.create(job_id=running.id, attempt=running.attempt)
    running.sleep(60)


class Hang(msgspec.Struct, forbid_unknown_fields=True):
    """In which way the job hangs, and in how many of its attempts."""

    how: str = "sleep"
    times: int = 1_000


HANGING: dict[str, Any] = {"timeout_seconds": 2, "max_attempts": 2, "backoff_seconds": 0.1}


@job("tests.hang_in_thread", queue="io", payload=Hang, **HANGING)
def hang_in_thread(running: RunningJob, payload: Hang) -> dict[str, int]:
    """Does not end, however it is asked to; then, if that is meant, it does."""
    if running.attempt <= payload.times:
        hang(payload.how, running)
    return write_effect(running)


@job("tests.hang_in_child", queue="default", payload=Hang, **HANGING)
def hang_in_child(running: RunningJob, payload: Hang) -> dict[str, int]:
    """The same in a child of the prefork pool."""
    return hang_in_thread.handler(running, payload)


@job("tests.hang_in_batch", execution="transactional", payload=Hang, batch_size=20, **HANGING)
def hang_in_batch(running: RunningJob, payload: Hang) -> dict[str, int]:
    """The same in a transaction with others."""
    return hang_in_thread.handler(running, payload)


@job("tests.misbehave_in_thread", queue="io", payload=mischief.Acts, max_attempts=1)
def misbehave_in_thread(running: RunningJob, payload: mischief.Acts) -> Any:
    """Does what it is told to, in a thread, and logs that it began."""
    running.log.info("It begins.")
    return mischief.misbehave(running, payload)


@job("tests.misbehave_in_child", queue="default", payload=mischief.Acts, max_attempts=1)
def misbehave_in_child(running: RunningJob, payload: mischief.Acts) -> Any:
    """The same in a child of the prefork pool."""
    return misbehave_in_thread.handler(running, payload)


@job("tests.misbehave_in_batch", queue="default", execution="transactional", payload=mischief.Acts, max_attempts=1)
def misbehave_in_batch(running: RunningJob, payload: mischief.Acts) -> Any:
    """The same in a batch."""
    return misbehave_in_thread.handler(running, payload)
