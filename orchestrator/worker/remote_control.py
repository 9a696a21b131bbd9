"""The jobs that a Celery worker lists by remote control as active; Celery itself only knows their bells."""

from __future__ import annotations

from typing import Any

from celery.worker import state as worker_state
from celery.worker.control import inspect_command
from django.db import connection

from orchestrator.host import host
from orchestrator.kinds import all_kinds
from orchestrator.telemetry.task_events import MAX_VALUE_CHARACTERS

# More than any worker has slots; batches have many jobs.
MAX_JOBS = 1_000

# The jobs that the processes of a Celery worker have leased, and those that they run in batches.
ACTIVE = """
WITH process AS (
    SELECT id, pid, trying FROM orchestrator_worker WHERE name = %(name)s AND host = %(host)s AND ended_at IS NULL
), held AS (
    SELECT job.id, process.pid FROM process JOIN orchestrator_job job ON job.worker_id = process.id
    UNION ALL
    SELECT in_flight.id::uuid, process.pid FROM process, jsonb_object_keys(trying) AS in_flight (id)
)
SELECT job.id::text, job.kind, left(job.payload::text, %(characters)s), held.pid,
       extract(epoch FROM job.started_at)::float
FROM held JOIN orchestrator_job job ON job.id = held.id
WHERE job.status = 'RUNNING' OR job.ready
ORDER BY job.id
LIMIT %(at_most)s
"""


@inspect_command(alias="dump_active")
def active(state: Any, safe: bool = False, **_: Any) -> list[dict[str, Any]]:
    """List of jobs, and of other Celery tasks, currently being executed."""
    bells = {kind.name for kind in all_kinds()}
    requests = [request for request in state.tset(worker_state.active_requests) if request.name not in bells]
    return [request.info(safe=safe) for request in requests] + active_jobs(state.hostname)


def active_jobs(worker_name: str) -> list[dict[str, Any]]:
    """The jobs that the processes of that name run on this host, in the form of Celery's requests."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                ACTIVE,
                {"name": worker_name, "host": host(), "characters": MAX_VALUE_CHARACTERS, "at_most": MAX_JOBS},
            )
            rows = cursor.fetchall()
    finally:
        # A child that is forked later must not share it.
        connection.close()
    return [
        {
            "id": id,
            "name": kind,
            "args": payload,
            "kwargs": "{}",
            "type": kind,
            "hostname": worker_name,
            "time_start": started_at,
            "acknowledged": True,
            "delivery_info": {},
            "worker_pid": pid,
        }
        for id, kind, payload, pid, started_at in rows
    ]
