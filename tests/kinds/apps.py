"""The app of the test kinds."""

from django.apps import AppConfig


class KindsConfig(AppConfig):
    name = "tests.kinds"
    default_auto_field = "django.db.models.BigAutoField"
