"""Kinds for the queue `gpu`, which most tests do not declare."""

from __future__ import annotations

import os

import msgspec

from orchestrator.kinds import job
from orchestrator.running import RunningJob
from tests.kinds.models import Effect


class Work(msgspec.Struct):
    seconds: float = 0
    megabytes: int = 0


@job("own_queue.work", queue="gpu", payload=Work)
def work(running: RunningJob, payload: Work) -> dict[str, int]:
    """Takes so much memory for so long, and writes one row."""
    taken = b"\1" * (payload.megabytes * 1_000_000)
    running.sleep(payload.seconds)
    Effect.objects.create(job_id=running.id, attempt=running.attempt)
    return {"pid": os.getpid(), "bytes": len(taken)}


@job("own_queue.work_in_batch", queue="gpu", execution="transactional", batch_size=2)
def work_in_batch(running: RunningJob) -> dict[str, int]:
    """Writes one row."""
    Effect.objects.create(job_id=running.id, attempt=running.attempt)
    return {"pid": os.getpid()}
