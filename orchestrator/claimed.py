"""What a claim reads of a job."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from orchestrator.attempt.session import BEGAN_AT


class Claimed(msgspec.Struct):
    """The columns that a claim reads of a job, in the order of `CLAIMED`. A model instance takes ten times as long."""

    id: UUID
    kind: str
    owner: str
    name: str
    priority: int
    payload: str  # As JSON.
    attempt: int
    max_attempts: int
    parent_id: UUID | None
    runs_alone: bool
    worker_id: int | None
    worker_name: str
    progress_done: int | None
    progress_total: int | None
    progress_message: str
    limit_key: str | None
    notify: list[UUID] | None
    traceparent: str | None
    waited_since: datetime | None  # Since when it could have started, if it is traced.
    watched_since: datetime | None  # When the last notification changed that jobs need not name.
    began_at: int  # Of the claim's transaction.
    claimed_at: datetime
    # Where its claim has put the row in the table, if it has written it. It moves when it is written again.
    ctid: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


WATCHED_SINCE = "(SELECT max(changed_at) FROM orchestrator_notification WHERE automatic AND enabled)"
# Of the row as it is before the claim.
WAITED_SINCE = "CASE WHEN job.traceparent IS NOT NULL THEN greatest(job.run_at, job.updated_at) END"


def claimed(waited_since: str = WAITED_SINCE) -> str:
    """The columns of a `Claimed`, of a row called job.

    waited_since: SQL for it where the statement itself updates the row, and so returns it as it is afterwards.
    """
    columns = (f"job.{name}" for name in Claimed.__struct_fields__[:-5])
    return ", ".join([*columns, waited_since, WATCHED_SINCE, BEGAN_AT, "clock_timestamp()"])


CLAIMED = claimed()
