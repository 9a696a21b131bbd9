"""The home page's panel on ingestions."""

from __future__ import annotations

from django.http import HttpRequest
from django.urls import reverse

from ingestion import queries
from ingestion.models import Ingestion
from orchestrator.admin.charts import meter
from orchestrator.admin.home import Shown, panel
from orchestrator.states import Status

MAX_SHOWN = 6


@panel("ingestion/admin/home.html", permission="ingestion.view_ingestion", place=40)
def ingestions(request: HttpRequest) -> Shown:
    running = queries.with_progress(Ingestion.objects.filter(job__status=Status.RUNNING)).defer("job__payload")
    shown = []
    for ingestion in running.order_by("-job_id")[:MAX_SHOWN]:
        progress = queries.progress_of(ingestion)
        shown.append(
            {
                "url": reverse("admin:ingestion_ingestion_change", args=[ingestion.id]),
                "progress": progress,
                "meter": meter(progress.processed_records, progress.total_records),
            }
        )
    return Shown({"ingestions": shown})
