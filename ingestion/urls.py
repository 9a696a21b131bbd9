"""The ingestion's paths, below /api/data/."""

from django.urls import path

from ingestion import views

urlpatterns = [
    path("ingest/", views.IngestView.as_view(), name="ingest"),
    path("ingest/stream/", views.StreamView.as_view(), name="ingest_stream"),
    path("status/<str:task_id>/", views.IngestionStatusView.as_view(), name="ingestion_status"),
    path("status/<str:task_id>/errors/", views.ErrorsView.as_view(), name="ingestion_errors"),
    path("records/", views.RecordsView.as_view(), name="records"),
    path("records/<path:student_id>/", views.RecordView.as_view(), name="record"),
]
