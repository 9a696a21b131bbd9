"""A job and its children as they are now, and the same again until the job has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand
from django.db.models import Case, IntegerField, Value, When
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from orchestrator import queries
from orchestrator.management.terminal import STYLES, console_of, printable
from orchestrator.models import Job
from orchestrator.shown.words import duration
from orchestrator.states import FINAL, Status

LOOK_SECONDS = 0.5
# Of a pipeline's children, those that are drawn: what runs and what failed first.
MAX_DRAWN = 40
ORDER = (Status.RUNNING, Status.FAILED, Status.CREATED, Status.CANCELLED, Status.COMPLETED)


def read(job_id: UUID) -> queries.JobDetail:
    """The job with what is shown of it. Raises Job.DoesNotExist."""
    return queries.with_details(Job.objects.all()).get(id=job_id)


def children(job_id: UUID, at_most: int) -> list[queries.JobDetail]:
    """So many of its children, those first that a person looks for, and else in their order."""
    place = Case(*(When(status=status, then=Value(n)) for n, status in enumerate(ORDER)), output_field=IntegerField())
    of_it = Job.objects.filter(parent=job_id).order_by(place, "id")
    return list(queries.with_details(of_it).defer("payload", "result")[:at_most])


def tree(job: queries.JobDetail) -> Tree:
    drawn = Tree(line(job))
    if counts := job.children_counts:
        shown = children(job.id, MAX_DRAWN)
        for child in sorted(shown, key=lambda each: each.id):
            drawn.add(line(child))
        if (left := counts["total"] - len(shown)) > 0:
            drawn.add(Text(f"… and {left:,} more", "dim"))
    return drawn


def line(job: queries.JobDetail) -> Text:
    """A job in one line: what it is, its state, and how far it is."""
    name = printable(job.name or job.kind)
    said = Text.assemble((name, "bold"), "  ", (job.status, STYLES[Status(job.status)]))
    for part in details(job):
        said.append(f"  {printable(part)}")
    return said


def details(job: queries.JobDetail) -> Iterator[str]:
    if (reason := queries.waiting_for(job)) and not job.children_counts:
        yield f"waits for {reason.replace('_', ' ')}"
    if job.children_counts:
        counts = job.children_counts
        yield f"{counts['completed']:,} of {counts['total']:,} children completed"
    if job.progress_done is not None and job.status not in FINAL:
        yield f"{job.progress_done:,} of {job.progress_total or '?'} {job.progress_message}".rstrip()
    if job.started_at and job.finished_at:
        yield duration((job.finished_at - job.started_at).total_seconds())
    if job.attempt > 1:
        yield f"attempt {job.attempt} of {job.max_attempts}"
    if job.error:
        yield job.error.partition("\n")[0][:200]


def watch(command: BaseCommand, job_id: UUID) -> queries.JobDetail:
    """Draws the job until it has ended; returns it then. Where that is no terminal, prints a line for each change.

    Raises Job.DoesNotExist, also once it was deleted.
    """
    return _redraw(command, job_id) if command.stdout.isatty() else _print_changes(command, job_id)


def wait(job_id: UUID) -> queries.JobDetail:
    """The job once it has ended. Raises as `watch` does."""
    *_, job = _until_it_ends(job_id)
    return job


def _redraw(command: BaseCommand, job_id: UUID) -> queries.JobDetail:
    with Live(console=console_of(command.stdout), auto_refresh=False, vertical_overflow="ellipsis") as live:
        for job in _until_it_ends(job_id):
            live.update(tree(job), refresh=True)
    return job


def _print_changes(command: BaseCommand, job_id: UUID) -> queries.JobDetail:
    printed: dict[Any, str] = {}
    for job in _until_it_ends(job_id):
        shown = [*sorted(children(job.id, MAX_DRAWN), key=lambda each: each.id)] if job.children_counts else []
        for each in [*shown, job]:
            if printed.get(each.id) != (said := line(each).plain):
                printed[each.id] = said
                command.stdout.write(f"  {said}" if each.parent_id else said)
                command.stdout.flush()
    return job


def _until_it_ends(job_id: UUID) -> Iterator[queries.JobDetail]:
    while True:
        job = read(job_id)
        yield job
        if job.status in FINAL:
            return
        time.sleep(LOOK_SECONDS)
