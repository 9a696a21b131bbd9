"""Signals from outside: sent to a job, or to a pipeline for all of its steps that wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from access import audit
from orchestrator.graphs import waits
from orchestrator.kind_problems import Problem
from orchestrator.models import Job, Signal, Step
from orchestrator.queue import pipelines
from orchestrator.states import FINAL, UNFINISHED

# Signals that an error names.
MAX_NAMED = 10


class BadSignal(ValueError):
    """The body of a signal is not what is waited for."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__(problems[0].detail)


class NotAwaited(Exception):
    """Nothing of the job waits for the signal, or will."""

    def __init__(self, job: Job, name: str, awaited: Sequence[str]) -> None:
        if job.status in FINAL:
            super().__init__(f"The job is {job.status}: it waits for no signal any more.")
        else:
            known = f"signals it waits for: {', '.join(awaited[:MAX_NAMED])}" if awaited else "it waits for no signal"
            super().__init__(f"Nothing of the job waits for the signal {name!r:.120}; {known}.")


class AlreadySent(Exception):
    """A signal is sent once."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The signal {name!r} was sent to this job already; the first one counts.")


def awaited(job_id: UUID) -> QuerySet[Step]:
    """The steps that a signal to the job may be for: its own, and those of its children; not those that have ended."""
    return Step.objects.filter(Q(job=job_id) | Q(job__parent=job_id), job__status__in=UNFINISHED).exclude(signal="")


def send_signal(job_id: UUID, name: str, body: dict[str, Any], *, sent_by: str = "") -> Job:
    """Sends a signal, which is kept until its job waits for it, and wakes what waits. Returns the job.

    Raises Job.DoesNotExist, BadSignal, NotAwaited, or AlreadySent.
    """
    with transaction.atomic():
        job = Job.objects.get(id=job_id)
        steps = list(awaited(job_id).filter(signal=name))
        if not steps:
            names = sorted(set(awaited(job_id).values_list("signal", flat=True)[: 10 * MAX_NAMED]))
            raise NotAwaited(job, name, names)
        if found := [problem for step in steps[:1] for problem in waits.problems_in(waits.read(step.wait), body)]:
            raise BadSignal(found)
        _keep(job, name, body, sent_by)
        audit.record("job.signal", job_id, job.kind, after={"signal": name})
        # Locked after the signal is written: whoever resolves a step has it locked, and sees the signal, or has made
        # the step wait by now.
        ids = [step.job_id for step in steps]
        waiting = Job.objects.select_for_update().filter(id__in=ids, unresolved=True).order_by("id")
        pipelines.wake([each.id for each in waiting])
    return Job.objects.get(id=job_id)


def _keep(job: Job, name: str, body: dict[str, Any], sent_by: str) -> None:
    try:
        with transaction.atomic():
            Signal.objects.create(job=job, name=name, body=body, sent_by=sent_by)
    except IntegrityError:
        raise AlreadySent(name) from None
