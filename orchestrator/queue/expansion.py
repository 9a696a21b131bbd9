"""Steps that are pipelines themselves: their own steps are added once the step's turn has come.

The step is from then on what every pipeline is: a job that waits for its children, counted down by those. Its ids have
to be less than the step's, which is there already, as those of children that a running job adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection, transaction

from orchestrator.database_errors import is_database_fault
from orchestrator.failures import error_of
from orchestrator.graphs import nesting
from orchestrator.ids import ids_below
from orchestrator.kinds import all_kinds, kind_named
from orchestrator.models import Step
from orchestrator.pipeline_steps import Child
from orchestrator.pipelines import Pipeline
from orchestrator.queue import generations
from orchestrator.queue.new_jobs import Above, Rows, child_rows, insert
from orchestrator.queue.steps import MAX_AT_ONCE, Payload, Waiting

# The pipelines of the steps that may still grow. Their rows come after those of steps in the order of ids.
LOCK_PIPELINES = """
SELECT id FROM orchestrator_job
WHERE id = ANY(%s::uuid[]) AND status IN ('CREATED', 'RUNNING') AND NOT unwinding
ORDER BY id
FOR UPDATE
"""
# What the steps' own steps take over, and what is stored of them. An item's is what its step has.
READ = """
SELECT job.id, job.owner, job.priority, job.run_at, job.payload::text, job.traceparent,
       coalesce(list.each->'nested', step.nested)::text
FROM orchestrator_job job
JOIN orchestrator_step step ON step.job_id = job.id
LEFT JOIN orchestrator_step list ON list.job_id = (step.nested->>'same_as')::uuid
WHERE job.id = ANY(%s::uuid[])
"""
# The steps wait for theirs. One without any can start.
AWAIT = """
UPDATE orchestrator_job job
SET unresolved = false,
    payload = coalesce(step.payload::jsonb, job.payload),
    limit_key = CASE WHEN step.payload IS NULL THEN job.limit_key ELSE step.limit_key END,
    unfinished_dependencies = step.children,
    ready = step.children = 0 AND run_at <= clock_timestamp(),
    updated_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(payloads)s::text[], %(keys)s::text[], %(counts)s::integer[])
     AS step (id, payload, limit_key, children)
WHERE job.id = step.id AND job.id = ANY(%(ids)s::uuid[])
"""


class TooDeep(Exception):
    """A pipeline has as many generations above it as there may be."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"It has {nesting.MAX_DEPTH} generations above it, so {kind!r} cannot have steps here.")


class _Step(NamedTuple):
    """A row of `READ`; the payload and what is stored are JSON."""

    id: UUID
    owner: str
    priority: int
    run_at: datetime
    payload: str
    traceparent: str | None
    nested: str


class _New(NamedTuple):
    """What is to be added for a step."""

    step: Waiting
    payload: Payload
    children: Rows
    definition: dict[str, Any] | None


class Expanded(NamedTuple):
    """kinds: of what could start. families: pipelines of which steps are to be resolved. failed: steps that cannot be
    expanded, each with why.
    """

    kinds: set[str]
    families: set[UUID]
    failed: list[tuple[Waiting, str]]


def kinds() -> list[str]:
    """The kinds of pipelines whose steps this process can add. A newer release may have others."""
    return [kind.name for kind in all_kinds() if kind.plan or kind.name == nesting.PIPELINE]


def expand(steps: Sequence[tuple[Waiting, Payload]]) -> Expanded:
    """Adds their own steps to steps that are locked by this transaction, or to the first of them if they are many.

    Nothing is added to a step whose pipeline has begun to unwind.
    """
    expanded = Expanded(set(), set(), [])
    growing = _lock_pipelines(steps)
    read = _read([step for step, _ in steps if step.parent_id in growing])
    depths = {id: generations.depth_of(id) + 1 for id in growing}
    new: list[_New] = []
    for step, payload in steps:
        if step.id not in read:
            continue
        try:
            # A plan may use the database, and what it does there may fail.
            with transaction.atomic() if _is_planned(step) else nullcontext():
                new.append(_new(step, payload, read[step.id], depths[step.parent_id or step.id]))
        # What plans a pipeline may raise any exception.
        except Exception as error:
            if is_database_fault(error):
                raise
            expanded.failed.append((step, f"It could not start. {error_of(error)}"))
        if sum(len(one.children.jobs) for one in new) >= MAX_AT_ONCE:
            break
    _add(new, expanded)
    return expanded


def _is_planned(step: Waiting) -> bool:
    return kind_named(step.kind).plan is not None


def _lock_pipelines(steps: Sequence[tuple[Waiting, Payload]]) -> set[UUID]:
    with connection.cursor() as cursor:
        cursor.execute(LOCK_PIPELINES, [sorted({str(step.parent_id) for step, _ in steps})])
        return {id for (id,) in cursor.fetchall()}


def _read(steps: Sequence[Waiting]) -> dict[UUID, _Step]:
    with connection.cursor() as cursor:
        cursor.execute(READ, [[str(step.id) for step in steps]])
        return {row[0]: _Step(*row) for row in cursor.fetchall()}


def _new(step: Waiting, payload: Payload, row: _Step, depth: int) -> _New:
    """What is to be added for a step at that depth. Raises what its kind's `plan` does, BadSubmission and others."""
    stored = msgspec.json.decode(row.nested)
    text = payload.text or row.payload
    kind = kind_named(step.kind)
    if depth >= nesting.MAX_DEPTH:
        raise TooDeep(step.kind)
    planned: Sequence[Child] = nesting.steps_of(stored) if "steps" in stored else ()
    if kind.plan:
        planned = kind.plan(kind.decode_payload(text))
    parent = {"owner": row.owner, "priority": row.priority, "run_at": row.run_at}
    above = Above([(step.kind, text.encode())], depth=depth + 1)
    children = child_rows(parent, planned, above=above, has_input="steps" in stored)
    ids = dict(zip((one["id"] for one in children.jobs), ids_below(step.id, len(planned)), strict=True))
    for one in children.jobs:
        one |= {"id": ids[one["id"]], "parent_id": step.id}
        if row.traceparent:
            one["traceparent"] = row.traceparent
    dependencies = [(ids[job], ids[earlier]) for job, earlier in children.dependencies]
    definition = planned.definition if isinstance(planned, Pipeline) else None
    return _New(step, payload, Rows(children.jobs, dependencies), definition)


def _add(new: Sequence[_New], expanded: Expanded) -> None:
    if not new:
        return
    jobs = [job for one in new for job in one.children.jobs]
    dependencies = [each for one in new for each in one.children.dependencies]
    parameters: dict[str, Any] = {
        "ids": [str(one.step.id) for one in new],
        "payloads": [one.payload.text for one in new],
        "keys": [one.payload.key for one in new],
        "counts": [len(one.children.jobs) for one in new],
    }
    with connection.cursor() as cursor:
        cursor.execute(AWAIT, parameters)
    defined = [Step(job_id=one.step.id, definition=one.definition) for one in new if one.definition is not None]
    Step.objects.bulk_update(defined, ["definition"])
    expanded.families.update(insert(jobs, dependencies))
    expanded.kinds.update(one.step.kind for one in new if not one.children.jobs)
