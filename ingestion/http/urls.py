"""The ingestion's paths, below /api/data/."""

from django.urls import path

from ingestion.http import error_views, ingestion_views, record_views, upload_views

urlpatterns = [
    path("ingest/", ingestion_views.IngestView.as_view(), name="ingest"),
    path("ingest/stream/", upload_views.StreamView.as_view(), name="ingest_stream"),
    path("status/<str:task_id>/", ingestion_views.IngestionStatusView.as_view(), name="ingestion_status"),
    path("status/<str:task_id>/errors/", error_views.ErrorsView.as_view(), name="ingestion_errors"),
    path("records/", record_views.RecordsView.as_view(), name="records"),
    path("records/<path:student_id>/", record_views.RecordView.as_view(), name="record"),
]
