"""The rows of new jobs: checked as they are asked for, and inserted, each pipeline with its children."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection, transaction

from orchestrator.attempt import prepared
from orchestrator.claimed import Claimed
from orchestrator.failpoints import Failpoint
from orchestrator.graphs import nesting
from orchestrator.graphs import rows as graphs
from orchestrator.graphs.checks import BadGraph
from orchestrator.graphs.compensations import PREFIX
from orchestrator.graphs.each import EACH, is_item
from orchestrator.graphs.nesting import INPUT, MAX_DEPTH
from orchestrator.ids import uuid7
from orchestrator.inputs import BadSubmission, check_numbers, check_owner, check_run_at, payload_as_json, quoted
from orchestrator.kind_problems import BadConcurrencyKey, BadPayload, UnknownKind
from orchestrator.kinds import Kind, kind_named
from orchestrator.models import Step
from orchestrator.pg_values import is_storable
from orchestrator.pipeline_steps import Child, Nested
from orchestrator.pipelines import Pipeline
from orchestrator.queue import bell, duplicates, ends, kind_limits
from orchestrator.queue.duplicates import Row, Taken
from orchestrator.queue.transitions import priority_step
from orchestrator.spawning import Spawn
from orchestrator.telemetry import attempts

between_inserts = Failpoint("submission-between-inserts")
submission_committed = Failpoint("submission-committed")

# Jobs as they are accepted. Whatever is due and waits for nothing is ready. Times are PostgreSQL's.
# They travel as one JSON document, which takes a tenth of the time of as many quoted values.
INSERT = """
INSERT INTO orchestrator_job (
    id, kind, queue, owner, priority, payload, max_attempts, parent_id, name, unfinished_dependencies,
    limit_key, limited, unresolved, schedule_id, scheduled_for, notify, traceparent, run_at, rank, ready,
    unique_key, unique_until
)
SELECT new.id, new.kind, new.queue, new.owner, new.priority, new.payload, new.max_attempts, new.parent_id, new.name,
       new.unfinished_dependencies, new.limit_key, coalesce(new.limited, false), new.unresolved, new.schedule_id,
       new.scheduled_for, new.notify, new.traceparent,
       due.at, due.at + new.priority * %(priority_step)s::interval,
       new.unfinished_dependencies = 0 AND NOT new.unresolved AND due.at <= statement_timestamp(),
       new.unique_key, statement_timestamp() + new.unique_for * interval '1 second'
FROM json_to_recordset(%(rows)s) AS new (
    id uuid, kind text, queue text, owner text, priority integer, payload jsonb, max_attempts integer,
    parent_id uuid, name text, unfinished_dependencies integer, limit_key text, limited boolean, unresolved boolean,
    schedule_id uuid, scheduled_for timestamptz, notify uuid[], traceparent text, run_at timestamptz,
    unique_key uuid, unique_for float, wait float
),
LATERAL (
    SELECT coalesce(new.run_at, statement_timestamp() + coalesce(new.wait, 0) * interval '1 second') AS at
) AS due
"""
INSERT_DEPENDENCIES = """
INSERT INTO orchestrator_dependency (job_id, depends_on_id)
SELECT * FROM unnest(%(jobs)s::uuid[], %(earlier)s::uuid[])
"""
# Rows that one statement inserts.
INSERT_ROWS = 10_000

MAX_NAME_CHARACTERS = 100
MAX_NOTIFY = 10


class Rows(NamedTuple):
    """Of jobs, and what depends on what."""

    jobs: list[Row]
    dependencies: list[tuple[UUID, UUID]]


class Above:
    """The pipelines that children are within, from the outermost on, and how many children are known of all of them.

    names: each with its payload as JSON, if that is known. depth: of the children.
    """

    def __init__(self, names: Sequence[tuple[str, bytes | None]], *, depth: int = 1) -> None:
        self._names, self._depth, self._count = names, depth, 0
        self._outermost = self

    def count(self, children: int) -> None:
        """Raises BadSubmission if there are too many in all."""
        self._outermost._count += children
        most = settings.ENV.MAX_CHILDREN
        if self._outermost._count > most:
            detail = f"With the steps of pipelines that are steps there are more than {most:,} children."
            raise BadSubmission("/children", "too_many", detail)

    def within(self, name: str, payload: bytes | None = None) -> Above:
        """Those of the steps of a pipeline that is a child here. Raises BadSubmission if it is too deep."""
        chain = [*self._names, (name, payload)]
        shown = " → ".join(name for name, _ in chain)
        if payload is not None and (name, payload) in self._names:
            raise BadSubmission("/kind", "cycle", f"These pipelines are steps of each other: {shown}.")
        if self._depth >= MAX_DEPTH:
            detail = f"Jobs have at most {MAX_DEPTH} generations above them; these would have more: {shown}."
            raise BadSubmission("/kind", "too_deep", detail)
        below = Above(chain, depth=self._depth + 1)
        below._outermost = self._outermost
        return below


class Occurrence(NamedTuple):
    """Which schedule submits a job, and for which of its times; None for none of them."""

    schedule_id: UUID
    scheduled_for: datetime | None = None


def new_row(
    kind: Kind,
    payload: Any,
    *,
    owner: str,
    priority: int | None = None,
    run_at: datetime | None = None,
    max_attempts: int | None = None,
    is_template: bool = False,
    occurrence: Occurrence | None = None,
    notify: Sequence[UUID] = (),
) -> Row:
    """A job's columns, checked. Its id is final once `pipeline_rows` has returned.

    is_template: what the payload refers to is known, and the payload checked, only once earlier steps are done.
    """
    priority = kind.priority if priority is None else priority
    max_attempts = kind.max_attempts if max_attempts is None else max_attempts
    check_numbers(priority, max_attempts)
    check_run_at(run_at)
    check_owner(owner)
    fitting, text = (None, "{}") if is_template else payload_as_json(kind, payload)
    return {
        "id": uuid7(),
        "kind": kind.name,
        "queue": kind.queue,
        "owner": owner,
        "priority": priority,
        "payload": msgspec.Raw(text.encode()),
        "max_attempts": max_attempts,
        "parent_id": None,
        "name": "",
        "unfinished_dependencies": 0,
        "notify": _known_notifications(notify) if notify else None,
        "unresolved": is_template,
        "schedule_id": occurrence and occurrence.schedule_id,
        "scheduled_for": occurrence and occurrence.scheduled_for,
        "run_at": run_at,
        **_limit_columns(kind, fitting, owner, is_template=is_template),
    }


def _limit_columns(kind: Kind, payload: Any, owner: str, *, is_template: bool) -> Row:
    """Those of jobs of kinds with a key, and of those that are counted without an owner: an index holds only them."""
    columns: Row = {} if kind.key is None or is_template else {"limit_key": kind.key_of(payload)}
    if not owner and kind_limits.limits_of(kind).max_unfinished_per_owner:
        columns["limited"] = True
    return columns


def _known_notifications(ids: Sequence[UUID]) -> list[UUID]:
    """The ids, each once; raises BadSubmission if there are too many, or one is of none."""
    if len(ids) > MAX_NOTIFY or (unknown := ends.unknown_among(ids)):
        detail = f"At most {MAX_NOTIFY}." if len(ids) > MAX_NOTIFY else f"There is no notification {unknown[0]}."
        raise BadSubmission("/notify", "invalid", detail)
    return list(dict.fromkeys(ids))


def _check_name(child: Child, taken: Container[str], pointer: str) -> None:
    if not child.name or not is_storable(child.name, at_most=MAX_NAME_CHARACTERS):
        raise BadSubmission(
            f"{pointer}/name",
            "invalid",
            f"A child's name must have 1 to {MAX_NAME_CHARACTERS} characters, without NUL or lone surrogates, "
            f"not {quoted(child.name)}.",
        )
    if child.name in taken:
        raise BadSubmission(f"{pointer}/name", "duplicate", f"Two children are called {quoted(child.name)}.")


def _waits_for(child: Child, listed: Container[str], pointer: str, *, has_input: bool) -> list[str]:
    """The steps that it comes after: those it names, and those that it refers to."""
    try:
        names = {*child.after, *(name for name in graphs.referred_to(child) if not has_input or name != INPUT)}
    except graphs.BadReference as error:
        raise BadSubmission(f"{pointer}{error.pointer}", "reference", str(error)) from None
    _check_after(child, names, listed, pointer)
    return sorted(names)


def _check_after(child: Child, names: Collection[str], listed: Container[str], pointer: str) -> None:
    # Not by a difference of sets, which would go through all that are listed for each child.
    if unknown := [name for name in names if name not in listed]:
        raise BadSubmission(
            f"{pointer}/after",
            "unknown",
            f"{child.name!r} runs after {quoted(unknown[0])}, which is not listed before it.",
        )


def _child_row(child: Child, parent: Row, pointer: str) -> Row:
    """A child's columns; its errors point to its position in the list."""
    try:
        kind = kind_named(child.kind)
        priority = parent["priority"] if child.priority is None else child.priority
        is_template = graphs.is_template(child)
        row = new_row(
            kind if child.each is None else kind_named(EACH),
            child.payload if is_template else graphs.literal(child.payload),
            owner=parent["owner"],
            priority=priority,
            run_at=parent["run_at"],
            max_attempts=child.max_attempts if child.each is None else None,
            is_template=is_template,
        )
        return row | {"unresolved": True} if nesting.is_nested(child, kind) else row
    except (BadConcurrencyKey, BadPayload, BadSubmission, UnknownKind) as error:
        error.problems = [problem._replace(pointer=pointer + problem.pointer) for problem in error.problems]
        raise


def pipeline_rows(parent: Row, children: Sequence[Child], *, has_input: bool = False) -> Rows:
    """The rows of a job and its children, with ids that rise from a step to what waits for it, and dependencies.

    has_input: whether the children may take the pipeline's input. Raises BadSubmission, BadPayload and others of a
    child, each problem with its place among the children.
    """
    above = Above([(parent["kind"], bytes(parent["payload"]))])
    rows, dependencies = child_rows(parent, children, above=above, has_input=has_input)
    parent |= {"id": uuid7(), "unfinished_dependencies": len(children)}
    if isinstance(children, Pipeline) and children.definition is not None:
        parent["step"] = {"definition": children.definition}
    for row in rows:
        row["parent_id"] = parent["id"]
    return Rows([*rows, parent], dependencies)


def child_rows(parent: Row, children: Sequence[Child], *, above: Above, has_input: bool = False) -> Rows:
    """The rows of children, and their dependencies. What is known of children that are pipelines is checked, too.

    parent: the columns that they take over, without an id. Raises as `pipeline_rows`.
    """
    if len(children) > settings.ENV.MAX_CHILDREN:
        detail = f"A pipeline may have at most {settings.ENV.MAX_CHILDREN:,} children, not {len(children):,}."
        raise BadSubmission("/children", "too_many", detail)
    above.count(len(children))
    ids: dict[str, UUID] = {}
    may_be_skipped: set[str] = set()
    rows: list[Row] = []
    dependencies: list[tuple[UUID, UUID]] = []
    usual = "fail" if all(child.compensate is None for child in children) else "compensate"
    for position, child in enumerate(children):
        pointer = f"/children/{position}"
        _check_name(child, ids, pointer)
        waits_for = _waits_for(child, ids, pointer, has_input=has_input)
        as_job = nesting.as_job(child)
        row = _child_row(as_job, parent, pointer)
        ids[child.name] = row["id"]
        row |= {"name": child.name, "unfinished_dependencies": len(waits_for)}
        if child.when is not None or (waits_for and may_be_skipped.issuperset(waits_for)):
            may_be_skipped.add(child.name)
            row["unresolved"] = True
        row["unresolved"] |= child.wait_for is not None
        row["step"] = _step(as_job, pointer, is_unresolved=row["unresolved"], usual=usual)
        rows.append(row)
        dependencies += [(row["id"], ids[name]) for name in waits_for]
        if row["unresolved"] and nesting.is_nested(child, kind_named(child.kind)):
            _check_nested(child, row, pointer, above)
    _check_names_of_items(children)
    return Rows(rows, dependencies)


def _check_nested(child: Child, row: Row, pointer: str, above: Above) -> None:
    """Checks its steps as if they were to be added now, as far as they are known. Raises as `child_rows`."""
    kind = kind_named(child.kind)
    if child.pipeline is not None:
        _check_written_out(child.pipeline, row, f"{pointer}/pipeline", above.within(child.name))
    elif child.each is not None or graphs.is_template(child):
        above.within(kind.name)
    elif kind.plan:
        within = above.within(kind.name, bytes(row["payload"]))
        try:
            child_rows(row, kind.plan(kind.read_payload(graphs.literal(child.payload))), above=within)
        except (BadConcurrencyKey, BadGraph, BadPayload, BadSubmission, UnknownKind) as error:
            raise BadSubmission(f"{pointer}/kind", "nested", f"The pipeline {kind.name!r}: {error}") from None


def _check_written_out(pipeline: Nested, row: Row, pointer: str, above: Above) -> None:
    try:
        child_rows(row, pipeline.steps, above=above, has_input=True)
    except (BadConcurrencyKey, BadPayload, BadSubmission, UnknownKind) as error:
        error.problems = [problem._replace(pointer=pointer + problem.pointer) for problem in error.problems]
        raise


def spawned_row(parent: Claimed, child: Spawn) -> Row:
    row = new_row(
        child.kind,
        child.payload,
        owner=parent.owner,
        priority=parent.priority if child.priority is None else child.priority,
        max_attempts=child.max_attempts,
    )
    step: Row = {} if child.on_failure == "fail" else {"on_failure": child.on_failure}
    if child.kind.plan:
        step["nested"], row["unresolved"] = {}, True
    row |= {"parent_id": parent.id, "step": step}
    return row | {"traceparent": parent.traceparent} if parent.traceparent else row


def _check_names_of_items(children: Sequence[Child]) -> None:
    """Raises BadSubmission where a child is called as an item of another one will be."""
    fanning = [child.name for child in children if child.each is not None]
    for position, child in enumerate(children):
        if "[" in child.name and any(is_item(child.name, name) for name in fanning):
            detail = f"{quoted(child.name)} is the name of an item of another step."
            raise BadSubmission(f"/children/{position}/name", "duplicate", detail)
        if child.name.startswith(PREFIX):
            detail = f"{quoted(child.name)} is what a compensation would be called."
            raise BadSubmission(f"/children/{position}/name", "duplicate", detail)


def _step(child: Child, pointer: str, *, is_unresolved: bool, usual: str) -> Row | None:
    try:
        return graphs.step_of(child, is_unresolved=is_unresolved, usual=usual)
    except graphs.BadReference as error:
        raise BadSubmission(f"{pointer}{error.pointer}", "invalid", str(error)) from None


def insert(rows: Sequence[Row], dependencies: Sequence[tuple[UUID, UUID]], *, has_keys: bool = False) -> set[UUID]:
    """Inserts them in the caller's transaction. Returns the pipelines, and jobs without one, that are to be resolved
    after its commit.

    has_keys: whether some are unique. Raises Taken, for a transaction to be rolled back, if somebody has inserted one
    of those before.
    """
    attempts.submitted(rows)
    steps = [Step(job_id=row["id"], **row["step"]) for row in rows if row.get("step")]
    if has_keys:
        # In the same order everywhere, so that no two who insert the same wait for each other in a circle.
        keyed = sorted((row for row in rows if "unique_key" in row), key=itemgetter("unique_key"))
        _insert_rows(keyed, INSERT + duplicates.UNLESS_HELD)
        duplicates.require_still_free(keyed)
    _insert_rows([row for row in rows if "unique_key" not in row] if has_keys else rows, INSERT)
    between_inserts()
    Step.objects.bulk_create(steps, batch_size=1_000)
    _insert_dependencies(dependencies)
    announce(*{row["kind"] for row in rows if row["unfinished_dependencies"] == 0 and not row["unresolved"]})
    return {row["parent_id"] or row["id"] for row in rows if row["unfinished_dependencies"] == 0 and row["unresolved"]}


def insert_beside(cursor: Any, row: Row, sql: str, parameters: dict[str, Any]) -> None:
    """Inserts a job that is no pipeline and not unique, and runs a statement beside it: both go to PostgreSQL in one
    message, which is a transaction if the caller has none. What the statement returns is the cursor's.
    """
    attempts.submitted([row])
    # Neither scans a table, so PostgreSQL finds by itself that one plan is as good as another.
    prepared.execute(cursor, [INSERT, sql], {**_parameters([row]), **parameters}, plan="")
    announce(row["kind"])


def announce(*ready: str) -> None:
    """Ready jobs of these kinds were inserted: wakes who runs them, after the commit if it is still to come."""
    transaction.on_commit(submission_committed)
    bell.ring_after_commit(*ready)


def _columns(row: Row) -> Row:
    """What is inserted of the row: a step of a graph has a row of its own."""
    return {name: value for name, value in row.items() if name != "step"} if "step" in row else row


def _insert_rows(rows: Sequence[Row], sql: str) -> None:
    with connection.cursor() as cursor:
        for first in range(0, len(rows), INSERT_ROWS):
            some = rows[first : first + INSERT_ROWS]
            cursor.execute(sql, _parameters(some))
            if cursor.rowcount != len(some):
                raise Taken


def _parameters(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "rows": msgspec.json.encode([_columns(row) for row in rows]).decode(),
        "priority_step": priority_step(),
    }


def _insert_dependencies(dependencies: Sequence[tuple[UUID, UUID]]) -> None:
    with connection.cursor() as cursor:
        for first in range(0, len(dependencies), INSERT_ROWS):
            some = dependencies[first : first + INSERT_ROWS]
            parameters = {"jobs": [str(job) for job, _ in some], "earlier": [str(earlier) for _, earlier in some]}
            cursor.execute(INSERT_DEPENDENCIES, parameters)
