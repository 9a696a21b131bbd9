"""The admin of tasks, schedules, calendars, and rows in django-celery-beat. No rule about any of them."""

from scheduler.admin import beat, calendars, home, schedules, tasks

__all__ = ["beat", "calendars", "home", "schedules", "tasks"]
