"""The orchestrator app."""

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class OrchestratorConfig(AppConfig):
    name = "orchestrator"

    def ready(self) -> None:
        """Registers the kinds of every installed app's jobs.py, in every process: a web must know what it accepts."""
        from orchestrator.telemetry import sentry  # Not above, where there are no settings yet.

        sentry.start()
        autodiscover_modules("jobs", "tasks")
