"""The project as an app: its commands, and its Celery app in every process that Django starts."""

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        """Makes the Celery app the current one, before the apps that follow register their tasks with it."""
        import config.celery  # noqa: F401
