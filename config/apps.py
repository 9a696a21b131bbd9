"""The project as an app: its commands, and its Celery app in every process that Django starts."""

import gc
from types import ModuleType

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "config"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        super().__init__(app_name, app_module)
        # What is imported stays. To look through it for garbage again and again takes a sixth of a process's start.
        gc.disable()

    def ready(self) -> None:
        """Makes the Celery app the current one, before the apps that follow register their tasks with it."""
        import config.celery  # noqa: F401

        gc.freeze()
        gc.enable()
