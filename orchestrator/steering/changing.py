"""Changing a job before it starts: its priority and its earliest start."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction

from access import audit
from orchestrator.inputs import BadSubmission, check_numbers, check_run_at
from orchestrator.models import Job
from orchestrator.queue import places
from orchestrator.states import Status


class NotChangeable(Exception):
    """The job has started, so there is no place in the queue to change."""

    def __init__(self, job: Job) -> None:
        if job.worker_id is None and job.status == Status.RUNNING:
            message = "The pipeline has begun, so its start cannot be changed; its priority still can."
        else:
            message = f"The job is {job.status}; its priority and run_at can be changed only before it starts."
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is to be changed; None: as it is. at_once: not to wait for a time any longer.

    Raises BadSubmission for what no job could have.
    """

    priority: int | None = None
    run_at: datetime | None = None
    at_once: bool = False

    def __post_init__(self) -> None:
        if self.priority is not None:
            check_numbers(self.priority, 1)
        check_run_at(self.run_at)
        if self.priority is None and not self.has_time:
            raise BadSubmission("", "nothing_to_change", "Give a priority, a run_at, or both.")

    @property
    def has_time(self) -> bool:
        return self.run_at is not None or self.at_once

    @property
    def columns(self) -> dict[str, Any]:
        return {"priority": self.priority, "run_at": self.run_at, "at_once": self.at_once}

    def as_json(self) -> dict[str, Any]:
        given = {"priority": self.priority, "run_at": self.run_at and self.run_at.isoformat(), "at_once": self.at_once}
        return {name: value for name, value in given.items() if value is not None and value is not False}

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Change:
        run_at = given.get("run_at")
        return cls(**given | {"run_at": run_at and datetime.fromisoformat(run_at)})


def change(job_id: UUID, wanted: Change) -> Job:
    """Changes a job that has not started, or that waits for another attempt. Returns it as it is then.

    A pipeline's children that have not started get the same; once it has begun, only the priority can be changed.

    Raises Job.DoesNotExist, or NotChangeable.
    """
    with transaction.atomic():
        # Whoever starts it has it locked until that is committed, and is waited for.
        job = Job.objects.select_for_update().get(id=job_id)
        if job.status != Status.CREATED and (job.status != Status.RUNNING or job.worker_id or wanted.has_time):
            raise NotChangeable(job)
        places.move([job_id], **wanted.columns)
        _move_children(job_id, wanted)
        changed = Job.objects.get(id=job_id)
        made = audit.changes(_place(job), _place(changed))
        audit.record("job.change", job_id, job.kind, before=made["before"], after=made["after"])
    return changed


def _place(job: Job) -> dict[str, Any]:
    return {"priority": job.priority, "run_at": job.run_at}


def _move_children(parent_id: UUID, wanted: Change) -> None:
    """Children that others hold, to make them ready or to start them, are seen to after the commit: to wait for them
    while other rows are locked could be to wait in a circle.
    """
    if children := places.unstarted_children(parent_id):
        held = set(children) - places.move(children, **wanted.columns, skip_locked=True)
        if held:
            transaction.on_commit(partial(_move_one_by_one, held, wanted))


def _move_one_by_one(ids: Collection[UUID], wanted: Change) -> None:
    for id in ids:
        places.move([id], **wanted.columns)
