"""What of the watched jobs has changed: statements that use indexes which are there for other reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from django.db import connection

from orchestrator.live.moves import AttemptRow, AuditRow, JobRow
from orchestrator.queries import least_id

# A transaction that has written and not committed is waited for so long; what a longer one has done is told of when
# the job moves on.
MAX_HELD_BACK = timedelta(seconds=10)
# Ids hold the time of the process that made them.
CLOCKS_AGREE_WITHIN_SECONDS = 5
# Of more jobs than these, those of a shorter time are read at once.
MAX_FOUND = 2_000
SHORTEST = timedelta(milliseconds=1)

COLUMNS = ", ".join(f"job.{name}" for name in JobRow._fields)

# Watched jobs whose rows are not as they were, or are gone.
CHANGED_JOBS = f"""
SELECT watched.id, {COLUMNS}
FROM unnest(%(ids)s::uuid[], %(times)s::timestamptz[], %(statuses)s::text[]) AS watched (id, updated_at, status)
LEFT JOIN LATERAL (SELECT * FROM orchestrator_job WHERE id = watched.id LIMIT 1) AS job ON true
WHERE (job.updated_at, job.status) IS DISTINCT FROM (watched.updated_at, watched.status)
"""  # noqa: S608 It is made of constants.
# The children that run, of each watched pipeline: how many, and when the last of them changed.
RUNNING_CHILDREN = """
SELECT parent_id, count(*), max(updated_at) FROM orchestrator_job
WHERE worker_id IS NOT NULL AND parent_id = ANY(%(ids)s::uuid[])
GROUP BY parent_id
"""
# Now, and since when what is not committed yet may have been written.
NOW = """
SELECT statement_timestamp(), least(statement_timestamp(), min(xact_start))
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# The jobs of owners that were submitted, started, ended, handed back or retried since then, those that run and have
# changed, and those that a watcher believes to run; and the parents of them all. The ids of children that a pipeline
# got while it ran are as old as its own.
CHANGED_OF_OWNERS = f"""
WITH found AS MATERIALIZED (
    SELECT id, parent_id FROM orchestrator_job
    WHERE owner = ANY(%(owners)s) AND owner <> '' AND id BETWEEN %(least)s AND %(most)s
      AND created_at > %(since)s AND created_at <= %(until)s
    UNION
    SELECT child.id, child.parent_id
    FROM orchestrator_job parent JOIN orchestrator_job child ON child.parent_id = parent.id
    WHERE parent.status = 'RUNNING' AND parent.worker_id IS NULL AND parent.owner = ANY(%(owners)s)
      AND parent.updated_at > %(since)s AND child.created_at > %(since)s AND child.created_at <= %(until)s
    UNION
    SELECT id, parent_id FROM orchestrator_job
    WHERE worker_id IS NOT NULL AND owner = ANY(%(owners)s) AND updated_at > %(since)s
    UNION
    SELECT id, parent_id FROM orchestrator_job WHERE id = ANY(%(running)s::uuid[])
    UNION
    SELECT job.id, job.parent_id FROM orchestrator_kind kind CROSS JOIN LATERAL (
        SELECT id, parent_id, owner FROM orchestrator_job
        WHERE kind = kind.name AND parent_id IS NULL AND finished_at IS NOT NULL
          AND finished_at > %(since)s AND finished_at <= %(until)s
    ) AS job WHERE owner = ANY(%(owners)s)
    UNION
    SELECT job.id, job.parent_id FROM orchestrator_kind kind CROSS JOIN LATERAL (
        SELECT id, parent_id, owner FROM orchestrator_job
        WHERE kind = kind.name AND parent_id IS NOT NULL AND finished_at IS NOT NULL
          AND finished_at > %(since)s AND finished_at <= %(until)s
    ) AS job WHERE owner = ANY(%(owners)s)
    UNION
    SELECT job.id, job.parent_id FROM orchestrator_attempt attempt JOIN orchestrator_job job ON job.id = attempt.job_id
    WHERE ended_at > %(since)s AND ended_at <= %(until)s AND job.owner = ANY(%(owners)s)
    UNION
    SELECT job.id, job.parent_id
    FROM access_auditentry entry JOIN orchestrator_job job ON job.id = entry.object_id::uuid
    WHERE at > %(since)s AND at <= %(until)s AND action IN ('job.cancel', 'job.retry') AND job.owner = ANY(%(owners)s)
)
SELECT {COLUMNS}
FROM orchestrator_job job
WHERE job.id = ANY(ARRAY(SELECT id FROM found UNION SELECT parent_id FROM found WHERE parent_id IS NOT NULL))
LIMIT %(limit)s
"""  # noqa: S608
ATTEMPTS = """
SELECT job_id, number, outcome, error, started_at, ended_at FROM orchestrator_attempt
WHERE job_id = ANY(%(ids)s::uuid[]) ORDER BY id
"""
REQUESTS = """
SELECT object_id::uuid, action, at, coalesce(before ->> 'status', '') FROM access_auditentry
WHERE object_id = ANY(%(ids)s) AND action IN ('job.cancel', 'job.retry') ORDER BY id
"""

Version = tuple[datetime | None, str]


def fetch(sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def changed_jobs(watched: Iterable[tuple[UUID, Version]]) -> dict[UUID, JobRow | None]:
    """Those of the jobs that are not as they were then, as they are now; None for one that is gone."""
    pairs = list(watched)
    rows = fetch(
        CHANGED_JOBS,
        ids=_array(str(id) for id, _ in pairs),
        times=_array(updated_at.isoformat() if updated_at else "NULL" for _, (updated_at, _) in pairs),
        statuses=_array(status or '""' for _, (_, status) in pairs),
    )
    return {id: JobRow(*columns) if columns[0] else None for id, *columns in rows}


def _array(texts: Iterable[str]) -> str:
    """As PostgreSQL reads an array. Psycopg2 takes ten times as long to write one of many hundreds."""
    return f"{{{','.join(texts)}}}"


def running_children(parent_ids: Collection[UUID]) -> dict[UUID, tuple[int, datetime]]:
    """Of each that has any: how many, and when the last of them changed."""
    rows = fetch(RUNNING_CHILDREN, ids=_array(map(str, parent_ids)))
    return {id: (count, at) for id, count, at in rows}


def now() -> tuple[datetime, datetime]:
    """PostgreSQL's time, and the time up to which everything is committed, but for what takes very long."""
    [(now, settled)] = fetch(NOW)
    return now, max(settled, now - MAX_HELD_BACK)


class Window(NamedTuple):
    """The jobs that have changed up to that time."""

    jobs: list[JobRow]
    until: datetime


def changed_of_owners(
    owners: Collection[str], since: datetime, until: datetime, running: Collection[UUID] = ()
) -> Window:
    """The jobs of the owners that changed between these times; of less time if they are too many.

    running: jobs to be read in any case.
    """
    while True:
        rows = fetch(
            CHANGED_OF_OWNERS,
            owners=list(owners),
            since=since,
            until=until,
            least=least_id(since.timestamp() - CLOCKS_AGREE_WITHIN_SECONDS),
            most=least_id(until.timestamp() + CLOCKS_AGREE_WITHIN_SECONDS),
            running=[str(id) for id in running],
            limit=MAX_FOUND + len(running) if until - since > SHORTEST else None,
        )
        if len(rows) < MAX_FOUND + len(running) or until - since <= SHORTEST:
            return Window([JobRow(*row) for row in rows], until)
        until = since + (until - since) / 2


def records_of(jobs: Collection[JobRow]) -> tuple[Mapping[UUID, list[AttemptRow]], Mapping[UUID, list[AuditRow]]]:
    """The attempts of the jobs that did not complete them, and the requests to cancel or retry them."""
    attempts: dict[UUID, list[AttemptRow]] = defaultdict(list)
    requests: dict[UUID, list[AuditRow]] = defaultdict(list)
    if jobs:
        ids = [str(job.id) for job in jobs]
        for row in fetch(ATTEMPTS, ids=ids):
            attempts[row[0]].append(AttemptRow(*row))
        for row in fetch(REQUESTS, ids=ids):
            requests[row[0]].append(AuditRow(*row))
    return attempts, requests
