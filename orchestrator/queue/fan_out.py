"""Steps that run for each value of a list: their items, which are jobs of the same pipeline that they wait for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection

from orchestrator.graphs.each import EACH, prefix
from orchestrator.ids import ids_before
from orchestrator.queue.steps import Payload, Waiting

# The pipeline, if it may still grow. Its row comes after those of its steps in the order of ids.
LOCK_PIPELINE = """
SELECT (SELECT count(*) FROM orchestrator_job child WHERE child.parent_id = pipeline.id)
FROM orchestrator_job pipeline
WHERE id = %s AND status IN ('CREATED', 'RUNNING') AND NOT unwinding
FOR UPDATE
"""
# The items of a step, which are as it is. So many of them may start; the others wait, as for one job more.
INSERT = """
WITH item AS (
    SELECT * FROM json_to_recordset(%(items)s) AS item (id uuid, name text, payload jsonb, key text, is_held boolean)
), inserted AS (
    INSERT INTO orchestrator_job (
        id, kind, queue, owner, priority, payload, max_attempts, parent_id, name, unfinished_dependencies, limit_key,
        traceparent, run_at, rank, ready, unresolved
    )
    SELECT item.id, %(kind)s, %(queue)s, step.owner, step.priority, item.payload, %(max_attempts)s, step.parent_id,
           item.name, is_held::integer, item.key, step.traceparent, step.run_at, step.rank,
           NOT is_held AND NOT %(is_nested)s AND step.run_at <= clock_timestamp(), %(is_nested)s
    FROM item, orchestrator_job step
    WHERE step.id = %(step)s
), steps AS (
    INSERT INTO orchestrator_step (job_id, on_failure, compensate, nested)
    SELECT item.id, on_failure, compensate, CASE WHEN %(is_nested)s THEN jsonb_build_object('same_as', step.job_id) END
    FROM item, orchestrator_step step
    WHERE step.job_id = %(step)s AND (on_failure <> 'fail' OR compensate IS NOT NULL OR %(is_nested)s)
)
INSERT INTO orchestrator_dependency (job_id, depends_on_id) SELECT %(step)s, id FROM item
"""
# The step waits for its items, and so does its pipeline. Without any the step can start.
AWAIT = """
UPDATE orchestrator_job SET
    unresolved = false,
    unfinished_dependencies = %(count)s,
    ready = %(count)s = 0 AND run_at <= clock_timestamp(),
    updated_at = clock_timestamp()
WHERE id = %(step)s;
UPDATE orchestrator_step SET items = %(count)s, released = %(released)s WHERE job_id = %(step)s;
UPDATE orchestrator_job
SET unfinished_dependencies = unfinished_dependencies + %(count)s, updated_at = clock_timestamp()
WHERE id = %(pipeline)s
"""

# A step of which items may not start yet.
LOCK_STEP = """
SELECT items, released, each->>'kind', (each->>'max_running')::integer,
       coalesce(each->'nested', 'null') <> 'null',
       (SELECT parent_id FROM orchestrator_job job WHERE job.id = job_id)
FROM orchestrator_step
WHERE job_id = %s AND released IS NOT NULL
FOR UPDATE
"""
# So many of its items have not ended, if its pipeline goes on.
UNFINISHED_ITEMS = """
SELECT step.unfinished_dependencies
FROM orchestrator_job step JOIN orchestrator_job pipeline ON pipeline.id = step.parent_id
WHERE step.id = %s AND step.status = 'CREATED' AND NOT pipeline.unwinding
"""
# Items that nobody is just changing: whoever does may wait for the step's row.
LOCK_ITEMS = "SELECT id FROM orchestrator_job WHERE id = ANY(%s::uuid[]) ORDER BY id FOR UPDATE SKIP LOCKED"
RELEASE = """
UPDATE orchestrator_job SET
    unfinished_dependencies = 0,
    ready = CASE status WHEN 'CREATED' THEN NOT unresolved AND run_at <= clock_timestamp() ELSE false END,
    updated_at = clock_timestamp()
WHERE id = ANY(%(items)s::uuid[]);
UPDATE orchestrator_step SET released = nullif(%(released)s, items) WHERE job_id = %(step)s
"""
# Steps that wait for fewer items than may run.
LEFT = """
SELECT step.job_id
FROM orchestrator_step step JOIN orchestrator_job job ON job.id = step.job_id
WHERE released IS NOT NULL AND status = 'CREATED'
  AND released - (items - unfinished_dependencies) < (each->>'max_running')::integer
LIMIT %s
"""


class TooManyChildren(Exception):
    """The pipeline would have more jobs than a pipeline may have."""


def fan_out(step: Waiting, payloads: Sequence[Payload]) -> str:
    """Adds an item for each of the payloads to the pipeline of a step that is locked by this transaction.

    Returns the kind of what can start; empty if the pipeline has begun to unwind meanwhile, so nothing was added.
    Raises TooManyChildren.
    """
    spec = json.loads(step.each or "")
    with connection.cursor() as cursor:
        cursor.execute(LOCK_PIPELINE, [str(step.parent_id)])
        if (row := cursor.fetchone()) is None:
            return ""
        count = len(payloads)
        if row[0] + count > settings.ENV.MAX_CHILDREN:
            raise TooManyChildren(
                f"With its {count:,} items the pipeline would have {row[0] + count:,} children; at most "
                f"{settings.ENV.MAX_CHILDREN:,} are allowed."
            )
        at_once = min(count, spec["max_running"] or count)
        if payloads:
            items = msgspec.json.encode([*_items(step, payloads, at_once)]).decode()
            is_nested = spec.get("nested") is not None
            cursor.execute(INSERT, {**spec, "step": str(step.id), "items": items, "is_nested": is_nested})
        released = at_once if at_once < count else None
        cursor.execute(
            AWAIT, {"step": str(step.id), "pipeline": str(step.parent_id), "count": count, "released": released}
        )
    return str(spec["kind"]) if payloads else EACH


def _items(step: Waiting, payloads: Sequence[Payload], at_once: int) -> list[dict[str, Any]]:
    return [
        {
            "id": id,
            "name": f"{prefix(step.name)}{place}]",
            "payload": msgspec.Raw((payload.text or "").encode()),
            "key": payload.key,
            "is_held": place >= at_once,
        }
        for place, (id, payload) in enumerate(zip(ids_before(step.id, len(payloads)), payloads, strict=True))
    ]


class Released(NamedTuple):
    """Items that may start. resolvable: they are pipelines, whose steps are to be added first."""

    kind: str
    pipeline_id: UUID
    resolvable: bool


def release(step_id: UUID) -> Released | None:
    """Lets as many items of a step start as may run at once, beside those that do. Returns them, if there are any."""
    with connection.cursor() as cursor:
        cursor.execute(LOCK_STEP, [str(step_id)])
        if (held := cursor.fetchone()) is None:
            return None
        count, released, kind, max_running, is_nested, pipeline_id = held
        # Read once the row is locked: two who release at once would count the same.
        cursor.execute(UNFINISHED_ITEMS, [str(step_id)])
        if (row := cursor.fetchone()) is None:
            return None
        free = max_running - (released - (count - row[0]))
        next_ids = ids_before(step_id, count)[released : released + free] if free > 0 else []
        cursor.execute(LOCK_ITEMS, [[str(id) for id in next_ids]])
        locked = {id for (id,) in cursor.fetchall()}
        items = [*takewhile(locked.__contains__, next_ids)]
        if items:
            cursor.execute(
                RELEASE,
                {"step": str(step_id), "items": [str(id) for id in items], "released": released + len(items)},
            )
        return Released(kind, pipeline_id, is_nested) if items else None


def left() -> list[UUID]:
    """Steps of which items could start that do not: whoever ended another item has died, or found them locked."""
    with connection.cursor() as cursor:
        cursor.execute(LEFT, [1_000])
        return [id for (id,) in cursor.fetchall()]
