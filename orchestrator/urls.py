"""The orchestrator's paths."""

from django.urls import path

from orchestrator import views

urlpatterns = [
    path("orchestrate/<str:username>", views.OrchestrateView.as_view(), name="orchestrate"),
    path("status/<str:username>/<str:job_id>", views.StatusView.as_view(), name="status"),
    path("jobs", views.JobsView.as_view(), name="jobs"),
    path("jobs/<str:job_id>", views.JobView.as_view(), name="job"),
    path("jobs/<str:job_id>/retry", views.RetryView.as_view(), name="retry"),
    path("kinds", views.KindsView.as_view(), name="kinds"),
    path("api/health/", views.HealthView.as_view(), name="health"),
    path("api/health/ready/", views.ReadyView.as_view(), name="ready"),
]
