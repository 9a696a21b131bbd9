"""Who is told of failed jobs of schedules: the notifications that a schedule names in `on_failure`."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from django.db import connection

from orchestrator.notifications.recording import names_for_failed

# Of jobs, those of schedules that name notifications, with each of these.
NAMED = """
SELECT job.id, note_id
FROM orchestrator_job AS job
JOIN scheduler_taskschedule AS schedule ON schedule.id = job.schedule_id
CROSS JOIN LATERAL unnest(schedule.on_failure) AS note_id
WHERE job.id = ANY(%s::uuid[]) AND job.schedule_id IS NOT NULL
"""


@names_for_failed
def named_by_schedules(failed: Sequence[UUID]) -> list[tuple[UUID, UUID]]:
    """Pairs of a job and a notification. What a schedule says counts as it is when the job fails."""
    with connection.cursor() as cursor:
        cursor.execute(NAMED, [[str(id) for id in failed]])
        return list(cursor.fetchall())
