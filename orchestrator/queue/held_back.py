"""How many jobs each limit of a kind holds back."""

from __future__ import annotations

from datetime import datetime

from django.db import connection, transaction

from orchestrator.models import Backlog, HeldBack
from orchestrator.queue import kind_limits, lanes
from orchestrator.queue.lanes import Lanes
from orchestrator.queue.waits import limit_of_lane

# Jobs of a kind that are counted.
MAX_COUNTED = 10_000

# Jobs that wait in a lane of an owner or a key, by the name of the lane. The kinds are found by the index.
BLOCKED = """
WITH RECURSIVE kinds (kind) AS (
    (SELECT kind FROM orchestrator_job WHERE blocked_by IS NOT NULL AND finished_at IS NULL
     ORDER BY kind, blocked_by LIMIT 1)
    UNION ALL
    SELECT next.kind FROM kinds CROSS JOIN LATERAL (
        SELECT kind FROM orchestrator_job
        WHERE blocked_by IS NOT NULL AND finished_at IS NULL AND kind > kinds.kind
        ORDER BY kind, blocked_by LIMIT 1
    ) AS next
)
SELECT kinds.kind, split_part(blocked_by, ':', 1), count(*), min(greatest(created_at, run_at))
FROM kinds CROSS JOIN LATERAL (
    SELECT blocked_by, created_at, run_at FROM orchestrator_job
    WHERE kind = kinds.kind AND blocked_by IS NOT NULL AND finished_at IS NULL
    ORDER BY kind, blocked_by LIMIT %(max_counted)s
) AS job
GROUP BY 1, 2
ORDER BY 1, 2
"""


def count() -> None:
    """Counts them anew, by what the rollups say of ready jobs."""
    kind_limits.refresh()
    found: dict[tuple[str, str], HeldBack] = {}
    for each in [*_blocked(), *_of_full_kinds()]:
        known = found.setdefault((each.kind, each.limit), each)
        if known is not each:
            known.jobs += each.jobs
            known.oldest_since = min(known.oldest_since, each.oldest_since)
    # In the order of their keys, so that two who count at once wait for each other and do not deadlock.
    rows = [row for _, row in sorted(found.items())]
    with transaction.atomic():
        HeldBack.objects.bulk_create(
            rows, update_conflicts=True, unique_fields=["kind", "limit"], update_fields=["jobs", "oldest_since"]
        )
        gone = [row.id for row in HeldBack.objects.order_by("kind", "limit") if (row.kind, row.limit) not in found]
        HeldBack.objects.filter(id__in=gone).delete()


def _blocked() -> list[HeldBack]:
    with connection.cursor() as cursor:
        cursor.execute(BLOCKED, {"max_counted": MAX_COUNTED})
        return [_row(*found) for found in cursor.fetchall()]


def _of_full_kinds() -> list[HeldBack]:
    """The ready jobs of kinds of which no more may run, or start, just now."""
    found = []
    for backlog in Backlog.objects.filter(waiting__gt=0):
        limits = kind_limits.known_limits_of(backlog.kind)
        if of_kind := Lanes(limits).of_kind():
            full = lanes.room(backlog.kind, limits, of_kind).first_full(of_kind)
            if full and backlog.oldest_since:
                found.append(_row(backlog.kind, full, backlog.waiting, backlog.oldest_since))
    return found


def _row(kind: str, lane: str, jobs: int, oldest_since: datetime) -> HeldBack:
    return HeldBack(kind=kind, limit=limit_of_lane(lane), jobs=jobs, oldest_since=oldest_since)
