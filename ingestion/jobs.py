"""The kinds of job of the ingestion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Annotated

import msgspec
from django.conf import settings
from django.db import transaction
from django.utils.module_loading import import_string

from ingestion import copying
from ingestion.models import Chunk, Mode, OnConflict
from ingestion.records.rejects import Reject, conflict
from ingestion.records.student import Student
from ingestion.records.validation import Validated, validate_staged
from ingestion.services.receiving import KIND, MAX_RECORDS, UPLOAD
from ingestion.services.storing import (
    any_stored,
    chunk_of,
    clear_payload,
    forget_reports,
    report,
    store,
    stored_ids,
    write,
)
from orchestrator.jobs import Nothing
from orchestrator.kinds import job
from orchestrator.running import RunningJob

# Records that the external service is sent, and that are stored, at once.
CALLED_STEP = 100
# Where nothing is called, nothing asks for a commit every hundred: these take some tens of milliseconds.
STEP = MAX_RECORDS


class ChunkOf(msgspec.Struct, forbid_unknown_fields=True):
    """Which chunk of the ingestion that this job or its parent is."""

    position: Annotated[int, msgspec.Meta(ge=0)] = 0


class NothingSent(Exception):
    """There are no records for this job: send them to POST /api/data/ingest/, which submits it."""


class RecordsRejected(Exception):
    """Records were bad where all or nothing was to be stored."""

    def __init__(self, rejects: int, total: int) -> None:
        count = "1 record" if rejects == 1 else f"{rejects:,} records"
        super().__init__(f"{count} of {total:,} cannot be stored, so none was stored; see the errors.")


class Clashed(Exception):
    """Others stored some of the records meanwhile."""

    def __init__(self, rejects: list[Reject]) -> None:
        self.rejects = rejects
        super().__init__(f"{len(rejects)} records were stored by others meanwhile.")


@job(
    KIND,
    queue="io",
    payload=ChunkOf,
    max_attempts=5,
    no_retry=(NothingSent, RecordsRejected),
    typical_seconds=10,
    internal="POST /api/data/ingest/",
)
def ingest(job: RunningJob, payload: ChunkOf) -> dict[str, int]:
    """Stores the records sent to POST /api/data/ingest/, which submits it: at once, or a hundred for each call."""
    chunk = chunk_of(job.row, payload.position)
    records = copying.lines_of(chunk.id) if chunk else None
    if chunk is None or records is None:
        raise NothingSent(" ".join((NothingSent.__doc__ or "").split()))
    # The day they were sent, so that every attempt comes to the same.
    today = chunk.ingestion.created_at.astimezone(UTC).date()
    indexes, validated = validate_staged(records, today=today)
    if chunk.ingestion.mode == Mode.ALL_OR_NOTHING:
        _store_all_or_nothing(job, chunk, validated, indexes)
    else:
        _store_good(job, chunk, validated, indexes)
    clear_payload(chunk)
    return {"records": len(indexes)}


@job(UPLOAD, queue="io", payload=Nothing, typical_seconds=60, internal="POST /api/data/ingest/stream/")
def upload(job: RunningJob, payload: Nothing) -> dict[str, int]:
    """Ends an upload sent to POST /api/data/ingest/stream/, which submits it, when all its chunks are stored."""
    return {"records": sum(result["records"] for result in job.inputs.values())}


def _store_good(job: RunningJob, chunk: Chunk, validated: Validated, indexes: Sequence[int]) -> None:
    """Step by step, each a transaction that begins when the external service has responded."""
    total, size = len(indexes), _step_size()
    are_new = not any_stored([student.student_id for _, student in validated.good], owner=job.owner)
    for done in range(job.done, total, size):
        part = _part(validated, indexes[done : done + size])
        _call_external_service(job, part, done)
        with job.step(min(done + size, total), total):
            store(chunk, part.good, part.rejects, owner=job.owner, are_new=are_new)


def _store_all_or_nothing(job: RunningJob, chunk: Chunk, validated: Validated, indexes: Sequence[int]) -> None:
    """All is known to be good before the external service is called, and written with the job's completion."""
    # A retry after a rejection begins afresh; that of a crash goes on.
    total, size = len(indexes), _step_size()
    first = 0 if chunk.failed_records else job.done
    if rejects := [*validated.rejects, *_conflicts(chunk, validated, job.owner)]:
        _reject(job, chunk, rejects, total)
    for done in range(first, total, size):
        _call_external_service(job, _part(validated, indexes[done : done + size]), done)
        with job.step(min(done + size, total), total):
            if chunk.failed_records:
                forget_reports(chunk)
    try:
        with transaction.atomic():
            clashes = write(chunk, validated.good, owner=job.owner)
            if clashes and chunk.ingestion.on_conflict != OnConflict.SKIP:
                raise Clashed(clashes)
    except Clashed as clashed:
        _reject(job, chunk, clashed.rejects, total)


def _conflicts(chunk: Chunk, validated: Validated, owner: str) -> list[Reject]:
    if chunk.ingestion.on_conflict != OnConflict.ERROR:
        return []
    stored = stored_ids([student.student_id for _, student in validated.good], owner=owner)
    return [conflict(index, student.student_id) for index, student in validated.good if student.student_id in stored]


def _reject(job: RunningJob, chunk: Chunk, rejects: Sequence[Reject], total: int) -> None:
    with job.step(total, total):
        forget_reports(chunk)
        report(chunk, sorted(rejects, key=lambda reject: reject.index))
    raise RecordsRejected(len(rejects), total)


def _step_size() -> int:
    """How many records make a step. A crash repeats at most one, and what is cancelled ends with it."""
    is_called = settings.ENV.INGESTION_EXTERNAL_SERVICE or settings.ENV.INGESTION_EXTERNAL_CALL_SECONDS
    return CALLED_STEP if is_called else STEP


def _part(validated: Validated, step: Sequence[int]) -> Validated:
    """What belongs to the step of those indexes."""
    return validated.between(step[0], step[-1] + 1)


def _call_external_service(job: RunningJob, part: Validated, done: int) -> None:
    """Calls the external service once for the good records of a step, while no row is locked.

    It is called again for a step that was not finished, with the same key.
    """
    if not part.good:
        return
    if path := settings.ENV.INGESTION_EXTERNAL_SERVICE:
        records: list[Student] = [student for _, student in part.good]
        import_string(path)(msgspec.to_builtins(records), idempotency_key=f"{job.id}:{done // CALLED_STEP}")
        job.check()
    else:
        job.sleep(settings.ENV.INGESTION_EXTERNAL_CALL_SECONDS)
