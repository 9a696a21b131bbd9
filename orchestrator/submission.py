"""What a client may ask for: submit, cancel and retry jobs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q, Value
from django.db.models.functions import Greatest, Now
from django.utils import timezone

from orchestrator import bell, pipelines
from orchestrator.failpoints import Failpoint
from orchestrator.ids import uuid7
from orchestrator.kinds import MOST_ATTEMPTS, BadPayload, Kind, Problem, kind_named
from orchestrator.models import Dependency, Job
from orchestrator.states import FINAL, UNFINISHED, Status
from orchestrator.storable import as_json, as_text

between_inserts = Failpoint("submission-between-inserts")
submission_committed = Failpoint("submission-committed")
cancelling = Failpoint("cancelling")
retrying = Failpoint("retrying")

# Jobs as they are accepted. Whatever is due and waits for nothing is ready. Times are PostgreSQL's.
# They travel as one JSON document, which takes a tenth of the time of as many quoted values.
INSERT = """
INSERT INTO orchestrator_job (
    id, kind, queue, owner, priority, payload, max_attempts, parent_id, name, unfinished_dependencies,
    run_at, rank, ready
)
SELECT new.id, new.kind, new.queue, new.owner, new.priority, new.payload, new.max_attempts, new.parent_id, new.name,
       new.unfinished_dependencies,
       due.at, due.at + new.priority * %(priority_step)s,
       new.unfinished_dependencies = 0 AND due.at <= statement_timestamp()
FROM json_to_recordset(%(rows)s) AS new (
    id uuid, kind text, queue text, owner text, priority integer, payload jsonb, max_attempts integer,
    parent_id uuid, name text, unfinished_dependencies integer, run_at timestamptz
),
LATERAL (SELECT coalesce(new.run_at, statement_timestamp()) AS at) AS due
"""
# Rows that one statement inserts.
INSERT_ROWS = 10_000

# PostgreSQL could hold more, but Python could not read it back, nor the rank that follows from it.
RUN_AT_YEARS = range(1970, 9999)

Row = dict[str, Any]


class BadSubmission(Exception):
    """A submission that could never run as asked."""

    def __init__(self, pointer: str, code: str, detail: str) -> None:
        self.problems = [Problem(pointer, code, detail)]
        super().__init__(detail)


class TooManyUnfinished(Exception):
    """The owner has as many unfinished jobs of the kind as it allows; `retry_after` says when one may be done."""

    def __init__(self, kind: Kind, owner: str, retry_after: timedelta) -> None:
        self.retry_after_seconds = max(1, math.ceil(retry_after.total_seconds()))
        super().__init__(
            f"{owner!r} already has {kind.max_unfinished_per_owner} unfinished jobs of kind {kind.name!r}, which is "
            f"the most allowed. Wait for one to end, or cancel one; try again in {self.retry_after_seconds} s."
        )


class NotCancellable(Exception):
    """The job has ended another way already."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"The job is already {job.status}; only a CREATED or RUNNING job can be cancelled.")


class NotRetryable(Exception):
    """Only a job that failed or was cancelled, and is no child, can be tried again."""

    def __init__(self, job: Job) -> None:
        if job.parent_id:
            message = f"The job is the child {job.name!r} of a pipeline: retry its parent, {job.parent_id}."
        elif job.pruning:
            message = "The job ended so long ago that it is just being deleted; submit it anew."
        else:
            message = f"The job is {job.status}; only a FAILED or CANCELLED job can be retried."
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Child:
    """A step of a pipeline. It starts once every step named in `after`, listed before it, has completed."""

    name: str
    kind: str
    payload: Any = field(default_factory=dict)
    after: Sequence[str] = ()
    priority: int | None = None


def submit(
    kind: str | Kind,
    payload: Any = None,
    *,
    owner: str = "",
    priority: int | None = None,
    run_at: datetime | None = None,
    max_attempts: int | None = None,
    children: Sequence[Child] | None = None,
) -> Job:
    """Accepts one job, with its children, in the caller's transaction if there is one: the job exists if and only
    if what the caller wrote does.

    run_at: not before this time; now if not given. children: as planned by the kind if not given.

    Raises UnknownKind, BadPayload, BadSubmission or TooManyUnfinished; then nothing was written.
    """
    kind = kind if isinstance(kind, Kind) else kind_named(kind)
    job = _row(kind, payload, owner=owner, priority=priority, run_at=run_at, max_attempts=max_attempts)
    if children is None:
        children = kind.plan(kind.read_payload({} if payload is None else payload)) if kind.plan else ()
    rows, dependencies = _pipeline(job, children)
    with transaction.atomic():
        _check_cap(kind, owner)
        _insert(rows, dependencies)
        return Job.objects.get(id=job["id"])


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One job among many, where their owners or priorities differ."""

    payload: Any
    owner: str = ""
    priority: int | None = None


def submit_many(
    kind: str | Kind, payloads: Iterable[Any], *, owner: str = "", priority: int | None = None
) -> list[UUID]:
    """Accepts a job for each payload or Submission, all or none, set-wise; answers their ids in order.

    Raises as `submit` does.
    """
    kind = kind if isinstance(kind, Kind) else kind_named(kind)
    if kind.plan or kind.max_unfinished_per_owner:
        raise BadSubmission("/kind", "one_by_one", f"Jobs of kind {kind.name!r} are submitted one by one.")
    rows = [
        _row(kind, each.payload, owner=each.owner, priority=each.priority)
        if isinstance(each, Submission)
        else _row(kind, each, owner=owner, priority=priority)
        for each in payloads
    ]
    with transaction.atomic(savepoint=False):
        _insert(rows, [])
    return [row["id"] for row in rows]


def cancel(job_id: UUID) -> Job:
    """Asks for a job to be cancelled, with its children, and answers it as it is then: CANCELLED at once if nothing of
    it runs, else still RUNNING until its handler notices.

    Raises Job.DoesNotExist, or NotCancellable if it ended another way. Asking again is harmless.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(id=job_id)
        if job.status == Status.CANCELLED:
            return job
        if job.status in FINAL:
            raise NotCancellable(job)
        this = Job.objects.filter(id=job_id)
        is_pipeline = job.worker_id is None and job.children.exists()
        if is_pipeline:
            this.update(cancel_requested_at=Now(), unwinding=True, ready=False, updated_at=Now())
            pipelines.unwind(job_id)
        elif job.worker_id is None:
            this.update(
                status=Status.CANCELLED, cancel_requested_at=Now(), ready=False, finished_at=Now(), updated_at=Now()
            )
            if job.parent_id:
                job.status = Status.CANCELLED
                pipelines.child_stopped(job)
        elif job.cancel_requested_at is None:
            this.update(cancel_requested_at=Now(), updated_at=Now())
        cancelling()
    return Job.objects.get(id=job_id)


def retry(job_id: UUID) -> Job:
    """Gives a failed or cancelled job another try; of a pipeline, only what did not complete is run again.

    The job has at least one attempt from now on, and its earlier ones stay on record.

    Raises Job.DoesNotExist, NotRetryable, or TooManyUnfinished as `submit` does.
    """
    with transaction.atomic():
        job = Job.objects.select_for_update().get(id=job_id)
        if job.parent_id or job.pruning or job.status not in (Status.FAILED, Status.CANCELLED):
            raise NotRetryable(job)
        _check_cap(kind_named(job.kind), job.owner)
        again = Job.objects.filter(id=job_id) | Job.objects.filter(
            parent=job_id, status__in=(Status.FAILED, Status.CANCELLED)
        )
        kinds = set(again.values_list("kind", flat=True))
        again.update(
            status=Status.CREATED,
            ready=Q(unfinished_dependencies=0),
            max_attempts=Greatest("max_attempts", F("attempt") + 1),
            run_at=Now(),
            rank=Now() + F("priority") * Value(priority_step()),
            error="",
            cancel_requested_at=None,
            finished_at=None,
            started_at=None,
            progress_message="",
            updated_at=Now(),
        )
        bell.ring_after_commit(*(kind_named(name) for name in kinds))
        retrying()
    return Job.objects.get(id=job_id)


def priority_step() -> timedelta:
    return timedelta(seconds=settings.ENV.PRIORITY_STEP_SECONDS)


def _row(
    kind: Kind,
    payload: Any,
    *,
    owner: str,
    priority: int | None = None,
    run_at: datetime | None = None,
    max_attempts: int | None = None,
) -> Row:
    """A job's columns, checked. Its id is given last of all, see `_pipeline`."""
    priority = kind.priority if priority is None else priority
    max_attempts = kind.max_attempts if max_attempts is None else max_attempts
    if type(priority) is not int or not 0 <= priority <= 9:
        raise BadSubmission("/priority", "out_of_range", f"A priority is 0 (most urgent) to 9, not {priority!r}.")
    if type(max_attempts) is not int or not 1 <= max_attempts <= MOST_ATTEMPTS:
        raise BadSubmission("/max_attempts", "out_of_range", f"1 to {MOST_ATTEMPTS} attempts, not {max_attempts!r}.")
    if run_at is not None and run_at.utcoffset() is None:
        raise BadSubmission("/run_at", "no_time_zone", f"A time with its offset from UTC, not {run_at.isoformat()}.")
    if run_at is not None and run_at.year not in RUN_AT_YEARS:
        raise BadSubmission("/run_at", "out_of_range", f"A year from 1970 to 9998, not {run_at.isoformat()}.")
    if len(owner) > 150 or owner != as_text(owner, at_most=150):
        raise BadSubmission("/owner", "invalid", "An owner has at most 150 characters, each of which can be stored.")
    try:
        fitting = kind.read_payload({} if payload is None else payload)
        text = as_json(fitting, at_most=settings.ENV.MAX_BODY_BYTES)
    except BadPayload:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise BadSubmission("/payload", "not_storable", f"The payload cannot be kept: {error}") from None
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
        "run_at": run_at,
    }


def _pipeline(parent: Row, children: Sequence[Child]) -> tuple[list[Row], list[tuple[UUID, UUID]]]:
    """The rows of a job and its children with ids that rise from a step to what waits for it, and the dependencies."""
    if len(children) > settings.ENV.MAX_CHILDREN:
        raise BadSubmission(
            "/children",
            "too_many",
            f"A pipeline has at most {settings.ENV.MAX_CHILDREN:,} children, not {len(children):,}.",
        )
    ids: dict[str, UUID] = {}
    rows: list[Row] = []
    dependencies: list[tuple[UUID, UUID]] = []
    for position, child in enumerate(children):
        pointer = f"/children/{position}"
        if not 0 < len(child.name) <= 100 or child.name in ids:
            raise BadSubmission(f"{pointer}/name", "invalid", f"{child.name!r} is no name, too long or used twice.")
        # Not by `- ids.keys()`, which looks at every name there is.
        if unknown := sorted({name for name in child.after if name not in ids}):
            raise BadSubmission(
                f"{pointer}/after", "unknown", f"{child.name!r} comes after {unknown}, not listed before it."
            )
        kind = kind_named(child.kind)
        if kind.plan:
            raise BadSubmission(f"{pointer}/kind", "nested", f"{kind.name!r} is a pipeline itself, so it is no child.")
        row = _row(
            kind,
            child.payload,
            owner=parent["owner"],
            priority=parent["priority"] if child.priority is None else child.priority,
            run_at=parent["run_at"],
        )
        ids[child.name] = row["id"]
        row |= {"name": child.name, "unfinished_dependencies": len(set(child.after))}
        rows.append(row)
        dependencies += [(row["id"], ids[name]) for name in sorted(set(child.after))]
    parent |= {"id": uuid7(), "unfinished_dependencies": len(children)}
    for row in rows:
        row["parent_id"] = parent["id"]
    return [*rows, parent], dependencies


def _insert(rows: Sequence[Row], dependencies: Sequence[tuple[UUID, UUID]]) -> None:
    with connection.cursor() as cursor:
        for first in range(0, len(rows), INSERT_ROWS):
            document = msgspec.json.encode(rows[first : first + INSERT_ROWS]).decode()
            parameters: dict[str, Any] = {"rows": document, "priority_step": priority_step()}
            cursor.execute(INSERT, parameters)
    between_inserts()
    Dependency.objects.bulk_create(
        [Dependency(job_id=job, depends_on_id=depends_on) for job, depends_on in dependencies], batch_size=1_000
    )
    transaction.on_commit(submission_committed)
    ready = {row["kind"] for row in rows if row["unfinished_dependencies"] == 0}
    bell.ring_after_commit(*(kind_named(name) for name in ready))


def _check_cap(kind: Kind, owner: str) -> None:
    """Refuses one job too many. Submissions of the same owner and kind wait for each other here, until they commit."""
    if not kind.max_unfinished_per_owner or not owner:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"{kind.name} {owner}"])
    unfinished = Job.objects.filter(owner=owner, kind=kind.name, parent=None, status__in=UNFINISHED)
    created = list(unfinished.order_by("created_at").values_list("created_at", flat=True))
    if len(created) >= kind.max_unfinished_per_owner:
        raise TooManyUnfinished(kind, owner, created[0] + kind.typical_duration - timezone.now())
