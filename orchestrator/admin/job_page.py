"""The page of a job: what it is, why it waits or what it failed of, its life, its attempts, its pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from access.models import AuditEntry
from access.permissions import is_granted, owner_of
from orchestrator import queries
from orchestrator.admin import pipelines
from orchestrator.admin.attempts import passages
from orchestrator.admin.change_place import has_place
from orchestrator.admin.charts import meter
from orchestrator.admin.rendering import COLOURS, MAX_CHARACTERS, as_indented
from orchestrator.admin.run_again import can_run_again
from orchestrator.admin.send_signal import can_be_signalled
from orchestrator.diagnostics.flower import flower_url
from orchestrator.models import Attempt, Checkpoint, Job
from orchestrator.shown.words import duration, rough
from orchestrator.states import FINAL, UNFINISHED, Status

MAX_LINES_SHOWN = 200
# Log lines are written a moment after the job has ended.
LINES_FOLLOW_SECONDS = 3
MAX_ATTEMPTS_SHOWN, MAX_AUDIT_SHOWN, MAX_CHECKPOINTS_SHOWN = 20, 20, 100
REFRESH_SECONDS = 2


# How lines of a level stand out.
LEVELS = {"WARNING": "m-warn-line", "ERROR": "m-bad-line", "CRITICAL": "m-bad-line", "DEBUG": "m-subtle"}


class Stretch(NamedTuple):
    """A part of a job's life: what it did, for how long, and until when."""

    css: str
    what: str
    seconds: float
    begins_at: datetime

    @property
    def weight(self) -> float:
        """Its share of the drawing; what is short stays visible."""
        return round(max(self.seconds, 0.001), 3)


def useless_buttons(job: Job) -> set[str]:
    """The names of those that do not apply to the job as it is."""
    useless = set()
    if job.status not in UNFINISHED or job.cancel_requested_at:
        useless.add("cancel_this")
    if job.status not in (Status.FAILED, Status.CANCELLED) or job.parent_id or job.pruning:
        useless.add("retry_this")
    if job.status not in UNFINISHED or not can_be_signalled(job):
        useless.add("send_signal")
    if not has_place(job) or job.cancel_requested_at:
        useless.add("change_place")
    if job.status not in FINAL or not can_run_again(job):
        useless.add("run_again")
    return useless


def context(request: HttpRequest, job: queries.JobDetail) -> dict[str, Any]:
    now = timezone.now()
    attempts = list(Attempt.objects.filter(job=job.id).order_by("-id")[:MAX_ATTEMPTS_SHOWN])
    is_live = job.finished_at is None or (now - job.finished_at).total_seconds() < LINES_FOLLOW_SECONDS
    pipeline = pipelines.page(job, now) if job.children_counts else None
    return {
        "layout": "orchestrator/admin/bare.html" if "HX-Request" in request.headers else "admin/change_form.html",
        "job": job,
        "state": {"text": job.status, "type": COLOURS[Status(job.status)]},
        "sentence": sentence(job, now),
        "is_live": is_live,
        "refresh_seconds": pipeline["refresh_seconds"] if pipeline else REFRESH_SECONDS,
        "progress": _progress(job),
        "stretches": [] if pipeline else stretches(job, attempts[::-1], now),
        "attempts": [
            {
                "row": each,
                "type": COLOURS[Attempt.Outcome(each.outcome)],
                "passages": list(passages(each.traceback)),
                "took": (each.ended_at - each.started_at).total_seconds() if each.started_at else None,
            }
            for each in attempts
        ],
        "log": _log(job),
        "checkpoints": list(Checkpoint.objects.filter(job=job.id).defer("result")[:MAX_CHECKPOINTS_SHOWN]),
        "pipeline": pipeline,
        # Flower has not heard of others.
        "flower_url": f"{flower_url(request)}/task/{job.id}" if job.celery_task_id else "",
        "trace_url": trace_url(job),
        "audit": _audit(request, job),
        **_contents(request, job),
    }


def trace_url(job: Job) -> str:
    """Where its trace is shown; empty if there is none, or TRACE_URL is not set."""
    template: str = settings.ENV.TRACE_URL
    return template.replace("{trace_id}", job.trace_id) if job.trace_id else ""


def sentence(job: queries.JobDetail, now: datetime) -> str:
    """In words, what becomes of the job."""
    if job.status == Status.FAILED:
        if not job.attempt:
            return "Failed, since not all of its children completed."
        return f"Failed for good after {job.attempt} {'attempt' if job.attempt == 1 else 'attempts'}."
    if job.status == Status.COMPLETED:
        ran = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
        return f"Done in {duration(ran)}."
    if job.status == Status.CANCELLED:
        return "Cancelled." if job.started_at else "Cancelled before it started."
    if job.cancel_requested_at:
        return "Its cancellation is requested; it stops at its handler's next checkpoint."
    return _waits(job, now) if not job.worker_id else f"Runs on {job.worker_name}."


def _waits(job: queries.JobDetail, now: datetime) -> str:
    until = rough((job.run_at - now).total_seconds())
    number = job.unfinished_dependencies
    match queries.waiting_for(job):
        case "dependencies":
            return f"Waits for {number:,} {'job' if number == 1 else 'jobs'} to complete."
        case "signal":
            return f"Waits for the signal {job.awaited_signal}."
        case "retry":
            return f"Waits for attempt {job.attempt + 1} of {job.max_attempts}, in {until}."
        case "snooze":
            return f"Asked to run again later, in {until}."
        case "start_time":
            return f"Waits for its start, in {until}."
        case "paused_kind":
            return "Waits because its kind is paused."
        case "paused_owner":
            return "Waits because its owner is paused." if job.owner else "Waits: jobs without an owner are paused."
        case "max_running" | "max_running_per_owner" | "max_running_per_key" | "rate" as limit:
            return f"Waits for the limit {limit} of its kind."
        case _:
            return f"Waits for a worker of the queue {job.queue}."


def stretches(job: Job, attempts: Sequence[Attempt], now: datetime) -> list[Stretch]:
    """The job's life in order: how long it waited, and each of its attempts."""
    found: list[Stretch] = []
    reached = job.created_at

    def until(moment: datetime, css: str, what: str) -> None:
        nonlocal reached
        if moment > reached:
            found.append(Stretch(css, what, (moment - reached).total_seconds(), reached))
            reached = moment

    for attempt in attempts:
        if attempt.started_at:
            until(attempt.started_at, "m-waited", "waited for a retry" if found else "waited")
        until(attempt.ended_at, f"m-{attempt.outcome.lower()}", f"attempt {attempt.number}: {attempt.outcome}")
    runs = job.status == Status.RUNNING or job.status == Status.COMPLETED
    if runs and job.started_at:
        until(job.started_at, "m-waited", "waited for a retry" if found else "waited")
        name = "ran" if job.status == Status.COMPLETED else "runs"
        until(job.finished_at or now, f"m-{job.status.lower()}", name)
    else:
        until(job.finished_at or now, "m-waited", "waits" if job.status in UNFINISHED else "waited")
    return found


def _progress(job: Job) -> dict[str, Any] | None:
    if job.progress_done is None:
        return None
    total = job.progress_total
    return {
        "meter": meter(job.progress_done, total) if total else "",
        "done": job.progress_done,
        "total": total,
        "message": job.progress_message,
        "percent": 100 * job.progress_done // total if total else None,
    }


def _log(job: Job) -> dict[str, Any] | None:
    """The last lines that its handler has logged, by attempt; None if there are none."""
    lines = queries.log_lines(job.id, limit=MAX_LINES_SHOWN + 1, newest=True)
    if not lines:
        return None
    shown = lines[-MAX_LINES_SHOWN:]
    by_attempt = groupby(shown, key=lambda line: line.attempt)
    return {
        "has_more": len(lines) > len(shown),
        "attempts": [{"number": number, "lines": list(_with_gaps(of_it))} for number, of_it in by_attempt],
    }


def _with_gaps(lines: Iterable[queries.LogLine]) -> Iterator[dict[str, Any]]:
    """Each line with how many before it were not kept."""
    before = None
    for line in lines:
        gap = line.number - before - 1 if before is not None and line.number > before else 0
        yield {"line": line, "gap": gap, "css": LEVELS.get(line.level, "")}
        before = line.number


def _contents(request: HttpRequest, job: Job) -> dict[str, Any]:
    """The payload and the result, for those who may see them."""
    if job.owner != owner_of(request.user) and not is_granted(request.user, "orchestrator.view_payload"):
        return {"sees_contents": False}
    return {
        "sees_contents": True,
        "payload": _cut(as_indented(job.payload)),
        "result": _cut(as_indented(job.result)) if job.status == Status.COMPLETED else "",
    }


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    return (
        f"{text[:MAX_CHARACTERS]}\n… and {len(text) - MAX_CHARACTERS:,} more characters; the API returns all of them."
    )


def _audit(request: HttpRequest, job: Job) -> list[AuditEntry]:
    if not is_granted(request.user, "access.view_auditentry"):
        return []
    return list(AuditEntry.objects.filter(object_id=str(job.id)).order_by("-id")[:MAX_AUDIT_SHOWN])
