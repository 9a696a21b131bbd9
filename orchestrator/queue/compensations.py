"""Compensations of a pipeline that fails or is cancelled: added to it once nothing of it runs any more.

They run one after the other, that of the step which completed last being the first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection

from orchestrator.failures import MAX_ERROR_CHARACTERS
from orchestrator.graphs import each
from orchestrator.graphs.compensations import PREFIX, of_item
from orchestrator.ids import last_ids_below
from orchestrator.models import Job, Step
from orchestrator.queue import generations, transitions
from orchestrator.queue.transitions import priority_step
from orchestrator.states import FINAL, Status

# What begins the names of steps that were to be compensated, in the error of their pipeline.
NOT_COMPENSATED = "Not compensated:"

# What has completed and can be undone, the last first. Skipped steps have done nothing, and what was taken over was
# done by another pipeline. An item has what its step has.
DONE = """
SELECT job.id, job.name, job.priority, step.compensate, list.name, list.each->'list'
FROM orchestrator_job job
JOIN orchestrator_step step ON step.job_id = job.id AND step.compensate IS NOT NULL AND step.outcome = ''
LEFT JOIN LATERAL (
    SELECT owner.name, owner_step.each
    FROM orchestrator_dependency link
    JOIN orchestrator_job owner ON owner.id = link.job_id
    JOIN orchestrator_step owner_step ON owner_step.job_id = owner.id AND owner_step.each IS NOT NULL
    WHERE link.depends_on_id = job.id AND starts_with(job.name, owner.name || '[')
    LIMIT 1
) AS list ON true
WHERE job.parent_id = %s AND job.status = 'COMPLETED' AND step.each IS NULL
ORDER BY job.finished_at DESC, job.id DESC
"""
# They wait for each other, and the pipeline for all of them.
INSERT = """
WITH new AS (
    SELECT * FROM json_to_recordset(%(rows)s) AS new (
        id uuid, after uuid, undoes uuid, name text, priority integer, kind text, queue text, max_attempts integer,
        payload jsonb
    )
), inserted AS (
    INSERT INTO orchestrator_job (
        id, kind, queue, owner, priority, payload, max_attempts, parent_id, name, unfinished_dependencies, traceparent,
        run_at, rank, ready, unresolved
    )
    SELECT new.id, new.kind, new.queue, pipeline.owner, new.priority, '{}', new.max_attempts, pipeline.id, new.name,
           (new.after IS NOT NULL)::integer, pipeline.traceparent, clock_timestamp(),
           clock_timestamp() + new.priority * %(priority_step)s, false, true
    FROM new, orchestrator_job pipeline
    WHERE pipeline.id = %(pipeline)s
), steps AS (
    INSERT INTO orchestrator_step (job_id, payload, on_failure, compensates)
    SELECT id, payload, 'continue', undoes FROM new
), dependencies AS (
    INSERT INTO orchestrator_dependency (job_id, depends_on_id) SELECT id, after FROM new WHERE after IS NOT NULL
)
UPDATE orchestrator_job
SET unfinished_dependencies = unfinished_dependencies + (SELECT count(*) FROM new), updated_at = clock_timestamp()
WHERE id = %(pipeline)s
"""
# Those that did not complete are to run again, one after the other as before.
CHAIN_AGAIN = """
DELETE FROM orchestrator_dependency WHERE depends_on_id IN (
    SELECT job_id FROM orchestrator_step JOIN orchestrator_job job ON job.id = job_id
    WHERE parent_id = %(pipeline)s AND compensates IS NOT NULL
);
WITH again AS (
    SELECT id, lag(id) OVER (ORDER BY id) AS after FROM orchestrator_job WHERE id = ANY(%(ids)s::uuid[])
), dependencies AS (
    INSERT INTO orchestrator_dependency (job_id, depends_on_id) SELECT id, after FROM again WHERE after IS NOT NULL
), steps AS (
    UPDATE orchestrator_step SET outcome = '' WHERE job_id = ANY(%(ids)s::uuid[])
)
UPDATE orchestrator_job job SET unfinished_dependencies = (after IS NOT NULL)::integer
FROM again WHERE job.id = again.id
"""


class _Done(NamedTuple):
    """A step, or an item of one, that has completed. step, values: of an item, its step's name and list."""

    id: UUID
    name: str
    priority: int
    compensate: dict[str, Any]
    step: str | None
    values: dict[str, Any] | None

    @property
    def template(self) -> Any:
        payload = self.compensate["payload"]
        if self.step is None or self.values is None:
            return payload
        place = int(self.name[len(self.step) + 1 : -1])
        return of_item(payload, self.step, self.name, place, each.reference(self.values))


def begin(pipeline: Job, *, always: bool) -> bool:
    """Adds them to a pipeline that has none, whose row is locked and of which nothing runs; whether it has any to run.

    always: not only if the steps that failed say so.
    """
    if not (done := _done(pipeline.id)) or not (always or _are_asked_for(pipeline.id)):
        return False
    rows = msgspec.json.encode([*_rows(pipeline.id, done)]).decode()
    parameters: dict[str, Any] = {"pipeline": str(pipeline.id), "rows": rows, "priority_step": priority_step()}
    with connection.cursor() as cursor:
        cursor.execute(INSERT, parameters)
    return True


def _rows(pipeline_id: UUID, done: Collection[_Done]) -> Iterator[dict[str, Any]]:
    after = None
    for id, one in zip(last_ids_below(pipeline_id, len(done)), done, strict=True):
        yield {
            "id": id,
            "after": after,
            "undoes": one.id,
            "name": f"{PREFIX}{one.name}",
            "priority": one.priority,
            "kind": one.compensate["kind"],
            "queue": one.compensate["queue"],
            "max_attempts": one.compensate["max_attempts"],
            "payload": one.template,
        }
        after = id


def _done(pipeline_id: UUID) -> list[_Done]:
    with connection.cursor() as cursor:
        cursor.execute(DONE, [str(pipeline_id)])
        rows = cursor.fetchall()
    return [
        _Done(id, name, priority, _json(compensate), step, _json(values))
        for id, name, priority, compensate, step, values in rows
    ]


def _json(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)


def _are_asked_for(pipeline_id: UUID) -> bool:
    """Whether a step has failed whose failure means so, or the pipeline by itself. A step that has no row, or says
    nothing, means so, as it is one of a pipeline with compensations.
    """
    stopped = Job.objects.filter(parent=pipeline_id, status=Status.FAILED) | Job.objects.filter(
        parent=pipeline_id, status=Status.CANCELLED, cancel_requested_at__isnull=False
    )
    stopped = stopped.exclude(step__outcome__in=(Step.Outcome.PASSING, Step.Outcome.PASSED))
    names = stopped.values_list("name", flat=True)
    said = dict(Step.objects.filter(job__parent=pipeline_id).values_list("job__name", "on_failure"))
    means = [said.get(name, said.get(name.rpartition("[")[0], "compensate")) for name in names]
    return not means or "compensate" in means


def are_begun(pipeline_id: UUID) -> bool:
    return Step.objects.filter(job__parent=pipeline_id, compensates__isnull=False).exists()


def undone_within(pipeline_id: UUID) -> Job | None:
    """A pipeline that is to run again with this one, of which what was done was undone."""
    begun = Step.objects.filter(job__parent__in=generations.ended_family([pipeline_id]), compensates__isnull=False)
    return Job.objects.filter(id__in=begun.values("job__parent")).order_by("id").first()


def failed(pipeline_id: UUID) -> list[Job]:
    """Those that have ended without completing, in the order in which they ran."""
    ended = Job.objects.filter(parent=pipeline_id, step__compensates__isnull=False, status__in=FINAL)
    return list(ended.exclude(status=Status.COMPLETED).order_by("id"))


def again(parent: Job, failed: Sequence[Job]) -> set[str]:
    """Lets compensations run again, one after the other, that did not complete, of a pipeline that has ended and is
    locked. Returns their kinds.
    """
    ids = [each.id for each in failed]
    passed = Step.objects.filter(job__in=ids, outcome=Step.Outcome.PASSED).count()
    kinds = transitions.reopen_compensations(parent, ids, passed)
    with connection.cursor() as cursor:
        cursor.execute(CHAIN_AGAIN, {"pipeline": str(parent.id), "ids": [str(id) for id in ids]})
    return kinds


def error_of(pipeline: Job, *, is_undone: bool) -> str:
    """What is kept of a pipeline's failure, and which of its steps were not compensated although they were to be."""
    error = "" if pipeline.cancel_requested_at else pipeline.error.partition(NOT_COMPENSATED)[0].rstrip()
    if is_undone and (left := failed(pipeline.id)):
        names = ", ".join(repr(each.name.removeprefix(PREFIX)) for each in left)
        said = f"{NOT_COMPENSATED} {names}."[: MAX_ERROR_CHARACTERS // 2]
        error = f"{error[: MAX_ERROR_CHARACTERS // 2 - 1]} {said}".lstrip()
    return error
