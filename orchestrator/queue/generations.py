"""Jobs and the generations below them: their children, the children of those, and so on."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet, UUIDField
from django.db.models.expressions import RawSQL
from django.db.models.functions import Coalesce

from orchestrator.graphs.nesting import MAX_DEPTH as MAX_DEPTH
from orchestrator.models import Job
from orchestrator.states import Status

FAMILY = """
WITH RECURSIVE family AS (
    SELECT id FROM orchestrator_job WHERE id = ANY(%s::uuid[])
    UNION ALL
    SELECT child.id FROM family JOIN orchestrator_job child ON child.parent_id = family.id
)
SELECT id FROM family
"""
# Those that failed or were cancelled, of whose parents each did, too. What has failed and was passed is left out.
ENDED_FAMILY = """
WITH RECURSIVE family AS (
    SELECT id FROM orchestrator_job WHERE id = ANY(%s::uuid[]) AND status IN ('FAILED', 'CANCELLED')
    UNION ALL
    SELECT child.id FROM family JOIN orchestrator_job child ON child.parent_id = family.id
    WHERE child.status IN ('FAILED', 'CANCELLED') AND NOT EXISTS (
        SELECT FROM orchestrator_step WHERE job_id = child.id AND outcome IN ('PASSING', 'PASSED')
    )
)
SELECT id FROM family
"""
DEPTH = """
WITH RECURSIVE above AS (
    SELECT parent_id, 0 AS depth FROM orchestrator_job WHERE id = %s
    UNION ALL
    SELECT parent.parent_id, depth + 1 FROM above JOIN orchestrator_job parent ON parent.id = above.parent_id
)
SELECT max(depth) FROM above
"""


def family(job_ids: Collection[UUID]) -> QuerySet[Job]:
    """The jobs with all generations below them."""
    return _found(FAMILY, job_ids)


def ended_family(job_ids: Collection[UUID]) -> QuerySet[Job]:
    """Those of the jobs that failed or were cancelled, and what did so below them, as far as a retry reopens it."""
    return _found(ENDED_FAMILY, job_ids)


def unresolved_within(job_id: UUID) -> list[UUID]:
    """The pipelines of the job and the generations below of which steps can be resolved; itself, if it has none."""
    waiting = family([job_id]).filter(unresolved=True, status=Status.CREATED, unfinished_dependencies=0)
    return list(waiting.values_list(Coalesce("parent", "id"), flat=True).distinct())


def _found(sql: str, job_ids: Collection[UUID]) -> QuerySet[Job]:
    ids = [str(id) for id in job_ids]
    return Job.objects.filter(id__in=RawSQL(sql, [ids], UUIDField()))  # noqa: S611 - a constant


def depth_of(job_id: UUID) -> int:
    """How many generations there are above the job."""
    with connection.cursor() as cursor:
        cursor.execute(DEPTH, [str(job_id)])
        [depth] = cursor.fetchone()
    return int(depth or 0)
