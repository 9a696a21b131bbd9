"""Reads: ingestions and how far they are, their errors, and the records that are stored."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import BigIntegerField, Func, OuterRef, QuerySet, Subquery, Sum
from django.http import Http404
from django.utils import timezone

from access.permissions import User, owner_of, require, visible
from ingestion.models import Chunk, Ingestion, Record
from orchestrator.models import Job
from orchestrator.states import Status

# What was received for the jobs.
STORED = """
SELECT job.owner, sum(pg_column_size(records))
FROM ({jobs}) AS job
JOIN ingestion_ingestion AS ingestion ON ingestion.job_id = job.id
JOIN ingestion_chunk AS chunk ON chunk.ingestion_id = ingestion.id
GROUP BY job.owner
"""

SHOWN_STATUS = {Status.CREATED: "PENDING", Status.RUNNING: "PROCESSING"}


class Progress(NamedTuple):
    """How far an ingestion is; all is read from its jobs and what they have committed."""

    job: Job
    total_records: int
    processed_records: int
    stored_records: int
    failed_records: int

    @property
    def status(self) -> str:
        return SHOWN_STATUS.get(Status(self.job.status), self.job.status)

    @property
    def percentage(self) -> int:
        """Rounded down: 100 is all."""
        return 100 * self.processed_records // max(self.total_records, 1)

    @property
    def status_message(self) -> str:
        return f"PROCESSING ({self.percentage}% complete)" if self.status == "PROCESSING" else self.status

    @property
    def duration_seconds(self) -> float | None:
        """From its start to its end, or until now."""
        if self.job.started_at is None:
            return None
        end: datetime = self.job.finished_at or timezone.now()
        return max(0, (end - self.job.started_at).total_seconds())


def received_bytes(ingestion: Ingestion) -> int:
    """How many bytes are stored of what was received."""
    size = Func("records", function="pg_column_size", output_field=BigIntegerField())
    return Chunk.objects.filter(ingestion=ingestion).aggregate(bytes=Sum(size))["bytes"] or 0


def visible_ingestion(user: User, task_id: UUID, *, to: str = "") -> Ingestion:
    """The ingestion that this job is, with its progress.

    Raises Job.DoesNotExist if the user may not see it, and NotPermitted for another's if the user lacks the permission
    `to` do something to it.
    """
    seen = visible(Ingestion.objects.filter(job=task_id), user, owner="job__owner")
    ingestion = with_progress(seen).first()
    if ingestion is None or ingestion.job is None:
        raise Job.DoesNotExist
    if to:
        require(user, ingestion.job.owner, to)
    return ingestion


def with_progress(ingestions: QuerySet[Ingestion]) -> QuerySet[Ingestion]:
    """Each with its job and what `progress_of` needs, in the one statement that reads it."""
    chunks = Chunk.objects.filter(ingestion=OuterRef("id")).order_by().values("ingestion")
    children = Job.objects.filter(parent=OuterRef("job")).order_by().values("parent")
    return ingestions.select_related("job").annotate(
        stored_records=Subquery(chunks.annotate(sum=Sum("stored_records")).values("sum")),
        failed_records=Subquery(chunks.annotate(sum=Sum("failed_records")).values("sum")),
        children_done=Subquery(children.annotate(sum=Sum("progress_done")).values("sum")),
    )


def progress_of(ingestion: Any) -> Progress:
    """How far an ingestion read `with_progress` is, whether one job does it all or many children."""
    job: Job = ingestion.job
    processed = job.progress_done if ingestion.children_done is None else ingestion.children_done
    return Progress(
        job, ingestion.total_records, processed or 0, ingestion.stored_records or 0, ingestion.failed_records or 0
    )


def visible_records(user: User) -> QuerySet[Record]:
    """The records the user may see."""
    return visible(Record.objects.all(), user)


def visible_record(user: User, student_id: str) -> Record:
    """The user's own record of that student_id, or for those who see everything the one written last.

    Raises Http404 if there is none.
    """
    own = owner_of(user)
    found = sorted(
        visible_records(user).filter(student_id=student_id).select_related("ingestion"),
        key=lambda record: (record.owner == own, record.updated_at),
    )
    if not found:
        raise Http404("No record has this student_id, or you may not see it.")
    return found[-1]
