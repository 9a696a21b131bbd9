"""Unique jobs: which job holds a key, and what a submission of the same makes of it. No status moves here.

A key is held by the one unfinished job that has it, which a unique index ensures, whatever happens: a retry stays in
it, and who is to be let in waits for a submission that has not committed yet. Claims do not know of keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import IntegrityError, connection

from orchestrator.inputs import BadSubmission
from orchestrator.kinds import Kind
from orchestrator.states import Status
from orchestrator.unique import BadUnique, Unique

# A new job's columns, as they will be inserted.
Row = dict[str, Any]

# A new job and what makes it unique.
Keyed = tuple[Row, Unique]

# The partial index that has a key only once.
CONSTRAINT = "job_is_unique_while_unfinished"

# Appended to an INSERT of jobs with keys: one whose key is held is left out. It waits for who else is inserting it.
UNLESS_HELD = """
ON CONFLICT (unique_key) WHERE status IN ('CREATED', 'RUNNING') AND unique_key IS NOT NULL DO NOTHING
"""

# Who holds which of the keys.
HOLDERS = """
SELECT asked.key, holder.id, holder.kind, holder.owner, holder.status, holder.attempt
FROM unnest(%(keys)s::uuid[]) AS asked (key), LATERAL (
    SELECT id, kind, owner, status, attempt FROM orchestrator_job
    WHERE unique_key = asked.key AND status IN ('CREATED', 'RUNNING')
    UNION ALL
    SELECT id, kind, owner, status, attempt FROM orchestrator_job
    WHERE unique_key = asked.key AND status = 'COMPLETED' AND unique_until > statement_timestamp()
) AS holder
"""

# Jobs that have not started get new payloads and starts. What somebody holds is about to start, or to be changed. At
# its new start, or if a limit has blocked it, the tick makes a job ready; its place in the queue moves with its start.
CHANGE = """
WITH new AS MATERIALIZED (
    SELECT id, payload, limit_key, run_at
    FROM json_to_recordset(%(rows)s) AS new (id uuid, payload jsonb, limit_key text, run_at timestamptz)
), unstarted AS MATERIALIZED (
    SELECT id FROM orchestrator_job
    WHERE id = ANY(%(ids)s::uuid[]) AND status = 'CREATED' AND attempt = 0
    ORDER BY id FOR UPDATE SKIP LOCKED
)
UPDATE orchestrator_job job
SET payload = new.payload,
    limit_key = new.limit_key,
    blocked_by = NULL,
    run_at = {due},
    rank = job.rank + ({due} - job.run_at),
    ready = job.ready AND {due} <= statement_timestamp(),
    updated_at = clock_timestamp()
FROM new JOIN unstarted ON unstarted.id = new.id
WHERE job.id = new.id AND job.id = ANY(%(ids)s::uuid[])
RETURNING job.id
"""
REPLACE = CHANGE.format(due="least(job.run_at, coalesce(new.run_at, statement_timestamp()))")
POSTPONE = CHANGE.format(
    due="greatest(job.run_at, least(statement_timestamp() + %(wait)s * interval '1 second', "
    "job.created_at + %(longest_wait)s * interval '1 second'))"
)


class Taken(Exception):
    """Somebody else has submitted the same meanwhile, and nothing was inserted: look who holds the key."""


class Holder(NamedTuple):
    """The job that holds a key."""

    id: UUID
    kind: str
    owner: str
    status: str
    attempt: int


class NotUnique(Exception):
    """There is already such a job, `job_id`, and it is not to be returned or can no longer be changed."""

    def __init__(self, holder: Holder, *, owner: str, to: str = "") -> None:
        self.job_id = holder.id
        which = f"The job {holder.id}" if holder.owner == owner else "A job of somebody else"
        message = f"{which} of kind {holder.kind!r} has the same unique key and "
        if holder.status == Status.COMPLETED:
            message += "has completed within the period; submit this one after it."
        elif to and (holder.attempt or holder.status != Status.CREATED):
            message += f"has started, so it can no longer be {to}; submit this one when it has ended."
        elif to:
            message += "is about to start or being changed right now; submit this one again."
        else:
            message += f"is {holder.status}; wait for its end, or cancel it."
        super().__init__(message)


def make_unique(
    row: Row, kind: Kind, unique: Unique | None, unique_for: timedelta | None, *, is_pipeline: bool = False
) -> Unique | None:
    """Gives a new job the key that the same jobs have; returns what is to be done about one that holds it, None where
    jobs may be equal.

    Raises BadSubmission for what cannot be asked for.
    """
    try:
        unique = unique or kind.unique
        if unique_for is not None:
            unique = replace(unique or Unique(), for_seconds=unique_for.total_seconds())
        if unique is not None:
            _give_key(row, kind, unique, is_pipeline)
    except BadUnique as error:
        raise BadSubmission(f"/unique/{error.field}", "invalid", str(error)) from None
    return unique


def _give_key(row: Row, kind: Kind, unique: Unique, is_pipeline: bool) -> None:
    if is_pipeline and unique.changes_jobs:
        raise BadUnique(
            "on_conflict",
            "The children of a pipeline are planned from its payload, so it can be neither replaced nor postponed: "
            "use return or refuse.",
        )
    if unique.wait_seconds is not None and row["run_at"]:
        raise BadUnique("wait_seconds", "A job that waits so long has no run_at; give one of them.")
    row["unique_key"] = unique.key_of(kind.name, row["owner"], bytes(row["payload"]), known=kind.payload_fields)
    row["unique_for"] = unique.for_seconds or None
    row["wait"] = unique.wait_seconds


def first_of_each(new: Iterable[Keyed]) -> dict[UUID, Keyed]:
    """The new jobs without those that equal an earlier one, by their keys; with the last payload where it replaces
    the others. Raises BadSubmission where one is to be refused.
    """
    first: dict[UUID, Keyed] = {}
    for row, unique in new:
        same, _ = first.setdefault(row["unique_key"], (row, unique))
        if same is not row and unique.on_conflict == "refuse":
            raise BadSubmission("/unique", "not_unique", f"Two of the jobs of kind {row['kind']!r} are the same.")
        if unique.changes_jobs:
            same["payload"] = row["payload"]
    return first


def settle(new: Sequence[Keyed]) -> dict[UUID, Holder]:
    """Does with the jobs that hold the keys of these new ones what is to be done; returns them by their keys.

    A key that is missing in it was free. Raises NotUnique.
    """
    held = holders(row["unique_key"] for row, _ in new) if new else {}
    conflicts = [(row, unique) for row, unique in new if row["unique_key"] in held] if held else []
    changes = defaultdict[tuple[Any, ...], list[Row]](list)
    for row, unique in conflicts:
        if unique.on_conflict == "refuse":
            raise NotUnique(held[row["unique_key"]], owner=row["owner"])
        if unique.changes_jobs:
            changes[unique.on_conflict, unique.wait_seconds, unique.longest_wait].append(row)
    for how, rows in changes.items():
        _change(rows, held, *how)
    return held


def holders(keys: Iterable[UUID]) -> dict[UUID, Holder]:
    """Who holds which of the keys, of those that are held."""
    # An unfinished one counts: only a retry can have let it in beside one that has completed.
    return dict(sorted(_found(keys), key=lambda each: each[1].status != Status.COMPLETED))


def require_still_free(inserted: Sequence[Row]) -> None:
    """Raises Taken if a job that keeps the key of one of these has completed while this transaction inserted it.

    While they are not committed nobody else can insert such a job.
    """
    rows = {row["unique_key"]: row["id"] for row in inserted if row["unique_for"]}
    if rows and any(holder.id != rows[key] for key, holder in _found(rows)):
        raise Taken


def _found(keys: Iterable[UUID]) -> list[tuple[UUID, Holder]]:
    with connection.cursor() as cursor:
        cursor.execute(HOLDERS, {"keys": [str(key) for key in keys]})
        return [(key, Holder(*holder)) for key, *holder in cursor.fetchall()]


def _change(
    rows: Sequence[Row], held: Mapping[UUID, Holder], on_conflict: str, wait: float | None, longest_wait: float
) -> None:
    columns = ("payload", "limit_key", "run_at")
    new = [{"id": held[row["unique_key"]].id} | {name: row.get(name) for name in columns} for row in rows]
    with connection.cursor() as cursor:
        cursor.execute(
            REPLACE if on_conflict == "replace" else POSTPONE,
            {
                "ids": [str(each["id"]) for each in new],
                "rows": msgspec.json.encode(new).decode(),
                "wait": wait,
                "longest_wait": longest_wait,
            },
        )
        changed = {id for (id,) in cursor.fetchall()}
    for row in rows:
        holder = held[row["unique_key"]]
        if holder.id not in changed:
            raise NotUnique(holder, owner=row["owner"], to="replaced" if on_conflict == "replace" else "postponed")


def is_duplicate(error: IntegrityError) -> bool:
    """Whether it says that another unfinished job has the key."""
    return getattr(getattr(error.__cause__, "diag", None), "constraint_name", None) == CONSTRAINT
