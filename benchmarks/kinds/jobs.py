"""A step that does nothing, a pipeline of many of them, a wait, and ordinary jobs in each way to run them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from django.db import connection

from benchmarks.ordinary_jobs import INSERT_ROW, WAIT_SECONDS, traced
from orchestrator.async_running import AsyncRunningJob
from orchestrator.kinds import job
from orchestrator.running import RunningJob
from orchestrator.spawning import AfterChildren
from orchestrator.submission import Child


class Nothing(msgspec.Struct):
    """A payload without fields."""


class Fan(msgspec.Struct):
    children: int


class Wait(msgspec.Struct):
    seconds: float


class Ordinary(msgspec.Struct):
    job: str
    number: int


@job("bench.step", execution="transactional", takes_batch=True, payload=Nothing)
def step(jobs: Sequence[RunningJob]) -> list[Any]:
    """Does nothing."""
    return [1 for _ in jobs]


def fan_out(payload: Fan) -> list[Child]:
    """So many steps, all at once."""
    return [Child(name=str(number), kind="bench.step") for number in range(payload.children)]


@job("bench.fan", execution="transactional", payload=Fan, plan=fan_out)
def fan(job: RunningJob, payload: Fan) -> int:
    """Adds up what its steps came to."""
    return sum(job.inputs.values())


@job("bench.leased_step", queue="io", payload=Nothing)
def leased_step(job: RunningJob, payload: Nothing) -> int:
    """Does nothing."""
    return 1


@job("bench.keyed_step", queue="io", key=lambda payload: payload["key"], max_running_per_key=1)
def keyed_step(job: RunningJob) -> int:
    """Does nothing, but once at a time for each key."""
    return 1


def fan_out_leased(payload: Fan) -> list[Child]:
    """So many leased steps, all at once."""
    return [Child(name=str(number), kind="bench.leased_step") for number in range(payload.children)]


@job("bench.leased_fan", queue="io", payload=Fan, plan=fan_out_leased)
def leased_fan(job: RunningJob, payload: Fan) -> int:
    """Adds up what its leased steps came to."""
    return sum(job.inputs.values())


@job("bench.spread", queue="io", payload=Fan)
def spread(job: RunningJob, payload: Fan) -> AfterChildren[int]:
    """Adds so many steps while it runs."""
    for _ in range(payload.children):
        job.spawn(step)
    return job.after_children(added_up)


@spread.after_children
def added_up(job: RunningJob) -> int:
    """Adds up what they came to."""
    return sum(child.result for child in job.children)


@job("bench.wait", queue="io", payload=Wait)
def wait(job: RunningJob, payload: Wait) -> None:
    """Waits."""
    job.sleep(payload.seconds)


@job("bench.threads", queue="io", payload=Ordinary)
def threads(job: RunningJob, payload: Ordinary) -> None:
    """Leased, on threads."""
    run_ordinary(job, payload)


@job("bench.async", queue="io", payload=Ordinary)
async def asynchronous(job: AsyncRunningJob, payload: Ordinary) -> None:
    """On an event loop."""
    with traced(payload.number):
        if payload.job == "row":
            await sync_to_async(insert_row)(payload.number)
        elif payload.job == "wait":
            await job.sleep(WAIT_SECONDS)


@job("bench.async_wait", queue="io", payload=Wait)
async def async_wait(job: AsyncRunningJob, payload: Wait) -> None:
    """Waits on an event loop."""
    await job.sleep(payload.seconds)


@job("bench.prefork", payload=Ordinary)
def prefork(job: RunningJob, payload: Ordinary) -> None:
    """Leased, on processes."""
    run_ordinary(job, payload)


@job("bench.transactional", execution="transactional", payload=Ordinary)
def transactional(job: RunningJob, payload: Ordinary) -> None:
    """In the transaction that claims and completes it."""
    run_ordinary(job, payload)


def run_ordinary(job: RunningJob, payload: Ordinary) -> None:
    with traced(payload.number):
        if payload.job == "row":
            insert_row(payload.number)
        elif payload.job == "wait":
            job.sleep(WAIT_SECONDS)


def insert_row(number: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(INSERT_ROW, (number,))
