"""The page of an ingestion: how far it is, and the records that were rejected, with why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from access.permissions import is_granted
from ingestion import queries
from ingestion.models import RecordError
from orchestrator.admin.charts import meter
from orchestrator.states import FINAL, Status

# Of the rejected records so many are shown, and so many looked at for what is wrong most often.
MAX_SHOWN, MAX_LOOKED_AT = 50, 1_000
MAX_REASONS = 5
REFRESH_SECONDS = 2


def context(request: HttpRequest, ingestion: Any) -> dict[str, Any]:
    job = ingestion.job
    progress = queries.progress_of(ingestion) if job else None
    rejected = _rejected(request, ingestion)
    return {
        "layout": "orchestrator/admin/bare.html" if "HX-Request" in request.headers else "admin/change_form.html",
        "ingestion": ingestion,
        "job": job,
        "progress": progress,
        "meter": meter(progress.processed_records, ingestion.total_records, bad=progress.failed_records)
        if progress
        else "",
        "sentence": sentence(ingestion, progress),
        "is_live": job is None or job.status not in FINAL,
        "refresh_seconds": REFRESH_SECONDS,
        "rejected": rejected[:MAX_SHOWN],
        "reasons": _reasons(rejected),
        "looked_at": len(rejected) if len(rejected) == MAX_LOOKED_AT else 0,
        "csv_url": f"{reverse('ingestion_errors', args=[job.id])}?format=csv" if job else "",
    }


def sentence(ingestion: Any, progress: queries.Progress | None) -> str:
    """In words, what has become of it."""
    if progress is None:
        return "It is still being uploaded."
    total, bad = ingestion.total_records, progress.failed_records
    match Status(progress.job.status):
        case Status.COMPLETED if bad and not progress.stored_records:
            return f"Stored none of {total:,} records: {bad:,} were rejected."
        case Status.COMPLETED if bad:
            return f"Stored {progress.stored_records:,} of {total:,} records, rejected {bad:,}."
        case Status.COMPLETED:
            return f"Stored {progress.stored_records:,} of {total:,} records."
        case Status.RUNNING:
            return f"Done with {progress.processed_records:,} of {total:,} records, rejected {bad:,} so far."
        case Status.CREATED:
            return "It waits for a worker."
        case other:
            return f"It is {other}. Stored {progress.stored_records:,} of {total:,} records."


def _rejected(request: HttpRequest, ingestion: Any) -> list[RecordError]:
    """The first of them in the order of what was sent, for those who may see them."""
    if not is_granted(request.user, "ingestion.view_recorderror"):
        return []
    return list(RecordError.objects.filter(ingestion=ingestion).order_by("index")[:MAX_LOOKED_AT])


def _reasons(rejected: Iterable[RecordError]) -> list[tuple[str, int]]:
    """What is wrong most often, as the field and the code of each error."""
    found = Counter(f"{error['field'] or 'record'}: {error['code']}" for each in rejected for error in each.errors)
    return found.most_common(MAX_REASONS)
