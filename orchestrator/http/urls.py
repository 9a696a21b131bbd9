"""The orchestrator's paths."""

from django.urls import path

from orchestrator.http import (
    audit_views,
    bulk_views,
    event_views,
    health_views,
    job_views,
    kind_views,
    log_views,
    notification_views,
    orchestration_views,
    owner_views,
    pipeline_views,
    queue_views,
    signal_views,
)

urlpatterns = [
    path("orchestrate/<str:username>", orchestration_views.OrchestrateView.as_view(), name="orchestrate"),
    path("status/<str:username>/<str:job_id>", orchestration_views.StatusView.as_view(), name="status"),
    path("jobs", job_views.JobsView.as_view(), name="jobs"),
    path("jobs/bulk", bulk_views.BulkView.as_view(), name="bulk"),
    path("jobs/cancel", bulk_views.CancelJobsView.as_view(), name="cancel_jobs"),
    path("jobs/retry", bulk_views.RetryJobsView.as_view(), name="retry_jobs"),
    path("jobs/change", bulk_views.ChangeJobsView.as_view(), name="change_jobs"),
    path("jobs/<str:job_id>", job_views.JobView.as_view(), name="job"),
    path("jobs/<str:job_id>/logs", log_views.LogsView.as_view(), name="job_logs"),
    path("jobs/<str:job_id>/events", event_views.JobEventsView.as_view(), name="job_events"),
    path("events", event_views.EventsView.as_view(), name="events"),
    path("jobs/<str:job_id>/signals/<str:name>", signal_views.SignalView.as_view(), name="signal"),
    path("jobs/<str:job_id>/retry", job_views.RetryView.as_view(), name="retry"),
    path("pipelines", pipeline_views.PipelinesView.as_view(), name="pipelines"),
    path("pipelines/<str:pipeline_id>", pipeline_views.PipelineView.as_view(), name="pipeline"),
    path("pipelines/<str:pipeline_id>/retry", pipeline_views.RetryPipelineView.as_view(), name="retry_pipeline"),
    path("pipelines/<str:pipeline_id>/fork", pipeline_views.ForkPipelineView.as_view(), name="fork_pipeline"),
    path("kinds", kind_views.KindsView.as_view(), name="kinds"),
    path("kinds/<str:kind>", kind_views.KindView.as_view(), name="kind"),
    path("queues", queue_views.QueuesView.as_view(), name="queues"),
    path("queues/<str:queue>", queue_views.QueueView.as_view(), name="queue"),
    path("owners/<str:username>", owner_views.OwnerView.as_view(), name="owner"),
    path("notifications", notification_views.NotificationsView.as_view(), name="notifications"),
    path("notifications/<str:notification_id>", notification_views.NotificationView.as_view(), name="notification"),
    path(
        "notifications/<str:notification_id>/test",
        notification_views.NotificationTestView.as_view(),
        name="notification-test",
    ),
    path(
        "notifications/<str:notification_id>/secret",
        notification_views.SecretView.as_view(),
        name="notification-secret",
    ),
    path(
        "notifications/<str:notification_id>/deliveries",
        notification_views.DeliveriesView.as_view(),
        name="deliveries",
    ),
    path(
        "notifications/<str:notification_id>/deliveries/<str:delivery_id>/send-again",
        notification_views.SendAgainView.as_view(),
        name="send-again",
    ),
    path("audit", audit_views.AuditView.as_view(), name="audit"),
    path("api/health/", health_views.HealthView.as_view(), name="health"),
    path("api/health/ready/", health_views.ReadyView.as_view(), name="ready"),
]
