"""Reads: which jobs someone sees, jobs as they are shown, kinds, and the end of a job."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import BooleanField, CharField, Field, JSONField, Model, QuerySet
from django.db.models.expressions import RawSQL
from django.utils import timezone

from access.models import AuditEntry
from access.permissions import (
    User,
    is_visible,
    owners_named,
    require_granted,
    visibility_params,
    visible,
)
from orchestrator.kinds import Kind as DeclaredKind
from orchestrator.kinds import all_kinds, known_kind
from orchestrator.limits import merged
from orchestrator.models import Attempt, Job, Kind
from orchestrator.queue.waits import LimitWait, limit_of_lane, limit_wait
from orchestrator.rollups import reading
from orchestrator.rollups.reading import NO_TIMES
from orchestrator.states import FINAL, Status

Row = TypeVar("Row", bound=Model)

ORCHESTRATION = "orchestration.two_batches"
# Ids hold the time of the web process that made them, created_at that of PostgreSQL.
CLOCKS_AGREE_WITHIN_SECONDS = 3_600
# A job's children by status; NULL for a job without any.
CHILDREN_COUNTS = """
SELECT json_build_object(
    'total', count(*),
    'created', count(*) FILTER (WHERE child.status = 'CREATED'),
    'running', count(*) FILTER (WHERE child.status = 'RUNNING'),
    'completed', count(*) FILTER (WHERE child.status = 'COMPLETED'),
    'failed', count(*) FILTER (WHERE child.status = 'FAILED'),
    'cancelled', count(*) FILTER (WHERE child.status = 'CANCELLED')
)
FROM orchestrator_job child
WHERE child.parent_id = orchestrator_job.id
HAVING count(*) > 0
"""
# A job's checkpoints, in order, without their results; NULL for none.
CHECKPOINTS = """
SELECT json_agg(json_build_object('name', name, 'ended_at', ended_at, 'seconds', seconds) ORDER BY id)
FROM orchestrator_checkpoint
WHERE job_id = orchestrator_job.id
"""
# The signal that a job waits for, and for nothing else.
AWAITED_SIGNAL = """
SELECT signal FROM orchestrator_step
WHERE job_id = orchestrator_job.id AND waits_since IS NOT NULL AND orchestrator_job.status = 'CREATED'
"""
# Whether nothing of a job's kind is to be started.
PAUSED = """
CASE WHEN EXISTS (SELECT FROM orchestrator_kind kind
                  WHERE kind.name = orchestrator_job.kind AND kind.paused_at IS NOT NULL) THEN 'paused_kind'
     WHEN EXISTS (SELECT FROM orchestrator_ownershare share
                  WHERE share.owner = orchestrator_job.owner AND share.paused_at IS NOT NULL) THEN 'paused_owner'
END
"""
# The second, while a job may wait for a limit: how long that takes changes with what is not its own.
LIMITS_SEEN_AT = """
CASE WHEN orchestrator_job.finished_at IS NULL AND orchestrator_job.worker_id IS NULL
      AND EXISTS (SELECT FROM orchestrator_kind kind WHERE kind.name = orchestrator_job.kind AND kind.limited)
     THEN date_trunc('second', statement_timestamp())
END
"""
# Whether a job's time has come, by the clock that decides.
IS_DUE = "orchestrator_job.run_at <= statement_timestamp()"
# Whether the user may see a job.
IS_VISIBLE = is_visible("orchestrator_job")
# All columns of a job. Psycopg2 reads json as what it holds, jsonb as text for Django.
COLUMNS = {
    field.attname: f"orchestrator_job.{field.column}" + ("::json" if isinstance(field, JSONField) else "")
    for field in Job._meta.concrete_fields
}
# What clients read again and again is SQL: the ORM takes three times as long to write it as PostgreSQL to run it.
# A job with all that the API shows of it but its attempts.
SHOWN_JOB = f"""
SELECT {", ".join(COLUMNS.values())}, ({CHILDREN_COUNTS}), {PAUSED}, {IS_DUE}, {LIMITS_SEEN_AT},
       ({AWAITED_SIGNAL}),
       ({CHECKPOINTS})
FROM orchestrator_job
WHERE id = %(id)s AND {IS_VISIBLE}
"""  # noqa: S608 It is made of constants.
# What the API shows of a job changes with its updated_at, which every move writes (except the start of a parent, which
# shows in its status), and with what is not its own: its children, its kind and the time.
VERSION = ("updated_at", "status", "children_counts", "paused", "is_due", "limits_seen_at")
JOB_VERSION = f"""
SELECT updated_at, status, ({CHILDREN_COUNTS}), {PAUSED}, {IS_DUE}, {LIMITS_SEEN_AT}
FROM orchestrator_job
WHERE id = %(id)s AND {IS_VISIBLE}
"""  # noqa: S608
# What the API shows of an orchestration, in the order of the columns.
STATUS = ("id", "status", "result", "error", "created_at", "updated_at")
ORCHESTRATION_STATUS = f"""
SELECT {", ".join(COLUMNS[name] for name in STATUS)}
FROM orchestrator_job
WHERE id = %(id)s AND owner = ANY(%(owners)s) AND kind = %(kind)s AND parent_id IS NULL
  AND {IS_VISIBLE}
"""  # noqa: S608
# What handlers have logged of a job, in the order in which it was written. A line is found by its row and its number.
LOG_LINES = """
SELECT log.id, (line ->> 0)::int, log.attempt, (line ->> 1)::float8, line ->> 2, line ->> 3, line ->> 4
FROM orchestrator_attemptlog log, jsonb_array_elements(log.lines) line
WHERE log.job_id = %(id)s AND (%(attempt)s IS NULL OR log.attempt = %(attempt)s)
  AND log.id >= %(row)s AND (log.id, (line ->> 0)::int) > (%(row)s, %(number)s)
ORDER BY log.id {order}, (line ->> 0)::int {order}
LIMIT %(limit)s
"""
# How often a request that waits for a job looks at it: soon at first, then less and less often.
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.05, 0.5

Version = tuple[Any, ...]

if TYPE_CHECKING:

    class JobDetail(Job):
        """A job with its surroundings, as `job_detail` and `with_details` read it."""

        children_counts: dict[str, int] | None
        paused: str | None
        is_due: bool
        awaited_signal: str | None
        failed_attempts: list[Attempt]
        # Only in `job_detail`.
        passed_checkpoints: list[dict[str, Any]]
        limits_seen_at: datetime | None
        limit_wait: LimitWait | None


def visible_jobs(user: User) -> QuerySet[Job]:
    """The jobs the user may see."""
    return visible(Job.objects.all(), user)


def orchestration_of(user: User, username: str, job_id: UUID) -> Job:
    """The two-batch orchestration of that id and username, as far as it is shown; raises Job.DoesNotExist if
    the user may not see it.
    """
    owners = owners_named(user, username)
    row = _visible_row(ORCHESTRATION_STATUS, user, id=job_id, owners=owners, kind=ORCHESTRATION)
    return Job.from_db(connection.alias, STATUS, row)


def job_detail(user: User, job_id: UUID) -> JobDetail:
    """The job with all that is shown of it; raises Job.DoesNotExist likewise."""
    *columns, children_counts, paused, is_due, limits_seen_at, signal, checkpoints = _visible_row(
        SHOWN_JOB, user, id=job_id
    )
    job = cast("JobDetail", Job.from_db(connection.alias, list(COLUMNS), columns))
    job.children_counts, job.paused, job.is_due = children_counts, paused, is_due
    job.awaited_signal = signal
    job.passed_checkpoints = [
        each | {"ended_at": datetime.fromisoformat(each["ended_at"])} for each in checkpoints or ()
    ]
    job.limits_seen_at = limits_seen_at
    job.limit_wait = limit_wait(job) if limits_seen_at and is_due and not job.unfinished_dependencies else None
    add_attempts([job])
    return job


def version_of(user: User, job_id: UUID) -> Version:
    """What changes whenever something shown of the job does, read without the rest; raises Job.DoesNotExist
    likewise.
    """
    return _visible_row(JOB_VERSION, user, id=job_id)


def version_in(job: JobDetail) -> Version:
    """The version of a job as it was read."""
    return tuple(getattr(job, name) for name in VERSION)


def _visible_row(sql: str, user: User, **parameters: Any) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters | visibility_params(user, Job))
        row: tuple[Any, ...] | None = cursor.fetchone()
    if row is None:
        raise Job.DoesNotExist
    return row


def with_details(jobs: QuerySet[Job]) -> QuerySet[JobDetail]:
    """The jobs with all that a list shows of them; the page's attempts are left to `add_attempts`."""
    return _with_surroundings(jobs).defer("payload")


def _with_surroundings(jobs: QuerySet[Job]) -> QuerySet[JobDetail]:
    """Each with `children_counts`, and with what `waiting_for` needs, in the one statement that reads it."""
    # SQL, since making it out of the ORM's expressions takes as long as all the rest of a submission (7 ms).
    with_surroundings = jobs.annotate(
        children_counts=RawSQL(CHILDREN_COUNTS, (), Field()),  # noqa: S611 - a constant
        paused=RawSQL(PAUSED, (), CharField()),  # noqa: S611 - a constant
        awaited_signal=RawSQL(AWAITED_SIGNAL, (), CharField()),  # noqa: S611 - a constant
        is_due=RawSQL(IS_DUE, (), BooleanField()),  # noqa: S611 - a constant
    )
    return cast("QuerySet[JobDetail]", with_surroundings)


def add_attempts(jobs: Collection[JobDetail]) -> None:
    """Sets each job's `failed_attempts`, oldest first, with one statement for all of them, or none if none has any."""
    tried = {job.id: job for job in jobs if _most_failed(job)}
    for job in jobs:
        job.failed_attempts = []
    if tried:
        for attempt in Attempt.objects.filter(job__in=tried).order_by("id"):
            tried[attempt.job_id].failed_attempts.append(attempt)


def _most_failed(job: Job) -> int:
    """As many attempts can have failed: each has a number of its own, and the latest may run, or have completed it."""
    return job.attempt - (job.status == Status.COMPLETED or job.worker_id is not None)


def waiting_for(job: JobDetail) -> str | None:
    """What a shown job waits for before it can go on; None when it runs or has ended."""
    if job.status in FINAL or job.worker_id:
        return None
    if job.unfinished_dependencies:
        return "signal" if job.awaited_signal else "dependencies"
    if not job.is_due and not job.ready:
        return ("retry" if job.error else "snooze") if job.attempt else "start_time"
    if job.paused:
        return job.paused
    if job.blocked_by:
        return limit_of_lane(job.blocked_by)
    wait: LimitWait | None = getattr(job, "limit_wait", None)
    return wait.limit if wait else "worker"


def expected_seconds(job: JobDetail) -> int | None:
    """About how long a job has to wait for a limit; None if it waits for none, or if no job of its kind has ended."""
    wait = job.limit_wait
    if wait is None:
        return None
    if wait.seconds is not None:
        return math.ceil(wait.seconds)
    now = timezone.now()
    _, runs = reading.times(now).get(job.kind, (NO_TIMES, NO_TIMES))
    return None if runs.median is None else math.ceil(wait.rounds * runs.median)


def created_between(rows: QuerySet[Row], after: datetime | None, before: datetime | None) -> QuerySet[Row]:
    """Those created at or after the one and before the other time.

    Ids rise with time, so the primary key leads to them, however many are newer.
    """
    if after:
        rows = rows.filter(created_at__gte=after, id__gte=least_id(after.timestamp() - CLOCKS_AGREE_WITHIN_SECONDS))
    if before:
        rows = rows.filter(created_at__lt=before, id__lte=least_id(before.timestamp() + CLOCKS_AGREE_WITHIN_SECONDS))
    return rows


def least_id(timestamp: float) -> UUID:
    """No version 7 UUID made at that time or later is less."""
    milliseconds = min(max(0, int(timestamp * 1000)), 2**48 - 1)
    return UUID(int=milliseconds << 80)


def audit_trail(user: User, filters: Mapping[str, Any]) -> QuerySet[AuditEntry]:
    """The entries that fit: actor__in, action, object_id, since, until. Raises NotPermitted."""
    require_granted(user, "access.view_auditentry")
    renamed = {"object": "object_id", "since": "at__gte", "until": "at__lt"}
    return AuditEntry.objects.filter(**{renamed.get(name, name): value for name, value in filters.items()})


class LogLine(NamedTuple):
    """row, number: where it is stored. number counts from 1 within the attempt, also what was not kept."""

    row: int
    number: int
    attempt: int
    at: datetime
    level: str
    logger: str
    message: str


def log_lines(
    job_id: UUID, *, limit: int, attempt: int | None = None, after: tuple[int, int] = (0, 0), newest: bool = False
) -> list[LogLine]:
    """What the job's handler has logged, in its order: the first lines after that row and number, or the newest."""
    sql = LOG_LINES.format(order="DESC" if newest else "ASC")
    row, number = after
    with connection.cursor() as cursor:
        cursor.execute(sql, {"id": job_id, "attempt": attempt, "row": row, "number": number, "limit": limit})
        found = [
            LogLine(row, number, attempt, datetime.fromtimestamp(at, UTC), *texts)
            for row, number, attempt, at, *texts in cursor.fetchall()
        ]
    return found[::-1] if newest else found


def known_kinds() -> list[dict[str, Any]]:
    """The kinds there are, each with when it was paused, if it is, and its limits."""
    rows = {row.name: row for row in Kind.objects.all()}
    return [_known_kind(kind, rows.get(kind.name)) for kind in all_kinds()]


def kind_detail(name: str) -> dict[str, Any]:
    """The kind of that name likewise; raises Kind.DoesNotExist."""
    kind, row = known_kind(name), Kind.objects.filter(name=name).first()
    if kind is None:
        raise Kind.DoesNotExist
    return _known_kind(kind, row)


def _known_kind(kind: DeclaredKind, row: Kind | None) -> dict[str, Any]:
    """declared, changed: its limits by its code, and what operators have set instead."""
    declared, changed = (row.declared_limits, row.limits) if row else (kind.limits.as_json(), {})
    return {
        "kind": kind,
        "paused_at": row.paused_at if row else None,
        "limits": merged(declared, changed),
        "declared": declared,
        "changed": changed,
    }


def wait_until_ended(jobs: QuerySet[Job], job_id: UUID, seconds: float, *, user_id: int | None = None) -> None:
    """Returns once the job has ended or is gone, after so many seconds, or at once if too many wait here already, or
    too many of that user.

    Asks PostgreSQL now and then, and holds no transaction meanwhile.
    """
    deadline = time.monotonic() + min(seconds, settings.ENV.MAX_WAIT_SECONDS)
    pause = FIRST_LOOK_SECONDS
    unfinished = jobs.filter(id=job_id).exclude(status__in=FINAL)
    with place_to_wait(user_id) as has_place:
        while has_place and unfinished.exists() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LAST_LOOK_SECONDS)


# How many requests wait, by the ids of their users; None for anonymous ones, which are not distinguished.
waiting: Counter[int | None] = Counter()
_lock = threading.Lock()


@contextmanager
def place_to_wait(user_id: int | None) -> Iterator[bool]:
    """Whether this process has a thread to spare for waiting. A user has a quarter of them, to leave others some."""
    total = settings.ENV.MAX_WAITERS
    with _lock:
        own = total if user_id is None else max(1, total // 4)
        has_place = waiting.total() < total and waiting[user_id] < own
        waiting[user_id] += has_place
    try:
        yield has_place
    finally:
        with _lock:
            waiting.subtract({user_id: int(has_place)})
            if not waiting[user_id]:
                del waiting[user_id]
