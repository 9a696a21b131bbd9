"""Starts Django for every program: `manage.py`, the web server and `celery`."""

import os
import sys

import django
from django.core.exceptions import ImproperlyConfigured


def start() -> None:
    """Sets Django up; if a setting keeps it from starting, ends the program with a sentence that says what to set."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        django.setup()
    except ImproperlyConfigured as error:
        sys.exit(f"Muster does not start: {error}")
