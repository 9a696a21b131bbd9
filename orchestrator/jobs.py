"""The kinds shipped with the orchestrator: the two-batch orchestration, a job to watch and cancel, notifications."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from asgiref.sync import async_to_sync
from django.conf import settings
from django.db.models import Q

from orchestrator.async_running import AsyncRunningJob
from orchestrator.ended import EndedJob
from orchestrator.graphs import references
from orchestrator.graphs.each import EACH
from orchestrator.graphs.nesting import INPUT, PIPELINE
from orchestrator.graphs.references import MissingValue
from orchestrator.kinds import job
from orchestrator.notifications import delivering, recording
from orchestrator.notifications import digests as digests  # Parts of the tick.
from orchestrator.pipelines import Pipeline, chain, group, step
from orchestrator.running import RunningJob
from orchestrator.steering import actions
from orchestrator.steering.batches import BulkAction
from orchestrator.steering.selection import BULK_ACTION

P = TypeVar("P")
R = TypeVar("R")

STEP_SECONDS = settings.ENV.ORCHESTRATION_STEP_SECONDS
DRAWS = 5
LEAST, GREATEST = 100, 999


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """A payload without fields."""


class Slices(msgspec.Struct, forbid_unknown_fields=True):
    slices: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 5
    seconds_per_slice: Annotated[float, msgspec.Meta(ge=0, le=3_600)] = 1


def two_batches(payload: Nothing) -> Pipeline:
    """Five draws at once, their sum, five draws offset by it, their sum; the job itself combines both sums."""
    first, second = (
        group(*(step(f"{batch}_draw_{n}", draw) for n in range(1, DRAWS + 1))) for batch in ("first", "second")
    )
    return chain(first, step("first_sum", aggregate), second, step("second_sum", aggregate))


@job(
    "orchestration.draw",
    queue="io",
    payload=Nothing,
    max_attempts=10,
    timeout_seconds=STEP_SECONDS + 600,
    internal="POST /orchestrate/{username}",
)
def draw(job: RunningJob, payload: Nothing) -> dict[str, int]:
    """Draws a number from 100 to 999; in the second batch the first one's sum // 5 is added."""
    job.sleep(STEP_SECONDS)
    offset = sum(result["aggregated_sum"] for result in job.inputs.values()) // DRAWS
    return {"number": random.randint(LEAST, GREATEST) + offset}


@job(
    "orchestration.aggregate",
    queue="io",
    payload=Nothing,
    max_attempts=10,
    timeout_seconds=STEP_SECONDS + 600,
    internal="POST /orchestrate/{username}",
)
def aggregate(job: RunningJob, payload: Nothing) -> dict[str, int]:
    """Adds up the draws it waited for."""
    job.sleep(STEP_SECONDS)
    return {"aggregated_sum": sum(result["number"] for result in job.inputs.values())}


@job(
    "orchestration.two_batches",
    queue="io",
    payload=Nothing,
    plan=two_batches,
    max_attempts=10,
    timeout_seconds=STEP_SECONDS + 600,
    max_unfinished_per_owner=settings.ENV.MAX_UNFINISHED_ORCHESTRATIONS,
    typical_seconds=5 * STEP_SECONDS,
)
def combine(job: RunningJob, payload: Nothing) -> dict[str, Any]:
    """Combines the sums of both batches."""
    job.sleep(STEP_SECONDS)
    return {
        "first_batch": {"aggregated_sum": job.inputs["first_sum"]["aggregated_sum"]},
        "second_batch": {"aggregated_sum": job.inputs["second_sum"]["aggregated_sum"]},
    }


class PipelineRun(msgspec.Struct, forbid_unknown_fields=True):
    """input: of a pipeline that is a step."""

    name: str = ""
    result: Any = None
    input: Any = msgspec.UNSET


@job(PIPELINE, queue="io", payload=PipelineRun, no_retry=(MissingValue, ValueError), internal="POST /pipelines")
def run_pipeline(job: RunningJob, payload: PipelineRun) -> Any:
    """Puts together what a pipeline returns, when all of its steps are done."""
    steps = {reference.step for _, reference in references.found(payload.result)}
    return references.resolved(payload.result, job.results_of(steps) | {INPUT: payload.input})


@job(EACH, queue="io", payload=Nothing, max_attempts=10, no_retry=(ValueError,), internal="POST /pipelines")
def gather(job: RunningJob, payload: Nothing) -> list[Any]:
    """Returns the list of what the items of a step with `each` have returned, in their order."""
    return job.results_of_items()


@job("pipeline.value", queue="io", payload=Any)
def value(job: RunningJob, payload: Any) -> Any:
    """Returns its payload: for a step that gathers earlier results, or that only waits for a signal."""
    return payload


@job("demo.slices", queue="io", payload=Slices)
def slices(job: RunningJob, payload: Slices) -> dict[str, int]:
    """Works in slices, so that its progress can be watched, and cancelled midway."""
    for done in range(payload.slices):
        job.progress(done, payload.slices, f"slice {done + 1} of {payload.slices}")
        job.log.info("Slice %d of %d begins.", done + 1, payload.slices)
        job.sleep(payload.seconds_per_slice)
    job.progress(payload.slices, payload.slices, "all slices done")
    return {"slices": payload.slices}


@job(
    BULK_ACTION,
    queue="io",
    payload=BulkAction,
    atomic=False,
    on_cancel="keep",
    priority=0,
    max_attempts=10,
    timeout_seconds=None,
    internal="POST /jobs/cancel, /jobs/retry or /jobs/change",
)
def bulk_action(job: RunningJob, payload: BulkAction) -> dict[str, Any]:
    """Cancels, retries or changes the jobs that matched a filter, in batches; goes on where it was interrupted."""

    def tell() -> None:
        done, total = actions.progress(job.row.id)
        job.progress(done, total, f"{done:,} of {total:,} jobs")

    tell()
    while not actions.is_done(job.row.id):
        actions.work_off(job.row.id, payload, check=job.check, tell=tell)
        if not actions.is_done(job.row.id):
            job.sleep(actions.OTHERS_SECONDS)  # Somebody else is at the last batches, or was until it died.
    tell()
    return actions.result(job.row.id, payload)


class OneDelivery(msgspec.Struct, forbid_unknown_fields=True):
    delivery: int


class OneNotification(msgspec.Struct, forbid_unknown_fields=True):
    notification: UUID


def _delivery_gave_up(job: EndedJob[OneDelivery], error: str) -> None:
    delivering.give_up(Q(id=job.payload.delivery), error)


def _digest_gave_up(job: EndedJob[OneNotification], error: str) -> None:
    delivering.give_up(Q(digest_job=job.id), error)


THREADS = next((name for name, queue in settings.QUEUES.items() if queue.pool == "threads"), "")


def _in_some_pool(send: Callable[[AsyncRunningJob, P], Awaitable[R]]) -> Callable[[Any, P], Any]:
    """As it is, on an event loop; where no queue has threads, as a function that a process runs."""
    if THREADS:
        return send

    def send_in_process(job: Any, payload: P) -> R:
        return async_to_sync(send)(job, payload)

    send_in_process.__doc__ = send.__doc__
    return send_in_process


# Tried for about a day: the first ten attempts within an hour and a half at most, then two an hour on average.
SENDING: dict[str, Any] = {
    "queue": THREADS or next(iter(settings.QUEUES)),
    "atomic": False,
    "max_attempts": 60,
    "backoff_seconds": 5,
    "backoff_ceiling_seconds": 3_600,
    "timeout_seconds": 120,
    "internal": "POST /notifications",
}


@job(recording.DELIVER, payload=OneDelivery, on_failure=_delivery_gave_up, **SENDING)
@_in_some_pool
async def deliver(job: AsyncRunningJob, payload: OneDelivery) -> dict[str, int]:
    """Sends a webhook's message about the end of a job, after the earlier ones about that job."""
    return {"sent": await delivering.send_in_order(payload.delivery)}


@job(recording.DIGEST, payload=OneNotification, on_failure=_digest_gave_up, **SENDING)
@_in_some_pool
async def send_digest(job: AsyncRunningJob, payload: OneNotification) -> dict[str, int]:
    """Sends one message about the ends of many jobs."""
    return {"jobs": await delivering.send_digest(payload.notification, UUID(job.id))}
