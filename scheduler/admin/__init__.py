"""The admin of tasks, of schedules, and of their rows in django-celery-beat. No rule about any of them."""

from scheduler.admin import beat, home, schedules, tasks

__all__ = ["beat", "home", "schedules", "tasks"]
