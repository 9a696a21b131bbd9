"""What a client may ask for: submit, cancel and retry jobs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from access import audit
from orchestrator.attempt.callbacks import begun_again
from orchestrator.failpoints import Failpoint
from orchestrator.failures import error_of
from orchestrator.graphs import rows as graphs
from orchestrator.ids import uuid7
from orchestrator.kinds import MAX_ATTEMPTS, BadConcurrencyKey, BadPayload, Kind, P, Problem, UnknownKind, kind_named
from orchestrator.kinds import Child as Child  # Users' pipelines import it from here.
from orchestrator.models import Dependency, Job, Step
from orchestrator.pg_values import NotFinite, as_json, is_storable
from orchestrator.queue import after_failure, bell, kind_limits, pipelines, transitions, unblocking
from orchestrator.queue.transitions import priority_step
from orchestrator.states import FINAL, UNFINISHED, Status
from orchestrator.telemetry import attempts

between_inserts = Failpoint("submission-between-inserts")
submission_committed = Failpoint("submission-committed")
cancelling = Failpoint("cancelling")
retrying = Failpoint("retrying")

# Jobs as they are accepted. Whatever is due and waits for nothing is ready. Times are PostgreSQL's.
# They travel as one JSON document, which takes a tenth of the time of as many quoted values.
INSERT = """
INSERT INTO orchestrator_job (
    id, kind, queue, owner, priority, payload, max_attempts, parent_id, name, unfinished_dependencies,
    limit_key, unresolved, schedule_id, scheduled_for, run_at, rank, ready
)
SELECT new.id, new.kind, new.queue, new.owner, new.priority, new.payload, new.max_attempts, new.parent_id, new.name,
       new.unfinished_dependencies, new.limit_key, new.unresolved, new.schedule_id, new.scheduled_for,
       due.at, due.at + new.priority * %(priority_step)s,
       new.unfinished_dependencies = 0 AND NOT new.unresolved AND due.at <= statement_timestamp()
FROM json_to_recordset(%(rows)s) AS new (
    id uuid, kind text, queue text, owner text, priority integer, payload jsonb, max_attempts integer,
    parent_id uuid, name text, unfinished_dependencies integer, limit_key text, unresolved boolean,
    schedule_id uuid, scheduled_for timestamptz, run_at timestamptz
),
LATERAL (SELECT coalesce(new.run_at, statement_timestamp()) AS at) AS due
"""
# Rows that one statement inserts.
INSERT_ROWS = 10_000

# Rows that one submission of many jobs may write, with the children of its pipelines.
MAX_ROWS_AT_ONCE = 100_000

# PostgreSQL could store more, but Python could not read it, nor the rank computed from it.
RUN_AT_YEARS = range(1970, 9999)

MAX_OWNER_CHARACTERS = 150
MAX_NAME_CHARACTERS = 100
# Of a value that an error shows.
MAX_SHOWN_CHARACTERS = 120

Row = dict[str, Any]


class BadSubmission(Exception):
    """A submission that could never run as asked."""

    def __init__(self, pointer: str, code: str, detail: str) -> None:
        self.problems = [Problem(pointer, code, detail)]
        super().__init__(detail)


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
) -> Job:
    """Accepts one job, with its children, in the caller's transaction if there is one: the job exists if and only
    if what the caller wrote does.

    run_at: not before this time; now if not given. children: as planned by the kind if not given. occurrence: the
    schedule that submits it.

    Raises UnknownKind, BadPayload, BadSubmission or TooManyUnfinished; then nothing was written.
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
    )
    rows, dependencies = _pipeline(job, _planned(kind, payload) if children is None else children)
    with transaction.atomic():
        _check_cap(kind, owner)
        _insert(rows, dependencies)
        return Job.objects.get(id=job["id"])


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


def submit_all(asked: Sequence[tuple[Kind, dict[str, Any]]]) -> list[UUID]:
    """Accepts jobs of any kinds, all or none: each a kind with the options of `submit`, pipelines as their kinds plan
    them. Returns their ids in order.

    Raises BadBatch, or TooManyUnfinished; then nothing was written.
    """
    ids: list[UUID] = []
    rows: list[Row] = []
    dependencies: list[tuple[UUID, UUID]] = []
    problems: list[Problem] = []
    for place, (kind, options) in enumerate(asked):
        try:
            job = _row(kind, **options)
            its_rows, its_dependencies = _pipeline(job, _planned(kind, options["payload"]))
            _check_rows(len(rows) + len(its_rows))
        except (BadPayload, BadSubmission, UnknownKind) as error:
            problems += [each._replace(pointer=f"/{place}{each.pointer}") for each in error.problems]
            continue
        ids.append(job["id"])
        if not problems:  # Else nothing will be written, so nothing is kept.
            rows += its_rows
            dependencies += its_dependencies
    if problems:
        raise BadBatch(problems)
    with transaction.atomic():
        _check_caps(Counter((kind.name, options["owner"]) for kind, options in asked))
        _insert(rows, dependencies)
    return ids


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
) -> list[UUID]:
    """Accepts a job for each payload or Submission, all or none, in bulk; returns their ids in order.

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
    with transaction.atomic(savepoint=False):
        _insert(rows, [])
    return [row["id"] for row in rows]


def goes_one_by_one(kind: Kind) -> bool:
    """Whether `submit_many` refuses the kind: its jobs have children, or are counted."""
    return bool(kind.plan or kind_limits.limits_of(kind).max_unfinished_per_owner)


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
    """Lets a failed or cancelled job run again; of a pipeline, only the children that did not complete do.

    The job has at least one more attempt, and its earlier ones stay on record.

    Raises Job.DoesNotExist, NotRetryable, or TooManyUnfinished as `submit` does.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(id=job_id)
        if job.parent_id or job.pruning or job.status not in (Status.FAILED, Status.CANCELLED):
            raise NotRetryable(job)
        _check_cap(kind_named(job.kind), job.owner)
        kinds = transitions.reopen(job_id)
        audit.record("job.retry", job_id, job.kind, before={"status": job.status})
        bell.ring_after_commit(*kinds)
        transaction.on_commit(partial(pipelines.resolve, job_id))
        retrying()
    return Job.objects.get(id=job_id)


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
) -> Row:
    """A job's columns, checked. Its id is final once `_pipeline` has returned.

    is_template: what the payload refers to is known, and the payload checked, only once earlier steps are done.
    """
    priority = kind.priority if priority is None else priority
    max_attempts = kind.max_attempts if max_attempts is None else max_attempts
    _check_numbers(priority, max_attempts)
    _check_run_at(run_at)
    _check_owner(owner)
    fitting, text = (None, "{}") if is_template else _payload_as_json(kind, payload)
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
        "unresolved": is_template,
        "schedule_id": occurrence and occurrence.schedule_id,
        "scheduled_for": occurrence and occurrence.scheduled_for,
        "run_at": run_at,
        **({} if kind.key is None or is_template else {"limit_key": kind.key_of(fitting)}),
    }


def _check_numbers(priority: int, max_attempts: int) -> None:
    if type(priority) is not int or not 0 <= priority <= 9:
        raise BadSubmission(
            "/priority", "out_of_range", f"The priority must be 0 (most urgent) to 9, not {priority!r}."
        )
    if type(max_attempts) is not int or not 1 <= max_attempts <= MAX_ATTEMPTS:
        raise BadSubmission(
            "/max_attempts", "out_of_range", f"max_attempts must be 1 to {MAX_ATTEMPTS}, not {max_attempts!r}."
        )


def _check_run_at(run_at: datetime | None) -> None:
    if run_at is not None and run_at.utcoffset() is None:
        raise BadSubmission("/run_at", "no_time_zone", f"The time {run_at.isoformat()} needs an offset from UTC.")
    if run_at is not None and run_at.year not in RUN_AT_YEARS:
        raise BadSubmission("/run_at", "out_of_range", f"The year must be 1970 to 9998, not {run_at.isoformat()}.")


def _check_owner(owner: str) -> None:
    if not is_storable(owner, at_most=MAX_OWNER_CHARACTERS):
        raise BadSubmission(
            "/owner",
            "invalid",
            f"An owner may have at most {MAX_OWNER_CHARACTERS} characters, without NUL or lone surrogates, "
            f"not {_shown(owner)}.",
        )


def _payload_as_json(kind: Kind, payload: Any) -> tuple[Any, str]:
    """The payload as the kind's type, and as JSON."""
    try:
        fitting = kind.read_payload({} if payload is None else payload)
        return fitting, as_json(fitting, at_most=settings.ENV.MAX_BODY_BYTES)
    except BadPayload:
        raise
    except NotFinite as error:
        raise BadSubmission(f"/payload{error.pointer}", "not_finite", str(error)) from None
    # A payload may contain objects that raise any exception.
    except Exception as error:
        raise BadSubmission("/payload", "not_storable", f"The payload cannot be stored: {error_of(error)}") from None


def _shown(value: Any) -> str:
    shown = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
    return shown if len(shown) <= MAX_SHOWN_CHARACTERS else f"{shown[:MAX_SHOWN_CHARACTERS]}…"


def _check_name(child: Child, taken: Container[str], pointer: str) -> None:
    if not child.name or not is_storable(child.name, at_most=MAX_NAME_CHARACTERS):
        raise BadSubmission(
            f"{pointer}/name",
            "invalid",
            f"A child's name must have 1 to {MAX_NAME_CHARACTERS} characters, without NUL or lone surrogates, "
            f"not {_shown(child.name)}.",
        )
    if child.name in taken:
        raise BadSubmission(f"{pointer}/name", "duplicate", f"Two children are called {_shown(child.name)}.")


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
            f"{child.name!r} runs after {_shown(unknown[0])}, which is not listed before it.",
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
            kind,
            child.payload if is_template else graphs.literal(child.payload),
            owner=parent["owner"],
            priority=priority,
            run_at=parent["run_at"],
            max_attempts=child.max_attempts,
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
        row["step"] = _step(child, pointer, is_unresolved=row["unresolved"])
        rows.append(row)
        dependencies += [(row["id"], ids[name]) for name in waits_for]
    parent |= {"id": uuid7(), "unfinished_dependencies": len(children)}
    for row in rows:
        row["parent_id"] = parent["id"]
    return [*rows, parent], dependencies


def _step(child: Child, pointer: str, *, is_unresolved: bool) -> Row | None:
    try:
        return graphs.step_of(child, is_unresolved=is_unresolved)
    except graphs.BadReference as error:
        raise BadSubmission(f"{pointer}{error.pointer}", "invalid", str(error)) from None


def _insert(rows: Sequence[Row], dependencies: Sequence[tuple[UUID, UUID]]) -> None:
    steps = [Step(job_id=row["id"], **step) for row in rows if (step := row.pop("step", None))]
    with connection.cursor() as cursor:
        for first in range(0, len(rows), INSERT_ROWS):
            document = msgspec.json.encode(rows[first : first + INSERT_ROWS]).decode()
            parameters: dict[str, Any] = {"rows": document, "priority_step": priority_step()}
            cursor.execute(INSERT, parameters)
    between_inserts()
    Step.objects.bulk_create(steps, batch_size=1_000)
    Dependency.objects.bulk_create(
        [Dependency(job_id=job, depends_on_id=depends_on) for job, depends_on in dependencies], batch_size=1_000
    )
    transaction.on_commit(submission_committed)
    ready = {row["kind"] for row in rows if row["unfinished_dependencies"] == 0}
    bell.ring_after_commit(*ready)


def _check_cap(kind: Kind, owner: str, *, more: int = 1) -> None:
    """Raises TooManyUnfinished where so many more would be too many. Submissions of the same owner and kind wait for
    each other here until they commit.
    """
    most = kind_limits.limits_of(kind).max_unfinished_per_owner
    if most is None or not owner:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{kind.name} {owner}"])
    unfinished = Job.objects.filter(owner=owner, kind=kind.name, parent=None, status__in=UNFINISHED)
    created = list(unfinished.order_by("created_at").values_list("created_at", flat=True))
    if len(created) + more > most:
        since = created[0] if created else timezone.now()
        raise TooManyUnfinished(kind, owner, most, since + kind.typical_duration - timezone.now())
