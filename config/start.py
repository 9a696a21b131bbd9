"""Starts Django for every program: `manage.py`, the web server, workers and Beat."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import django
from django.core.exceptions import ImproperlyConfigured

from config.environment import Environment
from config.local.environment import set_environment

OURS = "config.settings"


def start() -> None:
    """Sets Django up; if a setting keeps it from starting, ends the program with a sentence that says what to set."""
    set_environment()
    with refusing_in_words():
        os.environ["DJANGO_SETTINGS_MODULE"] = name = os.environ.get("DJANGO_SETTINGS_MODULE") or OURS
        if name != OURS:
            check_settings_module(name)
        django.setup()


@contextmanager
def refusing_in_words() -> Iterator[None]:
    try:
        yield
    except ImproperlyConfigured as error:
        sys.exit(f"Muster does not start: {error}")


def check_settings_module(name: str) -> None:
    """Raises ImproperlyConfigured with what is wrong with a settings module of your own."""
    ours = import_module(OURS)
    try:
        module = import_module(name)
    except ImproperlyConfigured:
        raise
    # It may raise anything.
    except Exception as error:
        raise ImproperlyConfigured(
            f"DJANGO_SETTINGS_MODULE names {name!r}, which cannot be imported: {_in_one_line(error)}"
        ) from None
    if getattr(module, "ENV", None) is not ours.ENV:
        raise ImproperlyConfigured(
            f"DJANGO_SETTINGS_MODULE names {name!r}, which must begin with `from config.settings import *`."
        )
    if changed := [field for field in Environment.__struct_fields__ if _value(module, field) != _value(ours, field)]:
        raise ImproperlyConfigured(
            f"{name} sets {changed[0]}, which is read from the environment: set the variable {changed[0]} instead."
        )


def _value(module: ModuleType, name: str) -> object:
    return getattr(module, name, None)


def _in_one_line(error: Exception) -> str:
    """The error with where it was raised. A SyntaxError says so itself."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) or not frames or frames[-1].filename.startswith("<frozen "):
        return text
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})"
