"""What a client may ask for: submit, cancel and retry jobs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from access import audit
from orchestrator.attempt.callbacks import begun_again
from orchestrator.failpoints import Failpoint
from orchestrator.graphs import rows as graphs
from orchestrator.graphs.compensations import PREFIX
from orchestrator.graphs.each import EACH, is_item
from orchestrator.ids import ids_below, uuid7
from orchestrator.inputs import (
    BadSubmission as BadSubmission,  # Users catch it, and import it from here.
)
from orchestrator.inputs import check_numbers, check_owner, check_run_at, payload_as_json, quoted
from orchestrator.kinds import BadConcurrencyKey, BadPayload, Kind, P, Problem, UnknownKind, kind_named
from orchestrator.kinds import Child as Child  # Users' pipelines import it from here.
from orchestrator.models import Dependency, Job, Step
from orchestrator.pg_values import is_storable
from orchestrator.pipelines import Pipeline
from orchestrator.queue import (
    after_failure,
    bell,
    compensations,
    duplicates,
    ends,
    generations,
    kind_limits,
    pipelines,
    transitions,
    unblocking,
)
from orchestrator.queue.duplicates import Holder, Keyed, Row, Taken
from orchestrator.queue.duplicates import NotUnique as NotUnique
from orchestrator.queue.transitions import priority_step
from orchestrator.running import Claimed
from orchestrator.spawning import Spawn
from orchestrator.states import FINAL, UNFINISHED, Status
from orchestrator.telemetry import attempts
from orchestrator.unique import Unique as Unique

between_inserts = Failpoint("submission-between-inserts")
submission_committed = Failpoint("submission-committed")
cancelling = Failpoint("cancelling")
retrying = Failpoint("retrying")

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
       due.at, due.at + new.priority * %(priority_step)s,
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
# Rows that one statement inserts.
INSERT_ROWS = 10_000

# Rows that one submission of many jobs may write, with the children of its pipelines.
MAX_ROWS_AT_ONCE = 100_000

MAX_NAME_CHARACTERS = 100
MAX_NOTIFY = 10


class TooManyUnfinished(Exception):
    """The owner has as many unfinished jobs of the kind as it allows; `retry_after` says when one may be done."""

    def __init__(self, kind: Kind, owner: str, most: int, retry_after: timedelta) -> None:
        self.retry_after_seconds = max(1, math.ceil(retry_after.total_seconds()))
        super().__init__(
            f"{owner!r} already has {most} unfinished jobs of kind {kind.name!r}, the "
            f"maximum. Wait for one to end, or cancel one; try again in {self.retry_after_seconds} s."
        )


class NotCancellable(Exception):
    """The job has already completed or failed."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"The job is already {job.status}; only a CREATED or RUNNING job can be cancelled.")


class NotRetryable(Exception):
    """Only a job that failed or was cancelled, and is not a child, can be retried."""

    def __init__(self, job: Job) -> None:
        if job.parent_id:
            message = f"The job is the child {job.name!r} of a pipeline: retry its parent, {job.parent_id}."
        elif job.pruning:
            message = "The job is being deleted, since it ended long ago; submit it again."
        else:
            message = f"The job is {job.status}; only a FAILED or CANCELLED job can be retried."
        super().__init__(message)


class Occurrence(NamedTuple):
    """Which schedule submits a job, and for which of its times; None for none of them."""

    schedule_id: UUID
    scheduled_for: datetime | None = None


class Compensated(NotRetryable):
    """A pipeline of which what was done was undone."""

    def __init__(self, job: Job) -> None:
        detail = "What its steps had done was compensated: fork it, or submit it again."
        Exception.__init__(self, f"The pipeline is {job.status}. {detail}")


class Superseded(NotRetryable):
    """A unique job of which another one is unfinished now."""

    def __init__(self, job: Job) -> None:
        detail = "Another unfinished job of the same owner has its unique key; wait for that one's end, or cancel it."
        Exception.__init__(self, f"The job is {job.status}. {detail}")


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
    job = _row(
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
    rows, dependencies = _pipeline(job, children)
    if wait_for is not None:
        _add_wait(rows, wait_for)
    while True:
        with suppress(Taken), transaction.atomic():
            if once and (held := duplicates.settle([(job, once)])):
                return _duplicate(held[job["unique_key"]].id)
            _check_cap(kind, owner)
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


@dataclass(frozen=True, kw_only=True)
class Submission:
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

    Raises BadBatch, TooManyUnfinished or NotUnique; then nothing was written.
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
    job = _row(kind, payload, **options)
    children = _planned(kind, payload)
    unique = duplicates.make_unique(job, kind, unique, None, is_pipeline=bool(children))
    return _New(job, unique, *_pipeline(job, children))


def _accept(new: Sequence[_New]) -> list[Accepted]:
    """Inserts those of the jobs that there are not yet; returns all, in order."""
    first = duplicates.first_of_each((each.job, each.unique) for each in new if each.unique)
    while True:
        with suppress(Taken), transaction.atomic():
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
        _check_cap(kind_named(kind), owner, more=count)


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
    if goes_one_by_one(kind):
        raise BadSubmission("/kind", "one_by_one", f"Jobs of kind {kind.name!r} must be submitted one by one.")
    rows = [
        _row(
            kind,
            each.payload,
            owner=each.owner,
            priority=each.priority,
            run_at=each.run_at,
            occurrence=each.occurrence,
        )
        if isinstance(each, Submission)
        else _row(kind, each, owner=owner, priority=priority)
        for each in payloads
    ]
    if unique or unique_for or kind.unique:
        return [each.id for each in _accept([_once(row, kind, unique, unique_for) for row in rows])]
    with transaction.atomic(savepoint=False):
        _insert(rows, [])
    return [row["id"] for row in rows]


def goes_one_by_one(kind: Kind) -> bool:
    """Whether `submit_many` refuses the kind: its jobs have children, or are counted."""
    return bool(kind.plan or kind_limits.limits_of(kind).max_unfinished_per_owner)


def _once(row: Row, kind: Kind, unique: Unique | None, unique_for: timedelta | None) -> _New:
    return _New(row, duplicates.make_unique(row, kind, unique, unique_for), [row], [])


def _duplicate(id: UUID) -> Job:
    job = Job.objects.get(id=id)
    job.duplicate = True
    return job


@begun_again
def cancel(job_id: UUID, *, action: str = "job.cancel", of: UUID | None = None) -> Job:
    """Requests the cancellation of a job and its children. Returns the job as it is then: CANCELLED at once if nothing
    of it runs, else still RUNNING until its handler reaches a checkpoint.

    action, of: for the audit log, if something else is cancelled together with its job.

    Raises Job.DoesNotExist, or NotCancellable if it has completed or failed. Calling it again is harmless.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(id=job_id)
        if job.status == Status.CANCELLED:
            return job
        if job.status in FINAL:
            raise NotCancellable(job)
        if job.cancel_requested_at is None:
            audit.record(action, of or job_id, job.kind, before={"status": job.status})
        _cancel(job)
        cancelling()
    return Job.objects.get(id=job_id)


def _cancel(job: Job) -> None:
    """Cancels what does not run, and requests it for what runs. The job's row is locked."""
    this = Job.objects.filter(id=job.id)
    if job.worker_id is not None:
        this.filter(cancel_requested_at=None).update(cancel_requested_at=Now(), updated_at=Now())
    elif job.children.exists():
        this.update(cancel_requested_at=Now(), unwinding=True, ready=False, blocked_by=None, updated_at=Now())
        pipelines.unwind(job.id)
    else:
        transitions.cancel(job.id)
        job.status = Status.CANCELLED
        unblocking.released_after_commit([job])
        transaction.on_commit(partial(attempts.cancelled, [job]))
        if job.parent_id:
            pipelines.child_stopped(job)
        after_failure.follow_up(job)


def retry(job_id: UUID) -> Job:
    """Lets a failed or cancelled job run again; of a pipeline, only the children that did not complete do, or, if its
    steps were compensated, the compensations that did not.

    The job has at least one more attempt, and its earlier ones stay on record.

    Raises Job.DoesNotExist, NotRetryable, or TooManyUnfinished as `submit` does.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(id=job_id)
        if job.parent_id or job.pruning or job.status not in (Status.FAILED, Status.CANCELLED):
            raise NotRetryable(job)
        is_compensated = compensations.are_begun(job.id)
        if is_compensated and not compensations.failed(job.id):
            raise Compensated(job)
        _check_cap(kind_named(job.kind), job.owner)
        kinds = _reopen(job, compensations.failed(job.id)) if is_compensated else _reopen(job)
        audit.record("job.retry", job_id, job.kind, before={"status": job.status})
        bell.ring_after_commit(*kinds)
        transaction.on_commit(partial(pipelines.resolve, job_id))
        retrying()
    return Job.objects.get(id=job_id)


def _reopen(job: Job, failed: Sequence[Job] | None = None) -> set[str]:
    """As `transitions.reopen`; raises Superseded. failed: the compensations that run again, and nothing else."""
    reopen = partial(transitions.reopen, job.id)
    if failed is not None:
        reopen = partial(compensations.again, job, failed)
    if job.unique_key is None:
        return reopen()
    try:
        with transaction.atomic():
            return reopen()
    except IntegrityError as error:
        if not duplicates.is_duplicate(error):
            raise
    raise Superseded(job)


def _row(
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
    """A job's columns, checked. Its id is final once `_pipeline` has returned.

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


def _waits_for(child: Child, listed: Container[str], pointer: str) -> list[str]:
    """The steps that it comes after: those it names, and those that it refers to."""
    try:
        names = {*child.after, *graphs.referred_to(child)}
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
        if kind.plan:
            raise BadSubmission("/kind", "nested", f"{kind.name!r} is a pipeline itself, so it cannot be a child.")
        priority = parent["priority"] if child.priority is None else child.priority
        is_template = graphs.is_template(child)
        return _row(
            kind if child.each is None else kind_named(EACH),
            child.payload if is_template else graphs.literal(child.payload),
            owner=parent["owner"],
            priority=priority,
            run_at=parent["run_at"],
            max_attempts=child.max_attempts if child.each is None else None,
            is_template=is_template,
        )
    except (BadConcurrencyKey, BadPayload, BadSubmission, UnknownKind) as error:
        error.problems = [problem._replace(pointer=pointer + problem.pointer) for problem in error.problems]
        raise


def _pipeline(parent: Row, children: Sequence[Child]) -> tuple[list[Row], list[tuple[UUID, UUID]]]:
    """The rows of a job and its children, with ids that rise from a step to what waits for it, and dependencies."""
    if len(children) > settings.ENV.MAX_CHILDREN:
        raise BadSubmission(
            "/children",
            "too_many",
            f"A pipeline may have at most {settings.ENV.MAX_CHILDREN:,} children, not {len(children):,}.",
        )
    ids: dict[str, UUID] = {}
    may_be_skipped: set[str] = set()
    rows: list[Row] = []
    dependencies: list[tuple[UUID, UUID]] = []
    usual = "fail" if all(child.compensate is None for child in children) else "compensate"
    for position, child in enumerate(children):
        pointer = f"/children/{position}"
        _check_name(child, ids, pointer)
        waits_for = _waits_for(child, ids, pointer)
        row = _child_row(child, parent, pointer)
        ids[child.name] = row["id"]
        row |= {"name": child.name, "unfinished_dependencies": len(waits_for)}
        if child.when is not None or (waits_for and may_be_skipped.issuperset(waits_for)):
            may_be_skipped.add(child.name)
            row["unresolved"] = True
        row["unresolved"] |= child.wait_for is not None
        row["step"] = _step(child, pointer, is_unresolved=row["unresolved"], usual=usual)
        rows.append(row)
        dependencies += [(row["id"], ids[name]) for name in waits_for]
    _check_names_of_items(children)
    parent |= {"id": uuid7(), "unfinished_dependencies": len(children)}
    if isinstance(children, Pipeline) and children.definition is not None:
        parent["step"] = {"definition": children.definition}
    for row in rows:
        row["parent_id"] = parent["id"]
    return [*rows, parent], dependencies


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
        _spawned_row(parent, each) | {"id": id, "name": name}
        for each, id, name in zip(spawned, ids_below(parent.id, len(spawned)), names, strict=True)
    ]
    _insert(rows, [])


def _check_names(parent_id: UUID, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    taken = twice or list(Job.objects.filter(parent=parent_id, name__in=names).values_list("name", flat=True)[:1])
    if taken:
        raise BadSubmission("/name", "duplicate", f"Two children are called {quoted(taken[0])}.")


def _spawned_row(parent: Claimed, child: Spawn) -> Row:
    row = _row(
        child.kind,
        child.payload,
        owner=parent.owner,
        priority=parent.priority if child.priority is None else child.priority,
        max_attempts=child.max_attempts,
    )
    row |= {"parent_id": parent.id, "step": None if child.on_failure == "fail" else {"on_failure": child.on_failure}}
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


def _insert(rows: Sequence[Row], dependencies: Sequence[tuple[UUID, UUID]], *, has_keys: bool = False) -> None:
    """has_keys: whether some are unique. Raises Taken, for a transaction to be rolled back, if somebody has inserted
    one of those before.
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
    Dependency.objects.bulk_create(
        [Dependency(job_id=job, depends_on_id=depends_on) for job, depends_on in dependencies], batch_size=1_000
    )
    transaction.on_commit(submission_committed)
    ready = {row["kind"] for row in rows if row["unfinished_dependencies"] == 0 and not row["unresolved"]}
    for row in rows:
        if row["unfinished_dependencies"] == 0 and row["unresolved"]:
            transaction.on_commit(partial(pipelines.resolve, row["parent_id"] or row["id"]))
    bell.ring_after_commit(*ready)


def _columns(row: Row) -> Row:
    """What is inserted of the row: a step of a graph has a row of its own."""
    return {name: value for name, value in row.items() if name != "step"} if "step" in row else row


def _insert_rows(rows: Sequence[Row], sql: str) -> None:
    with connection.cursor() as cursor:
        for first in range(0, len(rows), INSERT_ROWS):
            some = rows[first : first + INSERT_ROWS]
            parameters: dict[str, Any] = {
                "rows": msgspec.json.encode([_columns(row) for row in some]).decode(),
                "priority_step": priority_step(),
            }
            cursor.execute(sql, parameters)
            if cursor.rowcount != len(some):
                raise Taken


def _check_cap(kind: Kind, owner: str, *, more: int = 1) -> None:
    """Raises TooManyUnfinished where so many more would be too many. Submissions of the same owner and kind wait for
    each other here until they commit.
    """
    most = kind_limits.limits_of(kind).max_unfinished_per_owner
    if most is None:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{kind.name} {owner}"])
    unfinished = Job.objects.filter(owner=owner, kind=kind.name, parent=None, status__in=UNFINISHED)
    if not owner:
        unfinished = unfinished.filter(limited=True)
    created = list(unfinished.order_by("created_at").values_list("created_at", flat=True))
    if len(created) + more > most:
        since = created[0] if created else timezone.now()
        raise TooManyUnfinished(kind, owner, most, since + kind.typical_duration - timezone.now())
