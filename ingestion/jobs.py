"""The kinds of job of the ingestion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Annotated

import msgspec
from django.conf import settings
from django.db import transaction
from django.utils.module_loading import import_string

from ingestion import copying, services
from ingestion.models import Chunk, Mode, OnConflict
from ingestion.records import Reject, Sifted, Student, conflict, numbered, sift
from orchestrator.jobs import Nothing
from orchestrator.kinds import job
from orchestrator.running import RunningJob

# Records validated, told to the outside service and stored at once.
STEP = 100


class ChunkOf(msgspec.Struct, forbid_unknown_fields=True):
    """Which chunk of the ingestion that this job or its parent is."""

    position: Annotated[int, msgspec.Meta(ge=0)] = 0


class NothingSent(Exception):
    """There are no records for this job: send them to POST /api/data/ingest/, which submits it."""


class RecordsRejected(Exception):
    """Records were bad where all or nothing was to be stored."""

    def __init__(self, rejects: int, total: int) -> None:
        count = "1 record" if rejects == 1 else f"{rejects:,} records"
        super().__init__(f"{count} of {total:,} cannot be stored, so none was; see the errors.")


class Clashed(Exception):
    """Others stored some of the records meanwhile."""

    def __init__(self, rejects: list[Reject]) -> None:
        self.rejects = rejects
        super().__init__(f"{len(rejects)} records were stored by others meanwhile.")


@job(
    services.KIND,
    queue="io",
    payload=ChunkOf,
    max_attempts=5,
    no_retry=(NothingSent, RecordsRejected),
    typical_seconds=10,
)
def ingest(job: RunningJob, payload: ChunkOf) -> dict[str, int]:
    """Stores the records sent to POST /api/data/ingest/, which submits it, a hundred at a time."""
    chunk = services.chunk_of(job.row, payload.position)
    records = copying.lines_of(chunk.id) if chunk else None
    if chunk is None or records is None:
        raise NothingSent(" ".join((NothingSent.__doc__ or "").split()))
    lines = numbered(records)
    # The day they were sent, so that every attempt comes to the same.
    today = chunk.ingestion.created_at.astimezone(UTC).date()
    sifted = sift(lines, today=today)
    if chunk.ingestion.mode == Mode.ALL_OR_NOTHING:
        _store_all_or_nothing(job, chunk, sifted, [index for index, _ in lines])
    else:
        _store_good(job, chunk, sifted, [index for index, _ in lines])
    services.forget_sent(chunk)
    return {"records": len(lines)}


@job(services.UPLOAD, queue="io", payload=Nothing, typical_seconds=60)
def upload(job: RunningJob, payload: Nothing) -> dict[str, int]:
    """Ends an upload sent to POST /api/data/ingest/stream/, which submits it, when all its chunks are stored."""
    return {"records": sum(result["records"] for result in job.inputs.values())}


def _store_good(job: RunningJob, chunk: Chunk, sifted: Sifted, indexes: Sequence[int]) -> None:
    """Step by step, each a transaction that begins when the outside service has answered."""
    total = len(indexes)
    are_new = not services.any_stored([student.student_id for _, student in sifted.good], owner=job.owner)
    for done in range(job.done, total, STEP):
        part = _part(sifted, indexes, done)
        _tell_outside(job, part, done)
        with job.step(min(done + STEP, total), total):
            services.store(chunk, part.good, part.rejects, owner=job.owner, are_new=are_new)


def _store_all_or_nothing(job: RunningJob, chunk: Chunk, sifted: Sifted, indexes: Sequence[int]) -> None:
    """All is known to be good before the outside service hears of any, and written with the job's completion."""
    # A retry after a rejection begins afresh; that of a crash goes on.
    total = len(indexes)
    told = 0 if chunk.failed_records else job.done
    if rejects := [*sifted.rejects, *_conflicts(chunk, sifted, job.owner)]:
        _reject(job, chunk, rejects, total)
    for done in range(told, total, STEP):
        _tell_outside(job, _part(sifted, indexes, done), done)
        with job.step(min(done + STEP, total), total):
            if chunk.failed_records:
                services.forget_reports(chunk)
    try:
        with transaction.atomic():
            clashes = services.write(chunk, sifted.good, owner=job.owner)
            if clashes and chunk.ingestion.on_conflict != OnConflict.SKIP:
                raise Clashed(clashes)
    except Clashed as clashed:
        _reject(job, chunk, clashed.rejects, total)


def _conflicts(chunk: Chunk, sifted: Sifted, owner: str) -> list[Reject]:
    if chunk.ingestion.on_conflict != OnConflict.ERROR:
        return []
    stored = services.stored_ids([student.student_id for _, student in sifted.good], owner=owner)
    return [conflict(index, student.student_id) for index, student in sifted.good if student.student_id in stored]


def _reject(job: RunningJob, chunk: Chunk, rejects: Sequence[Reject], total: int) -> None:
    with job.step(total, total):
        services.forget_reports(chunk)
        services.report(chunk, sorted(rejects, key=lambda reject: reject.index))
    raise RecordsRejected(len(rejects), total)


def _part(sifted: Sifted, indexes: Sequence[int], done: int) -> Sifted:
    """What belongs to the step after so many records."""
    step = indexes[done : done + STEP]
    return sifted.between(step[0], step[-1] + 1)


def _tell_outside(job: RunningJob, part: Sifted, done: int) -> None:
    """Calls the outside service once for the good records of a step, while no row is locked.

    It is called again for a step that was not finished, with the same key.
    """
    if not part.good:
        return
    if path := settings.ENV.INGESTION_EXTERNAL_SERVICE:
        records: list[Student] = [student for _, student in part.good]
        import_string(path)(msgspec.to_builtins(records), idempotency_key=f"{job.id}:{done // STEP}")
        job.check()
    else:
        job.sleep(settings.ENV.INGESTION_EXTERNAL_CALL_SECONDS)
