"""The scheduler's paths."""

from django.urls import path

from scheduler import views

urlpatterns = [
    path("tasks/", views.TasksView.as_view(), name="tasks"),
    path("tasks/batch-request/", views.BatchView.as_view(), name="task-batch"),
    path("batch-request/", views.ShortBatchView.as_view(), name="batch"),
    path("tasks/<str:task_id>/", views.TaskView.as_view(), name="task"),
    path("tasks/<str:task_id>/run/", views.RunView.as_view(), name="task-run"),
    path("task-schedules/", views.SchedulesView.as_view(), name="task-schedules"),
    path("task-schedules/preview/", views.PreviewView.as_view(), name="task-schedule-preview"),
    path("task-schedules/<str:schedule_id>/", views.ScheduleView.as_view(), name="task-schedule"),
    path("task-schedules/<str:schedule_id>/preview/", views.NextRunsView.as_view(), name="task-schedule-next-runs"),
    path("task-schedules/<str:schedule_id>/pause/", views.PauseView.as_view(), name="task-schedule-pause"),
    path("task-schedules/<str:schedule_id>/resume/", views.ResumeView.as_view(), name="task-schedule-resume"),
    path("task-schedules/<str:schedule_id>/run-now/", views.RunNowView.as_view(), name="task-schedule-run-now"),
    path("task-schedules/<str:schedule_id>/backfill/", views.BackfillView.as_view(), name="task-schedule-backfill"),
]
