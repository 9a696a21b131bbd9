"""Reads: ingestions and how far they are, their errors, and the records that are stored."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db.models import Count, QuerySet, Sum
from django.http import Http404
from django.utils import timezone

from ingestion.models import Chunk, Ingestion, Record
from orchestrator.models import Job
from orchestrator.queries import User, sees_everything, visible_jobs
from orchestrator.states import Status

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


def visible_ingestion(user: User, task_id: UUID) -> Ingestion:
    """The ingestion that this job is; raises Job.DoesNotExist if the user may not see it."""
    ingestion = Ingestion.objects.select_related("job").filter(job__in=visible_jobs(user), job=task_id).first()
    if ingestion is None:
        raise Job.DoesNotExist
    return ingestion


def progress_of(ingestion: Ingestion) -> Progress:
    """How far it is, whether one job does it all or many children."""
    job = ingestion.job
    assert job is not None
    counts = Chunk.objects.filter(ingestion=ingestion).aggregate(
        chunks=Count("id"), stored=Sum("stored_records"), failed=Sum("failed_records")
    )
    processed = job.progress_done or 0
    if job.status == Status.COMPLETED:
        processed = ingestion.total_records
    elif counts["chunks"] > 1 or job.unfinished_dependencies:
        processed = Job.objects.filter(parent=job).aggregate(done=Sum("progress_done"))["done"] or 0
    return Progress(job, ingestion.total_records, processed, counts["stored"] or 0, counts["failed"] or 0)


def visible_records(user: User) -> QuerySet[Record]:
    """The records the user may see."""
    if sees_everything(user):
        return Record.objects.all()
    return Record.objects.filter(owner=user.get_username()) if user.is_authenticated else Record.objects.none()


def visible_record(user: User, student_id: str) -> Record:
    """The user's own record of that student_id, or for those who see everything the one written last.

    Raises Http404 if there is none.
    """
    found = sorted(
        visible_records(user).filter(student_id=student_id).select_related("ingestion"),
        key=lambda record: (record.owner == user.get_username(), record.updated_at),
    )
    if not found:
        raise Http404("No record has this student_id, or it is not yours to see.")
    return found[-1]
