"""What a handler is given of other jobs: the results of those that its own job waited for, and signals."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from orchestrator.attempt.session import read_aside
from orchestrator.graphs import references
from orchestrator.graphs.each import prefix

# Which jobs one waited for: what a child came after; a parent, its children.
CAME_BEFORE = "id = ANY(ARRAY(SELECT depends_on_id FROM orchestrator_dependency WHERE job_id = {job}))"
ITS_CHILDREN = "parent_id = {job}"

# Their results as JSON.
INPUTS = """
SELECT name, coalesce(result::text, 'null') FROM orchestrator_job WHERE {waited_for} ORDER BY id
"""
# Of a result, beside its value.
ROW_BYTES = 100
# Of each job as many rows as it has inputs, at least one; none of those for which there is no room. Job by job, so
# that nobody plans to read the whole table.
INPUTS_OF_GROUP = f"""
SELECT job_id::text, name, coalesce(result::text, 'null')
FROM (
    SELECT wanted.id AS job_id, place, earlier.id, name, result,
           sum({ROW_BYTES} + coalesce(pg_column_size(result), 0)) OVER (ORDER BY place) AS bytes
    FROM unnest(%s::uuid[]) WITH ORDINALITY AS wanted (id, place)
    LEFT JOIN LATERAL (
        SELECT id, name, result FROM orchestrator_job WHERE {{waited_for}} OFFSET 0
    ) AS earlier ON true
) AS found
WHERE bytes <= %s
ORDER BY place, id
"""  # noqa: S608 It is made of constants.

# By whether they are those of its children.
WAITED_FOR = {False: CAME_BEFORE, True: ITS_CHILDREN}
INPUTS_BY = {each: INPUTS.format(waited_for=sql.format(job="%s")) for each, sql in WAITED_FOR.items()}
INPUTS_OF_GROUP_BY = {
    each: INPUTS_OF_GROUP.format(waited_for=sql.format(job="wanted.id")) for each, sql in WAITED_FOR.items()
}

# Those of the job itself last, so that they prevail.
SIGNALS = """
SELECT name, body::text FROM orchestrator_signal WHERE job_id = ANY(%s::uuid[]) ORDER BY job_id = %s::uuid, id
"""
CHILDRENS_RESULTS = """
SELECT name, coalesce(result::text, 'null') FROM orchestrator_job WHERE parent_id = %s AND name = ANY(%s)
"""
# What a pipeline that code defines is to return.
PLANNED_RESULT = "SELECT (definition->'result')::text FROM orchestrator_step WHERE job_id = %s"
# What the items of a step have returned. They are its only dependencies that are called so.
ITEMS_RESULTS = f"""
SELECT coalesce(result::text, 'null') FROM orchestrator_job
WHERE {CAME_BEFORE.format(job="%s")} AND starts_with(name, %s)
ORDER BY id
"""  # noqa: S608 It is made of constants.


def of_job(id: UUID, *, of_children: bool) -> dict[str, Any]:
    """The results of the jobs that it waited for, by name: of its children, or of what it came after."""
    return {name: json.loads(result) for name, result in read_aside(INPUTS_BY[of_children], [str(id)])}


def of_group(ids: Sequence[UUID], *, of_children: bool, max_bytes: int) -> list[tuple[str, str | None, str]]:
    """The same of several jobs, read by one statement: the id of each job, and a name with a result as JSON.

    A job that waited for none has a row without a name. max_bytes: what is read at most, as it is stored (compressed,
    where that is shorter); jobs for which there is no room, and those after them, have no row.
    """
    return read_aside(INPUTS_OF_GROUP_BY[of_children], [[str(id) for id in ids], max_bytes])


def of_children(id: UUID, names: Collection[str]) -> dict[str, Any]:
    """The results of those children of the job, by name."""
    return {name: json.loads(result) for name, result in read_aside(CHILDRENS_RESULTS, [str(id), list(names)])}


def of_items(id: UUID, step: str) -> list[Any]:
    """What the items of a step with `each`, of that name, have returned, in their order."""
    return [json.loads(result) for (result,) in read_aside(ITEMS_RESULTS, [str(id), prefix(step)])]


def planned_result(id: UUID) -> Any:
    """What a pipeline returns that code defines, as it was when it was planned. Raises MissingValue."""
    [(text,)] = read_aside(PLANNED_RESULT, [str(id)])
    template = json.loads(text)
    steps = {reference.step for _, reference in references.found(template)}
    return references.resolved(template, of_children(id, steps))


def signals(id: UUID, pipeline_id: UUID | None) -> dict[str, Any]:
    """The signals that were sent to the job, or to its pipeline, by name."""
    ids = [str(each) for each in (pipeline_id, id) if each]
    return {name: json.loads(body) for name, body in read_aside(SIGNALS, [ids, str(id)])}
