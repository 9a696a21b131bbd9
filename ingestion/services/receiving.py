"""What clients send is kept as it was sent, with the jobs that will validate and store it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count, islice
from typing import Any

from django.db import transaction

from ingestion import copying
from ingestion.models import Chunk, Ingestion, Mode, OnConflict
from ingestion.records.staging import Staged
from orchestrator.failpoints import Failpoint
from orchestrator.submission import Child, submit

KIND = "ingestion.ingest"
UPLOAD = "ingestion.upload"
MAX_RECORDS = 1_000

job_without_records = Failpoint("job-without-records")
chunk_received = Failpoint("upload-chunk-received")
upload_submitting = Failpoint("upload-submitting")


def accept(
    records: Sequence[dict[str, Any]] | Staged,
    *,
    owner: str = "",
    mode: str = Mode.PARTIAL,
    on_conflict: str = OnConflict.UPDATE,
) -> Ingestion:
    """Keeps at most 1,000 records as they were sent, with the job that will validate and store them."""
    staged = records if isinstance(records, Staged) else Staged.of(records)
    with transaction.atomic():
        ingestion = Ingestion.objects.create(
            job=submit(KIND, owner=owner), mode=mode, on_conflict=on_conflict, total_records=staged.total
        )
        job_without_records()
        copying.keep_chunk(ingestion.id, 0, staged.lines)
        return ingestion


def receive(lines: Iterable[bytes], *, on_conflict: str = OnConflict.UPDATE) -> Ingestion:
    """Keeps staged lines, chunk by chunk, as they come: nobody sees them before `submit_upload`.

    Each chunk is committed, so that neither memory nor a transaction holds more than one; if `lines` raises, all are
    deleted, and after a crash upkeep does that. Not within a transaction of the caller's.
    """
    ingestion = Ingestion.objects.create(on_conflict=on_conflict)
    try:
        received = iter(lines)
        for position in count():
            chunk = list(islice(received, MAX_RECORDS))
            if not chunk:
                return ingestion
            copying.keep_chunk(ingestion.id, position, b"\n".join(chunk))
            ingestion.total_records += len(chunk)
            chunk_received()
    except BaseException:
        discard_upload(ingestion)
        raise
    return ingestion


def submit_upload(ingestion: Ingestion, *, owner: str = "") -> Ingestion:
    """Submits a job for each chunk received, and their parent, all or none."""
    positions = Chunk.objects.filter(ingestion=ingestion).order_by("position").values_list("position", flat=True)
    children = [Child(name=f"chunk {position}", kind=KIND, payload={"position": position}) for position in positions]
    with transaction.atomic():
        ingestion.job = submit(UPLOAD, owner=owner, children=children)
        upload_submitting()
        ingestion.save(update_fields=["job", "total_records"])
    return ingestion


def discard_upload(ingestion: Ingestion) -> None:
    """Deletes an upload that was not submitted, if so."""
    with transaction.atomic():
        if Ingestion.objects.select_for_update().filter(id=ingestion.id, job=None).exists():
            Chunk.objects.filter(ingestion=ingestion).delete()
            Ingestion.objects.filter(id=ingestion.id).delete()
