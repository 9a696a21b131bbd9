"""Writes what is to be told of jobs that end, in the transaction that ends them, with the jobs that send it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection

from orchestrator import submission
from orchestrator.failpoints import Failpoint
from orchestrator.models import Delivery
from orchestrator.queue import ends
from orchestrator.states import Status

DELIVER, DIGEST = f"{ends.TELLING_KINDS}deliver", f"{ends.TELLING_KINDS}digest"

recorded = Failpoint("notifications-recorded")

MAX_ERROR_CHARACTERS = 1_000

# Each of these jobs that has ended with each notification that is about such an end, and what is told of it.
WANTED = f"""
SELECT note.id AS notification_id, note.digest_seconds > 0 AS by_digest, job.id AS job_id, job.kind,
       'job.' || lower(job.status) AS type,
       jsonb_build_object(
           'job_id', job.id, 'kind', job.kind, 'status', job.status, 'owner', job.owner,
           'name', job.name, 'parent', job.parent_id, 'attempt', job.attempt, 'max_attempts', job.max_attempts,
           'error', left(job.error, {MAX_ERROR_CHARACTERS}), 'created_at', job.created_at,
           'started_at', job.started_at, 'finished_at', job.finished_at
       )::text AS data
FROM orchestrator_job AS job JOIN orchestrator_notification AS note
  ON note.enabled
 AND (job.status = ANY(note.statuses)
      AND (note.id = ANY(job.notify)
           OR note.automatic AND note.kind IN ('', job.kind) AND note.owner IN ('', job.owner)
              AND (job.parent_id IS NULL OR note.children))
      OR (job.id, note.id) IN (
          SELECT named.job_id, named.note_id
          FROM unnest(%(named_jobs)s::uuid[], %(named_notes)s::uuid[]) AS named (job_id, note_id)
      ))
WHERE job.id = ANY(%(ids)s::uuid[]) AND job.status = %(status)s AND NOT starts_with(job.kind, %(telling_kinds)s)
ORDER BY job.finished_at, job.id, note.id
"""  # noqa: S608 It is made of constants.


class Wanted(NamedTuple):
    notification_id: UUID
    by_digest: bool
    job_id: UUID
    kind: str
    type: str
    data: str


# Of failed jobs, pairs of a job and a notification that is about it, as somebody else has said than who submitted it.
Naming = Callable[[Sequence[UUID]], Sequence[tuple[UUID, UUID]]]

_namings: list[Naming] = []


def names_for_failed(function: Naming) -> Naming:
    """Registers a function that is called with the ids of failed jobs, in the transaction that fails them."""
    _namings.append(function)
    return function


@ends.listener
def record(ids: Sequence[UUID], status: str) -> None:
    """Writes a delivery for each notification about each of these jobs. What a digest gathers waits for the tick;
    the others have a job each, which sends them.
    """
    wanted = _wanted(ids, status)
    if not wanted:
        return
    rows = Delivery.objects.bulk_create([_delivery(each) for each in wanted], batch_size=1_000)
    submit_deliveries([row for row in rows if not row.by_digest])
    recorded()


def submit_deliveries(rows: Sequence[Delivery]) -> None:
    """A job for each delivery. They are nobody's, so that nobody finds them among the jobs that they are about."""
    if rows:
        submission.submit_many(DELIVER, [{"delivery": row.pk} for row in rows])


def _wanted(ids: Sequence[UUID], status: str) -> list[Wanted]:
    failed = ids if status == Status.FAILED else ()
    named = [pair for naming in _namings for pair in naming(failed)] if failed else []
    parameters: dict[str, Any] = {
        "named_jobs": [str(job_id) for job_id, _ in named],
        "named_notes": [str(note_id) for _, note_id in named],
        "ids": [str(id) for id in ids],
        "status": status,
        "telling_kinds": ends.TELLING_KINDS,
    }
    with connection.cursor() as cursor:
        cursor.execute(WANTED, parameters)
        return [Wanted(*row) for row in cursor.fetchall()]


def _delivery(wanted: Wanted) -> Delivery:
    columns = wanted._asdict()
    return Delivery(**columns | {"data": msgspec.json.decode(wanted.data)})
