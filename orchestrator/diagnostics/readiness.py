"""Whether work can be accepted and run: database, broker, workers and tick, within little more than a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as TookTooLong

from django.conf import settings
from django.utils.module_loading import autodiscover_modules

from orchestrator.diagnostics import queries
from orchestrator.diagnostics.probes import Probe, impatient_connection, ping_broker
from orchestrator.diagnostics.queries import Check

# No check is waited for longer.
CHECK_SECONDS = 1.0


_told: dict[str, Callable[[], Check]] = {}


def told_as(name: str) -> Callable[[Callable[[], Check]], Callable[[], Check]]:
    """Makes a function a part of readiness, under that name. It reads a few rows and returns `ok` and what it found.

    Such functions are found in each app's health.py.
    """

    def declare(look: Callable[[], Check]) -> Callable[[], Check]:
        _told[name] = look
        return look

    return declare


def readiness() -> tuple[bool, dict[str, Check]]:
    """Whether all is well, and each check with `ok` and what it found, after little more than a second at the most."""
    deadline = time.monotonic() + CHECK_SECONDS
    database, broker = database_probe.start(), broker_probe.start()
    checks: dict[str, Check] = {
        "database": {"ok": True},
        "broker": {"ok": True},
        "workers": {"ok": False},
        "tick": {"ok": False},
    }
    try:
        checks |= database.result(max(0, deadline - time.monotonic()))
    except Exception as error:
        checks["database"] = _failed(error)
        for name in ("workers", "tick"):
            checks[name]["detail"] = "Unknown, since the database did not respond."
    try:
        broker.result(max(0, deadline - time.monotonic()))
    except Exception as error:
        checks["broker"] = _failed(error)
    return all(check["ok"] for check in checks.values()), checks


def _failed(error: Exception) -> Check:
    """Without the error's words, which may name hosts and users; they are for the log."""
    slow = isinstance(error, TookTooLong)
    return {"ok": False, "detail": f"No response within {CHECK_SECONDS:g} s." if slow else "It cannot be reached."}


def look_into_database() -> dict[str, Check]:
    """Raises if the database does not respond."""
    autodiscover_modules("health")
    with impatient_connection():
        own = {"workers": queries.workers(), "tick": queries.tick(), "kinds": queries.kinds()}
        return own | {name: look() for name, look in _told.items()}


def ask_broker() -> None:
    """Raises if the broker does not respond."""
    ping_broker(settings.ENV.BROKER_URL)


database_probe = Probe(look_into_database)
broker_probe = Probe(ask_broker)
