"""Starts Django for every program: `manage.py`, the web server, workers and Beat."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import django
from django.core.exceptions import ImproperlyConfigured


def start() -> None:
    """Sets Django up; if a setting keeps it from starting, ends the program with a sentence that says what to set."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    with refusing_in_words():
        django.setup()


@contextmanager
def refusing_in_words() -> Iterator[None]:
    try:
        yield
    except ImproperlyConfigured as error:
        sys.exit(f"Muster does not start: {error}")
