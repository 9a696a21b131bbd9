"""Jobs of PeriodicTasks that name a kind: Beat submits one with the row's kwargs as its payload, instead of a message.

A message to a kind is a bell, which says that there may be work and nothing else, so it could not carry the kwargs.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import ModelEntry

from orchestrator import submission
from orchestrator.kinds import kind_open_to_clients
from orchestrator.submission import BadSubmission


def submit_if_due(pk: int, ran_at: datetime, app: Any) -> UUID | None:
    """Submits the job of a PeriodicTask that is still due; None if another Beat was first. Its row is locked
    meanwhile, and says with the same commit that it has run.

    Raises PeriodicTask.DoesNotExist, or as `submit_job_of` does; then it has not run.
    """
    with transaction.atomic():
        row = PeriodicTask.objects.select_for_update(of=("self",)).get(pk=pk)
        count = row.total_run_count
        if not ModelEntry(row, app=app).is_due().is_due:
            return None
        job_id = submit_job_of(row)
        # Past the signals of `save`, which would make every Beat read all its rows again.
        PeriodicTask.objects.filter(pk=pk).update(last_run_at=ran_at, total_run_count=count + 1)
        return job_id


def submit_job_of(row: PeriodicTask) -> UUID:
    """Submits the job of a PeriodicTask now. It is nobody's own: staff see it.

    Raises UnknownKind, InternalKind, BadPayload, BadSubmission, TooManyUnfinished or NotUnique.
    """
    priority = row.priority if row.priority is not None and row.priority <= 9 else None
    return submission.submit(kind_open_to_clients(row.task), payload_of(row), priority=priority).id


def payload_of(row: PeriodicTask) -> Any:
    """Raises BadSubmission for args, which have no names that a payload's fields could have."""
    if json.loads(row.args or "[]"):
        raise BadSubmission("/args", "invalid", f"{row.name!r} has args; a kind takes its payload from kwargs alone.")
    return json.loads(row.kwargs or "{}")
