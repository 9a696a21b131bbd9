"""Muster's Django project: settings, Celery app, URLs. Nothing that an app imports."""

import os
import sys
from typing import Any


def __getattr__(name: str) -> Any:
    """`celery -A config` asks for `app`. Django is set up at once, not by Celery later, which would bury a refusal."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # That program finds this package where it is started, but not the others.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    from config.start import start

    start()
    from config.celery import app

    return app
