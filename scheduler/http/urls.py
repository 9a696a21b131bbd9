"""The scheduler's paths, by what they begin with, so that others are soon passed over."""

from django.urls import include, path

from scheduler.http import calendar_views, schedule_views, task_views

TASKS = [
    path("", task_views.TasksView.as_view(), name="tasks"),
    path("batch-request/", task_views.BatchView.as_view(), name="task-batch"),
    path("<str:task_id>/", task_views.TaskView.as_view(), name="task"),
    path("<str:task_id>/run/", task_views.RunView.as_view(), name="task-run"),
]
SCHEDULES = [
    path("", schedule_views.SchedulesView.as_view(), name="task-schedules"),
    path("preview/", schedule_views.PreviewView.as_view(), name="task-schedule-preview"),
    path("<str:schedule_id>/", schedule_views.ScheduleView.as_view(), name="task-schedule"),
    path("<str:schedule_id>/preview/", schedule_views.NextRunsView.as_view(), name="task-schedule-next-runs"),
    path("<str:schedule_id>/pause/", schedule_views.PauseView.as_view(), name="task-schedule-pause"),
    path("<str:schedule_id>/resume/", schedule_views.ResumeView.as_view(), name="task-schedule-resume"),
    path("<str:schedule_id>/run-now/", schedule_views.RunNowView.as_view(), name="task-schedule-run-now"),
    path("<str:schedule_id>/backfill/", schedule_views.BackfillView.as_view(), name="task-schedule-backfill"),
]

urlpatterns = [
    path("tasks/", include(TASKS)),
    path("batch-request/", task_views.ShortBatchView.as_view(), name="batch"),
    path("calendars/", calendar_views.CalendarsView.as_view(), name="calendars"),
    path("calendars/<str:name>/", calendar_views.CalendarView.as_view(), name="calendar"),
    path("task-schedules/", include(SCHEDULES)),
]
