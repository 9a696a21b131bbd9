"""Arguments that say which jobs are meant, and when something is to be."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.core.management.base import CommandParser
from django.utils import timezone

from orchestrator.inputs import is_misread
from orchestrator.states import Status
from orchestrator.steering.changing import Change
from orchestrator.steering.selection import JobFilter
from orchestrator.steering.waiting import REASONS

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
FILTERS = ("status", "kind", "owner", "queue", "priority", "waiting_for", "parent", "schedule")
TIMES = ("created_after", "created_before", "finished_after", "finished_before")
MAX_SPAN_DIGITS = 6


def add_filter(parser: CommandParser) -> None:
    group = parser.add_argument_group("which jobs (all that is given has to fit)")
    group.add_argument(
        "--status", action="append", choices=Status.values, metavar="STATUS", help=f"Repeatable: {', '.join(Status)}."
    )
    group.add_argument("--kind", action="append", help="Repeatable.")
    group.add_argument("--owner", action="append", help="Repeatable.")
    group.add_argument("--queue", action="append", help="Repeatable.")
    group.add_argument("--priority", action="append", type=int, choices=range(10), metavar="0-9", help="Repeatable.")
    group.add_argument(
        "--waiting-for",
        action="append",
        choices=list(REASONS),
        metavar="REASON",
        help=f"Repeatable: {', '.join(REASONS)}.",
    )
    group.add_argument("--parent", type=job_id, metavar="ID", help="The children of this job; else none are meant.")
    group.add_argument("--schedule", type=schedule_id, metavar="ID", help="Submitted by this schedule.")
    for name in TIMES:
        is_after = name.endswith("after")
        text = f"{name.partition('_')[0].capitalize()} {'at this time or later' if is_after else 'before this time'}."
        group.add_argument(f"--{name.replace('_', '-')}", type=past, metavar="TIME", help=text)


def filter_of(options: Mapping[str, Any]) -> JobFilter:
    """Raises BadFilter where nothing is given."""
    given = {name: options[name] for name in (*FILTERS, *TIMES)}
    return JobFilter(ids=options.get("ids") or (), **{name: value for name, value in given.items() if value})


def change_of(options: Mapping[str, Any]) -> Change:
    """Raises BadSubmission where nothing is given."""
    run_at = options["set_run_at"]
    return Change(
        priority=options["set_priority"], run_at=None if run_at == "now" else run_at, at_once=run_at == "now"
    )


def job_id(text: str) -> UUID:
    return _id(text, "a job")


def schedule_id(text: str) -> UUID:
    return _id(text, "a schedule")


def _id(text: str, whose: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not the id of {whose}, a UUID") from None


def past(text: str) -> datetime:
    """A time, or how long ago: 2h."""
    return _moment(text, -1, "how long ago: 90s, 30m, 2h, 7d")


def future(text: str) -> datetime | str:
    """A time, or in how long: 2h; or now."""
    return text if text == "now" else _moment(text, 1, "in how long: 90s, 30m, 2h, 7d; or now")


def _moment(text: str, sign: int, otherwise: str) -> datetime:
    if span := re.fullmatch(rf"(\d{{1,{MAX_SPAN_DIGITS}}})([smhd])", text, re.ASCII):
        return timezone.now() + sign * timedelta(**{UNITS[span[2]]: int(span[1])})
    try:
        moment = None if is_misread(text) else datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        right = f"a time with its offset, as 2030-01-31T12:00:00Z, or {otherwise}"
        raise ArgumentTypeError(f"{text!r} is not valid; give {right}")
    return moment
