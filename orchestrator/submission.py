"""Submitting jobs; cancelling and retrying them is imported from here, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import transaction

from orchestrator.cancelling import NotCancellable as NotCancellable
from orchestrator.cancelling import cancel as cancel
from orchestrator.claimed import Claimed
from orchestrator.graphs import nesting
from orchestrator.graphs import rows as graphs
from orchestrator.ids import ids_below
from orchestrator.inputs import (
    BadSubmission as BadSubmission,  # Users catch it, and import it from here.
)
from orchestrator.inputs import quoted
from orchestrator.kind import P
from orchestrator.kind_problems import BadPayload, Problem, UnknownKind
from orchestrator.kinds import Kind, kind_named
from orchestrator.models import Job
from orchestrator.pipeline_steps import Child as Child  # Users' pipelines import it from here.
from orchestrator.queue import duplicates, generations, kind_limits, pipelines
from orchestrator.queue.alike import insert_alike
from orchestrator.queue.caps import TooManyUnfinished as TooManyUnfinished
from orchestrator.queue.caps import check_cap
from orchestrator.queue.duplicates import Holder, Keyed, Row, Taken
from orchestrator.queue.duplicates import NotUnique as NotUnique
from orchestrator.queue.new_jobs import MAX_NOTIFY as MAX_NOTIFY
from orchestrator.queue.new_jobs import Occurrence as Occurrence
from orchestrator.queue.new_jobs import insert, insert_beside, new_row, pipeline_rows, spawned_row
from orchestrator.retrying import Compensated as Compensated
from orchestrator.retrying import NotRetryable as NotRetryable
from orchestrator.retrying import retry as retry
from orchestrator.spawning import Spawn
from orchestrator.telemetry import attempts
from orchestrator.unique import Unique as Unique

# Rows that one submission of many jobs may write, with the children of its pipelines.
MAX_ROWS_AT_ONCE = 100_000
# From so many on jobs are copied, which takes a statement more.
COPIED_FROM = 20


def submit(
    kind: str | Kind[P, Any, ...],
    payload: P | dict[str, Any] | None = None,
    *,
    owner: str = "",
    priority: int | None = None,
    run_at: datetime | None = None,
    max_attempts: int | None = None,
    children: Sequence[Child] | None = None,
    occurrence: Occurrence | None = None,
    unique: Unique | None = None,
    unique_for: timedelta | None = None,
    notify: Sequence[UUID] = (),
    wait_for: Any = None,
) -> Job:
    """Accepts one job, with its children, in the caller's transaction if there is one: the job exists if and only
    if what the caller wrote does.

    run_at: not before this time; now if not given. children: as planned by the kind if not given. occurrence: the
    schedule that submits it.
    unique: as declared by the kind if not given. unique_for: in place of its period; without `unique`, by the whole
        payload. If there is such a job already it is returned, with `duplicate` set, or as `unique` says.
    notify: ids of notifications by which its end is told, beside those that match it.
    wait_for: a signal that has to come first: its name, or an object; see docs/pipelines.md.

    Raises UnknownKind, BadPayload, BadSubmission, TooManyUnfinished or NotUnique; then nothing was written.
    """
    kind = kind if isinstance(kind, Kind) else kind_named(kind)
    job = new_row(
        kind,
        payload,
        owner=owner,
        priority=priority,
        run_at=run_at,
        max_attempts=max_attempts,
        occurrence=occurrence,
        notify=notify,
    )
    children = _planned(kind, payload) if children is None else children
    once = duplicates.make_unique(job, kind, unique, unique_for, is_pipeline=bool(children))
    rows, dependencies = pipeline_rows(job, children, has_input=nesting.takes_input(kind, payload))
    if wait_for is not None:
        _add_wait(rows, wait_for)
    while True:
        with suppress(Taken), transaction.atomic():
            if once and (held := duplicates.settle([(job, once)])):
                return _duplicate(held[job["unique_key"]].id)
            check_cap(kind, owner)
            _insert(rows, dependencies, has_keys=once is not None)
            return Job.objects.get(id=job["id"])


def _add_wait(rows: Sequence[Row], wait_for: Any) -> None:
    """The only row waits for a signal."""
    try:
        *children, job = rows
        if children:
            raise graphs.BadReference("/wait_for", "The steps of a pipeline wait for signals, not the pipeline.")
        job |= {"unresolved": True, "step": graphs.waiting(wait_for)}
    except graphs.BadReference as error:
        raise BadSubmission(error.pointer, "invalid", str(error)) from None


def _planned(kind: Kind[P, Any, ...], payload: P | dict[str, Any] | None) -> Sequence[Child]:
    """The children that the kind plans for the payload."""
    return kind.plan(kind.read_payload({} if payload is None else payload)) if kind.plan else ()


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One job among many whose owners, priorities or times differ."""

    payload: Any
    owner: str = ""
    priority: int | None = None
    run_at: datetime | None = None
    occurrence: Occurrence | None = None


class BadBatch(Exception):
    """Some of many jobs could never run as asked; each problem begins with the job's place among them: /17/payload."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__(f"{len(problems):,} of the jobs are invalid. {problems[0].pointer}: {problems[0].detail}")


class Accepted(NamedTuple):
    """One of many jobs that were submitted together. duplicate: a unique job that was there already."""

    id: UUID
    owner: str
    duplicate: bool


class _New(NamedTuple):
    """A job that is submitted together with others: its row, what makes it unique, and the rows of its pipeline."""

    job: Row
    unique: Unique | None
    rows: Sequence[Row]
    dependencies: Sequence[tuple[UUID, UUID]]


def submit_all(asked: Sequence[tuple[Kind, dict[str, Any]]]) -> list[Accepted]:
    """Accepts jobs of any kinds, all or none: each a kind with the options of `submit`, pipelines as their kinds plan
    them. Returns them in order.

    Raises BadBatch, TooManyUnfinished or NotUnique; then nothing was written, and a transaction of the caller's can
    only be rolled back.
    """
    new: list[_New] = []
    count = 0
    problems: list[Problem] = []
    for place, (kind, options) in enumerate(asked):
        try:
            one = _new(kind, **options)
            count += len(one.rows)
            _check_rows(count)
        except (BadPayload, BadSubmission, UnknownKind) as error:
            problems += [each._replace(pointer=f"/{place}{each.pointer}") for each in error.problems]
            continue
        if not problems:  # Else nothing will be written, so nothing is kept.
            new.append(one)
    if problems:
        raise BadBatch(problems)
    return _accept(new)


def _new(kind: Kind, payload: Any, *, unique: Unique | None = None, **options: Any) -> _New:
    job = new_row(kind, payload, **options)
    children = _planned(kind, payload)
    unique = duplicates.make_unique(job, kind, unique, None, is_pipeline=bool(children))
    return _New(job, unique, *pipeline_rows(job, children))


def _accept(new: Sequence[_New]) -> list[Accepted]:
    """Inserts those of the jobs that there are not yet; returns all, in order."""
    first = duplicates.first_of_each((each.job, each.unique) for each in new if each.unique)
    while True:
        # Only what may be taken is tried again.
        with suppress(Taken), transaction.atomic(savepoint=bool(first)):
            held = duplicates.settle(list(first.values()))
            inserted = [each for each in new if not each.unique or _is_free(each.job, first, held)]
            _check_caps(Counter((each.job["kind"], each.job["owner"]) for each in inserted))
            _insert(
                [row for each in inserted for row in each.rows],
                [dependency for each in inserted for dependency in each.dependencies],
                has_keys=bool(first),
            )
            return [_accepted(each.job, first, held) for each in new]


def _is_free(job: Row, first: Mapping[UUID, Keyed], held: Mapping[UUID, Holder]) -> bool:
    return job["unique_key"] not in held and first[job["unique_key"]][0] is job


def _accepted(job: Row, first: Mapping[UUID, Keyed], held: Mapping[UUID, Holder]) -> Accepted:
    key = job.get("unique_key")
    if key is None or _is_free(job, first, held):
        return Accepted(job["id"], job["owner"], duplicate=False)
    if holder := held.get(key):
        return Accepted(holder.id, holder.owner, duplicate=True)
    return Accepted(first[key][0]["id"], first[key][0]["owner"], duplicate=True)


def _check_rows(count: int) -> None:
    if count > MAX_ROWS_AT_ONCE:
        raise BadSubmission(
            "", "too_many", f"With their children, at most {MAX_ROWS_AT_ONCE:,} jobs can be submitted at once."
        )


def _check_caps(more: Mapping[tuple[str, str], int]) -> None:
    """In one order, so that no two submissions wait for each other."""
    for (kind, owner), count in sorted(more.items()):
        check_cap(kind_named(kind), owner, more=count)


def submit_many(
    kind: str | Kind[P, Any, ...],
    payloads: Iterable[P | dict[str, Any] | Submission],
    *,
    owner: str = "",
    priority: int | None = None,
    unique: Unique | None = None,
    unique_for: timedelta | None = None,
) -> list[UUID]:
    """Accepts a job for each payload or Submission, all or none, in bulk; returns their ids in order.

    unique, unique_for: as `submit` has them. Where there is such a job already, or the same comes twice, the id is
    that of the one job.

    Raises as `submit` does.
    """
    kind = kind if isinstance(kind, Kind) else kind_named(kind)
    _require_plain(kind)
    asked = [
        each if isinstance(each, Submission) else Submission(payload=each, owner=owner, priority=priority)
        for each in payloads
    ]
    is_unique = bool(unique or unique_for or kind.unique)
    if len(asked) >= COPIED_FROM and not is_unique and _are_alike(asked):
        return _copy(kind, asked)
    rows = [_row(kind, each) for each in asked]
    if is_unique:
        return [each.id for each in _accept([_once(row, kind, unique, unique_for) for row in rows])]
    with transaction.atomic(savepoint=False):
        _insert(rows, [])
    return [row["id"] for row in rows]


def _are_alike(asked: Sequence[Submission]) -> bool:
    """Whether all are ready at once, submitted by no schedule, and not traced."""
    return not (attempts.are_traced() or any(each.run_at or each.occurrence for each in asked))


def _copy(kind: Kind, asked: Sequence[Submission]) -> list[UUID]:
    return insert_alike(
        kind,
        [each.payload for each in asked],
        owners=[each.owner for each in asked],
        priorities=[each.priority for each in asked],
    )


def submit_beside(
    cursor: Any, kind: Kind[P, Any, ...], asked: Submission, sql: str, parameters: dict[str, Any]
) -> UUID:
    """Accepts a job together with what a statement of the caller's writes, in one message to PostgreSQL, since
    much of what a single job costs is the way there and back. It is a transaction if there is none. Returns the job's
    id.

    sql: with named parameters, of which `job_id` is given here; what it returns is the cursor's. The kind must be one
    that `submit_many` takes, without `unique`. Raises as `submit` does.
    """
    _require_plain(kind)
    row = _row(kind, asked)
    insert_beside(cursor, row, sql, {**parameters, "job_id": str(row["id"])})
    id: UUID = row["id"]
    return id


def _row(kind: Kind, asked: Submission) -> Row:
    return new_row(
        kind,
        asked.payload,
        owner=asked.owner,
        priority=asked.priority,
        run_at=asked.run_at,
        occurrence=asked.occurrence,
    )


def _require_plain(kind: Kind) -> None:
    if goes_one_by_one(kind):
        raise BadSubmission("/kind", "one_by_one", f"Jobs of kind {kind.name!r} must be submitted one by one.")


def goes_one_by_one(kind: Kind) -> bool:
    """Whether `submit_many` refuses the kind: its jobs have children, or are counted."""
    return bool(kind.plan or kind_limits.limits_of(kind).max_unfinished_per_owner)


def _once(row: Row, kind: Kind, unique: Unique | None, unique_for: timedelta | None) -> _New:
    return _New(row, duplicates.make_unique(row, kind, unique, unique_for), [row], [])


def _duplicate(id: UUID) -> Job:
    job = Job.objects.get(id=id)
    job.duplicate = True
    return job


def add_children(parent: Claimed, spawned: Sequence[Spawn]) -> None:
    """Inserts children that a running job adds, within the transaction that ends its attempt: its row is locked, and
    counts them. Their ids rise in their order, and are less than that of their parent.

    Raises BadSubmission.
    """
    if not spawned:
        return
    before = Job.objects.filter(parent=parent.id).count()
    if before + len(spawned) > settings.ENV.MAX_CHILDREN:
        detail = f"A job may have at most {settings.ENV.MAX_CHILDREN:,} children, not {before + len(spawned):,}."
        raise BadSubmission("/children", "too_many", detail)
    if parent.parent_id and generations.depth_of(parent.id) >= generations.MAX_DEPTH:
        detail = f"It has {generations.MAX_DEPTH} generations above it, so it cannot have children."
        raise BadSubmission("/children", "too_deep", detail)
    names = [each.name or f"child[{place}]" for place, each in enumerate(spawned, start=before)]
    _check_names(parent.id, names)
    rows = [
        spawned_row(parent, each) | {"id": id, "name": name}
        for each, id, name in zip(spawned, ids_below(parent.id, len(spawned)), names, strict=True)
    ]
    _insert(rows, [])


def _check_names(parent_id: UUID, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    taken = twice or list(Job.objects.filter(parent=parent_id, name__in=names).values_list("name", flat=True)[:1])
    if taken:
        raise BadSubmission("/name", "duplicate", f"Two children are called {quoted(taken[0])}.")


def _insert(rows: Sequence[Row], dependencies: Sequence[tuple[UUID, UUID]], *, has_keys: bool = False) -> None:
    for family_id in insert(rows, dependencies, has_keys=has_keys):
        transaction.on_commit(partial(pipelines.resolve, family_id))
