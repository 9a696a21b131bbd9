"""A step that does nothing, a pipeline of many of them, and a wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from orchestrator.kinds import job
from orchestrator.running import RunningJob
from orchestrator.submission import Child


class Nothing(msgspec.Struct):
    """A payload without fields."""


class Fan(msgspec.Struct):
    children: int


class Wait(msgspec.Struct):
    seconds: float


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


@job("bench.wait", queue="io", payload=Wait)
def wait(job: RunningJob, payload: Wait) -> None:
    """Waits."""
    job.sleep(payload.seconds)
