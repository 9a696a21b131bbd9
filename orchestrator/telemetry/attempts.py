"""Reports of attempts: lines in the log, tasks for Flower, spans for OpenTelemetry.

Called after the commit. No attempt waits for it or fails because of it.
"""

from __future__ import annotations

import atexit
import logging
import time
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from celery import current_app
from django.conf import settings

from orchestrator.failures import type_of
from orchestrator.models import Attempt, Job, Worker
from orchestrator.per_process import PerProcess
from orchestrator.states import Status
from orchestrator.telemetry import log_lines, sentry, task_events, tracing
from orchestrator.telemetry.task_events import Event, Sender

if TYPE_CHECKING:
    from orchestrator.claimed import Claimed
    from orchestrator.running import BaseRunningJob

logger = logging.getLogger(__name__)

_UNTRACED = nullcontext()
# Outcomes that are no failure of the attempt's.
_NO_FAILURES = (None, Attempt.Outcome.INTERRUPTED)


class Budget:
    """How many jobs are reported each second, as a setting says: neither Flower nor a tracer can follow thousands."""

    def __init__(self, setting: str) -> None:
        self._per_second: int = getattr(settings.ENV, setting)
        self._left = float(self._per_second)
        self._counted_at = time.monotonic()

    def take(self, wanted: int) -> int:
        """How many of those may be reported. Threads that ask at the same moment may be granted the same."""
        now = time.monotonic()
        left = min(self._per_second, self._left + (now - self._counted_at) * self._per_second)
        granted = min(wanted, int(left))
        self._left, self._counted_at = left - granted, now
        return granted


sender: Sender | None = None
# Jobs of batches that Flower is told of; attempts, and submissions outside a trace, that have spans.
flower_budget = Budget("FLOWER_BATCH_JOBS_PER_SECOND")
trace_budget = Budget("TRACED_JOBS_PER_SECOND")


def start_reporting(app: Any, worker_name: str) -> None:
    """From now on this process reports its jobs to Flower."""
    global sender
    sender = Sender(app, worker_name).start() if app.conf.worker_send_task_events else None
    tracing.is_on()  # What it needs is imported now, not by the first job.


def stop_reporting() -> None:
    """Sends the remaining events, spans and errors, if that takes no longer than a moment."""
    if sender:
        sender.stop()
    tracing.flush()
    sentry.flush()


def are_traced() -> bool:
    """Whether `submitted` is to see the rows of jobs."""
    return tracing.is_on()


def submitted(rows: Sequence[MutableMapping[str, Any]]) -> None:
    """Gives the rows of jobs that are submitted the trace that they are part of, if there is one."""
    if tracing.is_on():
        tracing.submitted(rows, trace_budget.take)


def begun(running: BaseRunningJob) -> AbstractContextManager[None]:
    """Reports that the attempt at a leased job has begun; `completed` or `ended` report its end, then or later, and
    `left` that this process has nothing more to report of it.
    """
    if sender:
        sender.send(_beginning(running))
    return _traced_call(running) if tracing.is_on() else _UNTRACED


def begun_in_task(running: BaseRunningJob) -> None:
    """Reports the same of an async job, from within its task."""
    if sender:
        sender.send(_beginning(running))
    if tracing.is_on():
        if trace_budget.take(1):
            tracing.enter_task(_traced(running))
        else:
            tracing.enter_trace(running.row.traceparent)


def called(running: Sequence[BaseRunningJob]) -> AbstractContextManager[None]:
    """The handler of transactional jobs is called meanwhile, once for one or for all of them."""
    if not tracing.is_on():
        return _UNTRACED
    if len(running) == 1:
        return _traced_call(running[0])
    granted = trace_budget.take(len(running))
    return tracing.span_of_batch([_traced(each) for each in running[:granted]], len(running)) if granted else _UNTRACED


def _traced_call(running: BaseRunningJob) -> AbstractContextManager[None]:
    return tracing.span_of(_traced(running)) if trace_budget.take(1) else tracing.InTrace(running.row.traceparent)


def rolled_back(attempts_so_far: Mapping[str, int]) -> None:
    """Transactional jobs do not run any more. What was not reported of them by now has been rolled back.

    attempts_so_far: how many attempts each job had before, by its id.
    """
    if tracing.open_spans or tracing.batches:
        for id, attempt in attempts_so_far.items():
            tracing.forget(id, attempt + 1)


def left(running: BaseRunningJob) -> None:
    """If the job was taken away meanwhile, others have reported how the attempt ended."""
    if _has_span(running):
        tracing.leave(_traced(running))


def completed(running: BaseRunningJob, result: str) -> None:
    """A leased job is completed, with that result as JSON."""
    log_lines.completed([running])
    if sender:
        sender.send([_success(running, result)])
    if _has_span(running):
        tracing.record(_traced(running), "COMPLETED")


def waits_for_children(running: BaseRunningJob, count: int) -> None:
    """An attempt has ended, and its job goes on once so many children have ended."""
    log_lines.waits_for_children(running, count)
    if sender:
        error = f"It waits for {count:,} children."
        sender.send([task_events.failed(running.id, running.row.kind, error=error, traceback="", again=True)])
    if _has_span(running):
        tracing.record(_traced(running), "WAITING")


def batch_completed(done: Sequence[tuple[BaseRunningJob, str]]) -> None:
    """Transactional jobs are completed, with their results as JSON. Their start was not reported."""
    log_lines.completed([running for running, _ in done])
    if sender:
        for running, result in done[: flower_budget.take(len(done))]:
            sender.send([*_beginning(running), _success(running, result)])
    if tracing.open_spans or tracing.batches:
        for running, _ in done:
            if tracing.has_begun(running.id, running.attempt):
                tracing.record(_traced(running), "COMPLETED", began_at=running.wall_clock_began_at)


def ended(
    job: Job,
    outcome: Attempt.Outcome | None,
    *,
    error: str,
    traceback: str,
    exception: BaseException | None,
    began_at: datetime | None,
    started_at: datetime | None,
) -> None:
    """An attempt has ended without completing the job, which is now as it is given.

    outcome: None if the job was cancelled.
    began_at: if Flower was not told of the start. started_at: when it began, as far as it is known.
    """
    log_lines.ended(job, outcome, error, traceback, exception)
    if sender:
        sender.send(_end(job, error, traceback, began_at))
    if not tracing.is_on():
        return
    failure = None
    if outcome not in _NO_FAILURES:
        failure = tracing.Failure(type_of(exception) if exception else str(outcome), error, traceback)
    # A span of its own has been opened for some attempts that ran in this process, and for none that another one ran.
    since = began_at or started_at
    tracing.record(_of_row(job), str(outcome or job.status), failure, began_at=since.timestamp() if since else None)


def pipeline_failed(parent: Job, error: str) -> None:
    """A pipeline has failed because a child did, before its own last step."""
    log_lines.pipeline_failed(parent, error)
    if tracing.is_on():
        began_at = (parent.started_at or parent.created_at).timestamp()
        tracing.record(_of_row(parent), "FAILED", tracing.Failure("ChildFailed", error, ""), began_at=began_at)
    if sender:
        parent.status = Status.FAILED
        sender.send(_end(parent, error, "", parent.started_at or parent.created_at))


def cancelled(jobs: Sequence[Job]) -> None:
    """Jobs were cancelled that no worker was running, perhaps by a process that is no worker, as of the web server.

    Flower takes the name in every event for a worker's: it is that of the last one that ran the job, or of one alive.
    """
    try:
        if sender:
            sender.send([_revoked(job, job.worker_name) for job in jobs])
        elif jobs and current_app.conf.worker_send_task_events and (alive := _worker_alive()):
            _client_sender().send([_revoked(job, job.worker_name or alive) for job in jobs])
    except Exception as error:
        logger.debug("The cancellation of jobs was not reported to Flower: %r", error)


def _revoked(job: Job, worker_name: str) -> Event:
    event = task_events.revoked(str(job.id), job.kind, has_run=False)
    return event | {"hostname": worker_name} if worker_name else event


def _worker_alive() -> str | None:
    alive = Worker.objects.filter(ended_at=None).order_by("-seen_at")
    return alive.values_list("name", flat=True).first()


def _start_client_sender() -> Sender:
    sender_of_client = Sender(current_app, "").start()
    atexit.register(sender_of_client.stop)
    return sender_of_client


# That of a process that is no worker.
_client_sender = PerProcess(_start_client_sender)


def _has_span(running: BaseRunningJob) -> bool:
    """Whether a span was opened when the leased job began. Most have none: quicker than to look for it and end it."""
    return bool(tracing.open_spans) and (running.id, running.attempt) in tracing.open_spans


def _beginning(running: BaseRunningJob) -> list[Event]:
    row = running.row
    return _begun(row, running.wall_clock_began_at, payload=row.payload, attempt=running.attempt)


def _success(running: BaseRunningJob, result: str) -> Event:
    return task_events.succeeded(running.id, running.row.kind, result=result, runtime_seconds=running.runtime_seconds)


def _end(job: Job, error: str, traceback: str, began_at: datetime | None) -> list[Event]:
    """Under the name of the worker that ran the job, which may be another's that has died."""
    id = str(job.id)
    events = []
    if began_at:
        payload = msgspec.json.encode(job.payload).decode()
        events += _begun(job, began_at.timestamp(), payload=payload, attempt=job.attempt)
    if job.status == Status.CANCELLED:
        events.append(task_events.revoked(id, job.kind, has_run=True))
    else:
        again = job.status == Status.CREATED
        events.append(task_events.failed(id, job.kind, error=error, traceback=traceback, again=again))
    return [event | {"hostname": job.worker_name} for event in events] if job.worker_name else events


def _begun(job: Job | Claimed, at: float, *, payload: str, attempt: int) -> list[Event]:
    parent_id = str(job.parent_id) if job.parent_id else None
    return task_events.begun(str(job.id), job.kind, at, payload=payload, parent_id=parent_id, attempt=attempt)


def _traced(running: BaseRunningJob) -> tracing.Attempt:
    row = running.row
    return tracing.Attempt(
        running.id, running.attempt, row.kind, row.owner, row.traceparent, row.waited_since, row.claimed_at
    )


def _of_row(job: Job) -> tracing.Attempt:
    return tracing.Attempt(str(job.id), job.attempt, job.kind, job.owner, job.traceparent)
