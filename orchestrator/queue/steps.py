"""Steps of graphs whose earlier steps are done: what becomes of them, as their conditions and references say."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection

from orchestrator.failures import error_of
from orchestrator.graphs import conditions, each, references
from orchestrator.graphs.conditions import Incomparable
from orchestrator.graphs.each import INDEX, ITEM, NotAList
from orchestrator.graphs.nesting import INPUT
from orchestrator.graphs.references import MissingValue
from orchestrator.graphs.waits import SIGNAL
from orchestrator.kind_problems import BadPayload
from orchestrator.kinds import known_kind
from orchestrator.models import Step
from orchestrator.pg_values import as_json
from orchestrator.states import Status

# Steps that one transaction resolves.
MAX_AT_ONCE = 500

# Steps that nothing is awaited of any more, locked: of one pipeline, or of all; of those that unwind, compensations.
LOCK = """
SELECT job.id, job.kind, job.parent_id, job.name, step.payload::text, step.condition::text,
       coalesce(step.signal, ''), step.each::text, step.nested IS NOT NULL
FROM orchestrator_job job LEFT JOIN orchestrator_step step ON step.job_id = job.id
WHERE unresolved AND status = 'CREATED' AND unfinished_dependencies = 0
  AND (step.nested IS NULL OR kind = ANY(%(expandable)s))
  AND (%(family)s::uuid IS NULL OR parent_id = %(family)s OR job.id = %(family)s)
  AND (
      compensates IS NOT NULL
      OR NOT EXISTS (SELECT FROM orchestrator_job parent WHERE parent.id = job.parent_id AND parent.unwinding)
  )
ORDER BY job.id
LIMIT %(at_most)s
FOR UPDATE OF job SKIP LOCKED
"""
# Which steps were skipped of all that steps come after.
SKIPPED_BEFORE = """
SELECT dependency.job_id, bool_and(coalesce(step.outcome = 'SKIPPED', false))
FROM orchestrator_dependency dependency LEFT JOIN orchestrator_step step ON step.job_id = depends_on_id
WHERE dependency.job_id = ANY(%s::uuid[])
GROUP BY dependency.job_id
"""
# The signals that have come for steps: for each alone, or for all of its pipeline. Read when the steps are locked, as
# whoever sends one locks them after it is written.
SIGNALS = """
SELECT DISTINCT ON (job.id) job.id, signal.body::text
FROM orchestrator_job job
JOIN orchestrator_step step ON step.job_id = job.id
JOIN orchestrator_signal signal ON signal.job_id IN (job.id, job.parent_id) AND signal.name = step.signal
WHERE job.id = ANY(%s::uuid[])
ORDER BY job.id, signal.job_id <> job.id, signal.id
"""
# Steps that await nothing but their signals.
BEGIN_WAITS = """
UPDATE orchestrator_step
SET waits_since = clock_timestamp(),
    waits_until = clock_timestamp() + (wait->>'within_seconds')::float * interval '1 second'
WHERE job_id = ANY(%(ids)s::uuid[]);
UPDATE orchestrator_job SET unfinished_dependencies = 1, updated_at = clock_timestamp()
WHERE id = ANY(%(ids)s::uuid[])
"""
# Steps that await their signals no longer.
END_WAITS = """
WITH ended AS (
    UPDATE orchestrator_step SET waits_since = NULL, waits_until = NULL
    WHERE job_id = ANY(%(ids)s::uuid[]) AND waits_since IS NOT NULL
    RETURNING job_id
)
UPDATE orchestrator_job SET unfinished_dependencies = 0, updated_at = clock_timestamp()
WHERE id = ANY(ARRAY(SELECT job_id FROM ended)) AND unresolved
RETURNING id
"""
# A pipeline has so long to end, from its earliest start on.
SET_DEADLINE = """
INSERT INTO orchestrator_step (job_id, on_failure, deadline_seconds, deadline_at)
SELECT id, 'fail', %(seconds)s, greatest(run_at, clock_timestamp()) + %(seconds)s * interval '1 second'
FROM orchestrator_job WHERE id = %(pipeline)s
ON CONFLICT (job_id) DO UPDATE SET deadline_seconds = excluded.deadline_seconds, deadline_at = excluded.deadline_at
"""
# A job goes on with that function.
RESUME_WITH = """
INSERT INTO orchestrator_step (job_id, on_failure, resume_with) VALUES (%(job)s, 'fail', %(function)s)
ON CONFLICT (job_id) DO UPDATE SET resume_with = excluded.resume_with
"""
# Pipelines that are to run again have as long again.
BEGIN_DEADLINES = """
UPDATE orchestrator_step SET deadline_at = clock_timestamp() + deadline_seconds * interval '1 second'
WHERE job_id = ANY(%s::uuid[]) AND deadline_seconds IS NOT NULL
"""
# What became of steps of a pipeline, with their results.
ENDED = """
SELECT name,
       CASE WHEN step.outcome = 'SKIPPED' THEN 'skipped' WHEN status = 'FAILED' THEN 'failed' ELSE 'completed' END,
       coalesce(result::text, 'null')
FROM orchestrator_job job LEFT JOIN orchestrator_step step ON step.job_id = job.id
WHERE parent_id = %s AND name = ANY(%s)
"""
# What steps of a pipeline that is a step take from that.
INPUT_OF = "SELECT coalesce((payload->'input')::text, 'null') FROM orchestrator_job WHERE id = %s"
# Steps could start now, with the payloads that their references have led to.
RESOLVE = """
UPDATE orchestrator_job job
SET unresolved = false,
    payload = coalesce(step.payload::jsonb, job.payload),
    limit_key = CASE WHEN step.payload IS NULL THEN job.limit_key ELSE step.limit_key END,
    ready = run_at <= clock_timestamp(),
    updated_at = clock_timestamp()
FROM unnest(%(ids)s::uuid[], %(payloads)s::text[], %(keys)s::text[]) AS step (id, payload, limit_key)
WHERE job.id = step.id AND job.id = ANY(%(ids)s::uuid[]) AND unresolved AND status = 'CREATED'
"""


class Waiting(NamedTuple):
    """A step that is to be resolved; its template, its condition and what it runs for each of are JSON."""

    id: UUID
    kind: str
    parent_id: UUID | None
    name: str
    template: str | None
    condition: str | None
    signal: str
    each: str | None
    is_nested: bool


class Payload(NamedTuple):
    """As JSON, or None for a step that keeps the one it has; and the concurrency key that follows from it."""

    text: str | None = None
    key: str | None = None


@dataclass
class Resolved:
    """What becomes of steps."""

    ready: list[tuple[Waiting, Payload]] = field(default_factory=list)
    skipped: list[Waiting] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)
    fanning: list[tuple[Waiting, list[Payload]]] = field(default_factory=list)
    nested: list[tuple[Waiting, Payload]] = field(default_factory=list)
    failed: list[tuple[Waiting, str]] = field(default_factory=list)

    @property
    def has_room(self) -> bool:
        """Whether one more step may fan out in this transaction."""
        return sum(len(payloads) for _, payloads in self.fanning) < MAX_AT_ONCE


class _Unfit(Exception):
    """A step cannot run; the text says why."""


def lock(family_id: UUID | None, *, expandable: Sequence[str]) -> list[Waiting]:
    """Steps that are to be resolved, of one pipeline or of all, locked by this transaction.

    expandable: kinds of pipelines; steps that are pipelines of other kinds are left to other processes.
    """
    parameters: dict[str, Any] = {
        "family": family_id and str(family_id),
        "expandable": list(expandable),
        "at_most": MAX_AT_ONCE,
    }
    with connection.cursor() as cursor:
        cursor.execute(LOCK, parameters)
        return [Waiting(*row) for row in cursor.fetchall()]


def decide(waiting: Sequence[Waiting]) -> Resolved:
    """What becomes of the steps. A step is skipped if its condition does not hold, or all before it were skipped."""
    decided = Resolved()
    skipped_before = _all_skipped_before(waiting)
    signals = _signals(waiting)
    by_pipeline: dict[UUID | None, list[Waiting]] = defaultdict(list)
    for step in waiting:
        if step.id in skipped_before:
            decided.skipped.append(step)
        else:
            by_pipeline[step.parent_id].append(step)
    for parent_id, steps in by_pipeline.items():
        results, states = _ended(parent_id, steps)
        for step in steps:
            _decide(step, results | signals.get(step.id, {}), states, decided)
    return decided


def _decide(step: Waiting, results: Mapping[str, Any], states: Mapping[str, str], decided: Resolved) -> None:
    try:
        if step.condition is not None and not conditions.holds(json.loads(step.condition), results, states):
            decided.skipped.append(step)
        elif step.signal and SIGNAL not in results:
            decided.waiting.append(step)
        elif step.each is None:
            of = decided.nested if step.is_nested else decided.ready
            of.append((step, _payload(step, results)))
        elif decided.has_room:
            decided.fanning.append((step, _payloads(step, results)))
    except (_Unfit, Incomparable, MissingValue, NotAList) as error:
        decided.failed.append((step, f"It could not start. {error.args[0]}"))


def _payload(step: Waiting, results: Mapping[str, Any]) -> Payload:
    """Raises _Unfit, and MissingValue."""
    if step.template is None:
        return Payload()
    return _fitting(step.kind, references.resolved(json.loads(step.template), results))


def _payloads(step: Waiting, results: Mapping[str, Any]) -> list[Payload]:
    """Those of the step's items."""
    spec, template = json.loads(step.each or ""), json.loads(step.template or "")
    payloads: list[Payload] = []
    size = 0
    for place, value in enumerate(each.values(spec["list"], results)):
        try:
            payload = references.resolved(template, {**results, ITEM: value, INDEX: place})
            payloads.append(_fitting(spec["kind"], payload))
        except (_Unfit, MissingValue) as error:
            raise _Unfit(f"Its item {place}: {error.args[0]}") from None
        size += len(payloads[-1].text or "")
        if size > each.MAX_BYTES:
            raise _Unfit(f"The payloads of its items have more than {each.MAX_BYTES:,} characters together.")
    return payloads


def _fitting(kind_name: str, payload: Any) -> Payload:
    """The payload, checked as at a submission if the kind is known here. Raises _Unfit."""
    try:
        key = None
        if kind := known_kind(kind_name):
            payload = kind.read_payload(payload)
            key = kind.key_of(payload)
        return Payload(as_json(payload, at_most=settings.ENV.MAX_BODY_BYTES), key)
    except BadPayload as error:
        raise _Unfit(" ".join(f"{each.pointer}: {each.detail}" for each in error.problems)) from None
    # A payload's type may raise any exception.
    except Exception as error:
        raise _Unfit(f"Its payload cannot be stored: {error_of(error)}") from None


def _all_skipped_before(waiting: Sequence[Waiting]) -> set[UUID]:
    with connection.cursor() as cursor:
        cursor.execute(SKIPPED_BEFORE, [[str(step.id) for step in waiting]])
        return {id for id, all_skipped in cursor.fetchall() if all_skipped}


def _signals(waiting: Sequence[Waiting]) -> dict[UUID, dict[str, Any]]:
    """The bodies of the signals that have come, as results that the steps may refer to."""
    ids = [str(step.id) for step in waiting if step.signal]
    if not ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(SIGNALS, [ids])
        return {id: {SIGNAL: json.loads(body)} for id, body in cursor.fetchall()}


def set_deadline(pipeline_id: UUID, seconds: float) -> None:
    """The pipeline that this transaction has inserted fails if it has not ended so long after its earliest start."""
    with connection.cursor() as cursor:
        cursor.execute(SET_DEADLINE, {"pipeline": str(pipeline_id), "seconds": seconds})


def resume_with(job_id: UUID, function: str) -> None:
    """The job goes on with the function of that name; empty: with its handler."""
    with connection.cursor() as cursor:
        cursor.execute(RESUME_WITH, {"job": str(job_id), "function": function})


def begin_deadlines(pipeline_ids: Iterable[UUID]) -> None:
    """Those of the jobs that have a deadline have as long again, from now on."""
    with connection.cursor() as cursor:
        cursor.execute(BEGIN_DEADLINES, [[str(id) for id in pipeline_ids]])


def begin_waits(steps: Sequence[Waiting]) -> None:
    """From now on the steps, locked by this transaction, wait for their signals alone."""
    with connection.cursor() as cursor:
        cursor.execute(BEGIN_WAITS, {"ids": [str(step.id) for step in steps]})


def end_waits(ids: Iterable[UUID]) -> list[UUID]:
    """The jobs, locked by this transaction, do not wait for signals any more. Returns those that have waited."""
    with connection.cursor() as cursor:
        cursor.execute(END_WAITS, {"ids": [str(id) for id in ids]})
        return [id for (id,) in cursor.fetchall()]


def _ended(parent_id: UUID | None, steps: Sequence[Waiting]) -> tuple[dict[str, Any], dict[str, str]]:
    """The results and the states of what the steps refer to, by name."""
    names = {name for step in steps for name in _referred_to(step)} - {SIGNAL, ITEM, INDEX}
    results: dict[str, Any] = {}
    with connection.cursor() as cursor:
        if INPUT in names:
            cursor.execute(INPUT_OF, [str(parent_id)])
            results[INPUT] = json.loads(cursor.fetchone()[0])
        if not (names := names - {INPUT}):
            return results, {}
        cursor.execute(ENDED, [str(parent_id), sorted(names)])
        rows = cursor.fetchall()
    results |= {name: json.loads(result) for name, _, result in rows}
    return results, {name: state for name, state, _ in rows}


def _referred_to(step: Waiting) -> set[str]:
    found = [] if step.template is None else [*references.found(json.loads(step.template))]
    found += [] if step.condition is None else [*conditions.found(json.loads(step.condition))]
    names = {reference.step for _, reference in found}
    return names if step.each is None else names | {each.reference(json.loads(step.each)["list"]).step}


def make_ready(steps: Sequence[tuple[Waiting, Payload]]) -> None:
    """Lets steps start, locked by this transaction, with these payloads."""
    with connection.cursor() as cursor:
        cursor.execute(
            RESOLVE,
            {
                "ids": [str(step.id) for step, _ in steps],
                "payloads": [payload.text for _, payload in steps],
                "keys": [payload.key for _, payload in steps],
            },
        )


def note(steps: Sequence[UUID], outcome: Step.Outcome) -> None:
    """Keeps what became of steps. Those that only follow skipped ones may have no row yet."""
    Step.objects.bulk_create(
        [Step(job_id=id, outcome=outcome) for id in steps],
        update_conflicts=True,
        unique_fields=["job"],
        update_fields=["outcome"],
    )


def let_pass(child_id: UUID, status: str) -> bool:
    """A step has failed for good, or was cancelled; whether what comes after it is to go on all the same, as it is
    after a compensation.
    """
    step = Step.objects.filter(job=child_id, on_failure="continue", outcome="")
    if status != Status.FAILED:
        step = step.filter(compensates__isnull=False)
    return step.update(outcome=Step.Outcome.PASSING) == 1


def passed(child_id: UUID) -> bool:
    """Whether it is this transaction that lets go on what comes after the step."""
    return Step.objects.filter(job=child_id, outcome=Step.Outcome.PASSING).update(outcome=Step.Outcome.PASSED) == 1
