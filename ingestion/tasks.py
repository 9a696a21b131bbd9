"""Upkeep of the ingestion: a part of every tick."""

from __future__ import annotations

from datetime import timedelta

from django.db.models.functions import Now

from ingestion.models import Ingestion
from ingestion.services.receiving import discard_upload
from orchestrator.upkeep import tick

# Nobody is still sending after so long.
ABANDONED_AFTER = timedelta(hours=24)


@tick.part
def delete_abandoned_uploads() -> None:
    """Deletes what was received of uploads whose process died before they were complete."""
    for ingestion in Ingestion.objects.filter(job=None, created_at__lt=Now() - ABANDONED_AFTER)[:10]:
        discard_upload(ingestion)
