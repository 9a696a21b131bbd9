"""What waits for others goes on: it is counted down, and steps complete that are not to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from orchestrator.queue import ends
from orchestrator.states import Status

# Each job that waited for any of these counts them off, once for all of them; at zero it is ready.
# A parent waits for all its children; it counts as started at the latest when the first of them is done.
# What is joined to a row that is to be locked must be materialized: after waiting for the lock PostgreSQL looks at the
# row anew, and where it has planned a union as part of the join it finds no partner for it, and leaves it out.
# Jobs are found by an array of their ids: it is taken for a short one, so nobody plans to read the whole table. By an
# EXISTS a plan from a quiet time would read all that are CREATED.
COUNT_DOWN_DONE = """
WITH done AS (
    SELECT id, parent_id FROM orchestrator_job WHERE {done}
), hits AS MATERIALIZED (
    SELECT job_id AS id, count(*) AS n, false AS is_parent
    FROM orchestrator_dependency JOIN done ON depends_on_id = done.id
    GROUP BY job_id
    UNION ALL
    SELECT parent_id, count(*), true FROM done WHERE parent_id IS NOT NULL GROUP BY parent_id
), locked AS MATERIALIZED (
    SELECT id FROM orchestrator_job WHERE id = ANY(ARRAY(SELECT id FROM hits)) ORDER BY id FOR UPDATE
)
UPDATE orchestrator_job job
SET unfinished_dependencies = unfinished_dependencies - n,
    status = CASE WHEN is_parent AND status = 'CREATED' THEN 'RUNNING' ELSE status END,
    started_at = CASE WHEN is_parent THEN coalesce(started_at, clock_timestamp()) ELSE started_at END,
    ready = unfinished_dependencies = n AND status IN ('CREATED', 'RUNNING') AND NOT unwinding
            AND NOT unresolved AND (is_parent OR run_at <= clock_timestamp()),
    updated_at = clock_timestamp()
FROM hits
WHERE job.id = hits.id AND job.id = ANY(ARRAY(SELECT id FROM locked))
RETURNING job.id, job.kind, job.ready, job.unwinding, job.parent_id,
          job.unresolved AND job.unfinished_dependencies = 0 AND job.status = 'CREATED',
          job.unfinished_dependencies > 0 AND job.kind = 'pipeline.each'
            AND coalesce((SELECT released IS NOT NULL FROM orchestrator_step WHERE job_id = job.id), false),
          is_parent AND coalesce(
              (SELECT above.status = 'CREATED' FROM orchestrator_job above WHERE above.id = job.parent_id), false
          )
"""
COUNT_DOWN = COUNT_DOWN_DONE.format(done="id = ANY(%(ids)s::uuid[]) AND status = ANY(%(statuses)s)")

# Steps that are not to run are done. They pass what every job passes within this transaction, where nobody sees it.
SKIP = """
UPDATE orchestrator_job SET ready = true, unresolved = false
WHERE id = ANY(%(ids)s::uuid[]) AND status = 'CREATED' AND unresolved AND unfinished_dependencies = 0;
UPDATE orchestrator_job
SET status = 'COMPLETED',
    ready = false,
    attempt = attempt + 1,
    started_at = clock_timestamp(),
    finished_at = clock_timestamp(),
    updated_at = clock_timestamp()
WHERE id = ANY(%(ids)s::uuid[]) AND status = 'CREATED' AND ready
"""

# Steps of a new pipeline have completed in another one. They pass what every job passes, as skipped ones do.
TAKE_OVER = """
UPDATE orchestrator_job SET ready = true, unresolved = false, unfinished_dependencies = 0
WHERE id = ANY(%(ids)s::uuid[]) AND status = 'CREATED';
UPDATE orchestrator_job job
SET status = 'COMPLETED',
    ready = false,
    attempt = job.attempt + 1,
    unfinished_dependencies = (SELECT count(*) FROM orchestrator_dependency WHERE job_id = job.id),
    payload = earlier.payload,
    result = earlier.result,
    started_at = clock_timestamp(),
    finished_at = clock_timestamp(),
    updated_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(earlier)s::uuid[]) AS pair (id, earlier_id)
JOIN orchestrator_job earlier ON earlier.id = earlier_id
WHERE job.id = pair.id AND job.status = 'CREATED' AND job.ready
"""


class Counted(NamedTuple):
    """A job that waited for others of which some have completed."""

    id: UUID
    kind: str
    ready: bool
    unwinding: bool
    parent_id: UUID | None
    resolvable: bool
    holds_items: bool
    starts_above: bool


def count_down(done: Sequence[UUID], *statuses: Status) -> list[Counted]:
    """Counts completed jobs off for all that waited for them, and starts their parents.

    statuses: that the jobs must be in, if not COMPLETED; others for steps after which a pipeline goes on.
    """
    with connection.cursor() as cursor:
        ended = [str(status) for status in statuses or (Status.COMPLETED,)]
        cursor.execute(COUNT_DOWN, {"ids": [str(id) for id in done], "statuses": ended})
        return [Counted(*row) for row in cursor.fetchall()]


def skip(ids: Sequence[UUID]) -> None:
    """Completes steps, locked by this transaction, that are not to run."""
    with connection.cursor() as cursor:
        cursor.execute(SKIP, {"ids": [str(id) for id in ids]})
    if ends.is_anybody_told():
        ends.tell(ids, Status.COMPLETED)


def take_over(earlier: Mapping[UUID, UUID]) -> None:
    """Completes steps that this transaction has inserted with the results of completed ones of another pipeline.

    earlier: the ids of those by the ids of the new ones.
    """
    with connection.cursor() as cursor:
        cursor.execute(TAKE_OVER, {"ids": [*map(str, earlier)], "earlier": [*map(str, earlier.values())]})
    if ends.is_anybody_told():
        ends.tell(list(earlier), Status.COMPLETED)
