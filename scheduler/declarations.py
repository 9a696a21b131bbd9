"""Schedules declared in code: `schedule("nightly", cleanup, cron="0 3 * * *", timezone="Europe/Berlin")`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.kinds import Kind
from scheduler.recurrence.rules import make_rule, zone_named

RULE = ("interval", "every_x_days", "every_x_hours", "cron", "rrule")
# What may be declared besides the rule, and what it is otherwise.
OPTIONS: Mapping[str, Any] = {
    "timezone": "UTC",
    "description": "",
    "priority": 5,
    "schedule_x_times": None,
    "misfire_policy": "latest",
    "overlap": "allow",
    "max_running": 1,
    "jitter_seconds": 0,
    "exclude": [],
    "include": [],
    "calendars": [],
    "on_closed": "skip",
    "on_failure": [],
    "enabled": True,
}


@dataclass(frozen=True)
class Declaration:
    """A schedule as code has it: the columns of its row."""

    name: str
    columns: Mapping[str, Any]


declared: dict[str, Declaration] = {}


def schedule(name: str, kind: str | Kind, payload: Any = None, **options: Any) -> None:
    """Declares a schedule of jobs of the kind. `manage.py migrate`, and `manage.py schedules sync`, write it to the
    database; what operators have changed of it since is left as it is.

    options: one of interval, every_x_days and/or every_x_hours, cron and rrule, and any of OPTIONS.

    Raises ValueError for a rule or an option that cannot be, or for a name that is declared otherwise already.
    """
    if unknown := options.keys() - {*RULE, *OPTIONS}:
        raise ValueError(f"The schedule {name!r} has unknown options: {', '.join(sorted(unknown))}.")
    make_rule(**{column: options.get(column) for column in RULE})
    zone_named(options.get("timezone", "UTC"))
    columns = {column: options.get(column) for column in RULE} | dict(OPTIONS) | options
    columns |= {"kind": kind if isinstance(kind, str) else kind.name, "payload": {} if payload is None else payload}
    new = Declaration(name, columns)
    if declared.setdefault(name, new) != new:
        raise ValueError(f"The schedule {name!r} is declared twice.")
