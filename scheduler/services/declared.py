"""Brings the schedules that code declares into the database, without undoing what operators have changed of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from django.db import connection, transaction

from scheduler.declarations import RULE, Declaration
from scheduler.models import TaskSchedule
from scheduler.services.schedules import change_schedule, create_schedule

# One deploy after the other.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('scheduler.declared', 0))"


class Synced(NamedTuple):
    """The names of the schedules that were created, changed and paused."""

    created: list[str]
    changed: list[str]
    paused: list[str]


def sync(declarations: Iterable[Declaration]) -> Synced:
    """Creates, changes and pauses schedules so that they are as declared, but for what somebody has changed of them.

    A schedule of that name without an owner, which nobody has declared before, becomes the declared one as it is. One
    that is no longer declared is paused, and goes on when it is declared again.

    Raises as `create_schedule` does; then nothing was written.
    """
    synced = Synced([], [], [])
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(LOCK)
        wanted = {each.name: each for each in declarations}
        rows = {row.name: row for row in TaskSchedule.objects.filter(owner="").exclude(name="")}
        for name, declaration in sorted(wanted.items()):
            _sync_one(rows.get(name), declaration, synced)
        for name, row in sorted(rows.items()):
            if name not in wanted and row.declared is not None and not row.declared.get("removed"):
                was = {"removed": True, "was_enabled": row.enabled}
                change_schedule(row.id, {"enabled": False, "declared": row.declared | was}, trusted=True)
                synced.paused.append(name)
    return synced


def _sync_one(row: TaskSchedule | None, declaration: Declaration, synced: Synced) -> None:
    if row is None:
        columns = dict(declaration.columns)
        create_schedule(TaskSchedule(name=declaration.name, declared=columns, **columns), trusted=True)
        synced.created.append(declaration.name)
        return
    before = row.declared or {}
    changes = _followed(row, before, declaration.columns)
    if before.get("removed") and before.get("was_enabled") and not row.enabled:
        changes["enabled"] = declaration.columns["enabled"]
    if changes or before != declaration.columns:
        change_schedule(row.id, changes | {"declared": dict(declaration.columns)}, trusted=True)
    if changes:
        synced.changed.append(declaration.name)


def _followed(row: TaskSchedule, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What of the new declaration the row takes over: the columns that are as they were declared last. The columns of
    its rule are one.
    """
    overridden = {name for name in now if name not in before or getattr(row, name) != before[name]}
    if overridden & set(RULE):
        overridden |= set(RULE)
    return {name: value for name, value in now.items() if name not in overridden and getattr(row, name) != value}
