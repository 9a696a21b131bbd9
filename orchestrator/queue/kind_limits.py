"""The limits that hold for each kind: what its code declares, but for what operators have set instead."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from django.db import connection

from orchestrator.kinds import Kind, known_kind
from orchestrator.limits import BadLimit, Limits, merged
from orchestrator.per_process import PerProcess

logger = logging.getLogger(__name__)

# How old what a process knows of them may be. Claims are right nonetheless: one by an older view starts nothing.
KNOWN_SECONDS = 0.3

# The rows that say anything about limits: few, whatever the number of kinds.
READ = """
SELECT name, declared_limits::json, limits::json FROM orchestrator_kind
WHERE declared_limits <> '{}' OR limits <> '{}'
"""

# Whether jobs of a kind have to wait for limits, as `Limits.holds_back` says of the same two columns.
HOLDS_BACK = """(
    jsonb_strip_nulls({declared} || {overrides})
    ?| ARRAY['max_running', 'max_running_per_owner', 'max_running_per_key', 'rate']
)"""

Overrides = Mapping[str, Any]


class _Known:
    """What this process has read of the limits of all kinds."""

    def __init__(self) -> None:
        self._limits: dict[str, Limits] = {}
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def of(self, name: str) -> Limits:
        found = self._limits.get(name)
        if found is not None:
            return found
        kind = known_kind(name)
        return kind.limits if kind else Limits()

    def forget(self) -> None:
        self._read_at = float("-inf")

    def refresh(self) -> None:
        if time.monotonic() - self._read_at > KNOWN_SECONDS:
            self._read()

    def _read(self) -> None:
        with self._lock:
            with connection.cursor() as cursor:
                cursor.execute(READ)
                rows = cursor.fetchall()
            self._limits = {name: _effective(name, declared, own) for name, declared, own in rows}
            self._read_at = time.monotonic()


_known = PerProcess(_Known)


def limits_of(kind: Kind) -> Limits:
    """The limits of the kind, as they were at most KNOWN_SECONDS ago."""
    known = _known()
    known.refresh()
    return known.of(kind.name)


def known_limits_of(name: str) -> Limits:
    """As this process has read them last, without asking the database."""
    return _known().of(name)


def refresh() -> None:
    """Reads them anew, if they are older."""
    _known().refresh()


def forget() -> None:
    """Has them read anew."""
    _known().forget()


def _effective(name: str, declared: Overrides, overrides: Overrides) -> Limits:
    try:
        return merged(declared, overrides)
    except BadLimit as error:
        logger.warning("The kind %s has a limit that this process cannot keep, so it keeps none: %s", name, error)
        return Limits()
