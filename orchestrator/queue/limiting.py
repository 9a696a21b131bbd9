"""Changing the limits of a kind while it runs. What an operator has set stays whatever another release declares."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from django.db import transaction

from access import audit
from orchestrator.kinds import known_kind
from orchestrator.limits import NAMES, UNLIMITED, BadLimit, Limits, merged
from orchestrator.models import Kind
from orchestrator.queue import unblocking


def change_limits(name: str, changes: Mapping[str, Any]) -> Limits:
    """Sets limits of the kind, whatever its code declares; returns those that hold then. They take effect within a
    second: what runs goes on, and what was blocked and is not any more is ready again.

    changes: by the names of `Limits`: a value, None for what its code declares, or "unlimited".

    Raises Kind.DoesNotExist for a kind that no worker has reported, BadLimit for what cannot be kept.
    """
    with transaction.atomic():
        row = Kind.objects.select_for_update().get(name=name)
        before = dict(row.limits)
        row.limits, effective = check_changes(row, changes)
        row.limited = effective.holds_back
        if row.limits != before:
            row.save(update_fields=["limits", "limited"])
            audit.record("kind.limit", name, before=before, after=row.limits)
            transaction.on_commit(partial(unblocking.limits_changed, name))
    return effective


def check_changes(kind: Kind, changes: Mapping[str, Any]) -> tuple[dict[str, Any], Limits]:
    """What operators have set of the kind then, and the limits that hold; raises BadLimit."""
    overrides = _changed(kind.limits, changes)
    effective = merged(kind.declared_limits, overrides)
    _check_key(kind.name, effective)
    return overrides, effective


def _changed(overrides: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(overrides)
    for field, value in changes.items():
        if field not in NAMES:
            raise BadLimit(field, f"There is no limit {field!r}; there are {', '.join(NAMES)}.")
        if value is None:
            changed.pop(field, None)
        else:
            changed[field] = None if value == UNLIMITED else value
    return changed


def _check_key(name: str, limits: Limits) -> None:
    kind = known_kind(name)
    if limits.needs_key and kind is not None and kind.key is None:
        field = "rate_per" if limits.max_running_per_key is None else "max_running_per_key"
        raise BadLimit(field, f"The kind {name!r} declares no concurrency key: @job(…, key=lambda payload: …).")
