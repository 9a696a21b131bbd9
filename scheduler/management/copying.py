"""Copies of schedules and calendars: exported as plain data, and imported, all of it or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from django.db import transaction
from rest_framework import serializers

from orchestrator.http.fields import StrictCharField
from orchestrator.http.requests import first_problems, problems_in
from orchestrator.kind_problems import BadPayload, InternalKind, Problem, UnknownKind
from orchestrator.submission import BadSubmission
from scheduler.http.calendar_views import CalendarBody
from scheduler.http.schedule_serializers import ScheduleBody
from scheduler.models import Calendar, TaskSchedule
from scheduler.recurrence.rules import BadRecurrence
from scheduler.services.calendars import change_calendar, create_calendar
from scheduler.services.schedules import change_schedule, create_schedule

PARTS = ("calendars", "schedules")
# Those that are given in any case, so that an import restores them whatever they have become.
ALWAYS = ("scheduled_at", "enabled")

Row = dict[str, Any]


class BadFile(Exception):
    """What is to be imported cannot be, for these reasons; nothing was written."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        super().__init__(problems[0].detail)


class Done(NamedTuple):
    """What became of a calendar or a schedule: created, changed (in these fields) or unchanged."""

    action: str
    what: str
    name: str
    fields: Sequence[str] = ()


class ScheduleInFile(ScheduleBody):
    """A schedule with its owner. One that has a name is known by it and its owner, any other by its id."""

    id = serializers.UUIDField(required=False)
    owner = StrictCharField(required=False, allow_blank=True, default="", max_length=150)

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """Texts as they are, blanks at their ends included: what code declares may have them."""
        fields = super().get_fields()
        for name in ("name", "description"):
            fields[name].trim_whitespace = False  # type: ignore[attr-defined]
        return fields

    def validate(self, attrs: Row) -> Row:
        if bool(attrs["name"]) == ("id" in attrs):
            raise serializers.ValidationError({"name": "Give the name of the schedule or, if it has none, its id."})
        return super().validate(attrs)


def exported(*, owner: str | None = None) -> Row:
    """The schedules, of one owner or of all, and the calendars that they name, without what is left at its default."""
    rows = TaskSchedule.objects.order_by("owner", "name", "id")
    schedules = list(rows if owner is None else rows.filter(owner=owner))
    names = {name for schedule in schedules for name in schedule.calendars}
    calendars = Calendar.objects.order_by("name").filter(name__in=names)
    return {
        "calendars": [_given(CalendarBody, calendar, keep=("name",)) for calendar in calendars],
        "schedules": [_exported_schedule(schedule) for schedule in schedules],
    }


def _exported_schedule(schedule: TaskSchedule) -> Row:
    given = _given(ScheduleInFile, schedule, keep=ALWAYS)
    if schedule.name:
        del given["id"]
    for name in ("kind", "payload") if schedule.adds else ("a", "b", "operation"):
        given.pop(name, None)
    # Either the operation as it was sent, or its operands.
    for name in ("a", "b") if schedule.operation else ():
        del given[name]
    return given


def _given(body: type[serializers.Serializer[Any]], row: Any, *, keep: Sequence[str]) -> Row:
    """The fields of the row, in the order of the body, that are not what they are by default."""
    found = {}
    for name, field in body().fields.items():
        value = getattr(row, name)
        default = None if field.default is serializers.empty else field.default
        if name in keep or value not in (default, "", None, [] if default is list else default):
            found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    """The value as JSON and YAML have it; decimals as texts, which are exact."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else f"{value:f}"
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) if isinstance(item, UUID) else item for item in value]
    return str(value) if isinstance(value, str) else value


def bring_in(document: Any, *, dry_run: bool = False) -> list[Done]:
    """Creates the calendars and schedules of an export, and changes those that there are, so that they are as it says.
    Others are left alone. What is left out has its default.

    Raises BadFile with all that is wrong; then nothing was written, and neither is anything by a dry run.
    """
    problems: list[Problem] = []
    parts = _parts(document)
    with transaction.atomic():
        done = [*_calendars(parts["calendars"], problems), *_schedules(parts["schedules"], problems)]
        if problems:
            raise BadFile(first_problems(problems, of=sum(map(len, parts.values())), what="entries"))
        transaction.set_rollback(dry_run)
    return done


def _parts(document: Any) -> Mapping[str, list[Any]]:
    if not isinstance(document, dict) or not document.keys() <= set(PARTS):
        raise BadFile([Problem("", "invalid", f"Must be an object with the lists {' and '.join(PARTS)} alone.")])
    if wrong := [name for name in document if not isinstance(document[name], list)]:
        raise BadFile([Problem(f"/{name}", "invalid", "Must be a list.") for name in wrong])
    return {name: document.get(name, []) for name in PARTS}


def _calendars(entries: Sequence[Any], problems: list[Problem]) -> Iterator[Done]:
    known = {row.name: row for row in Calendar.objects.all()}
    seen: set[Any] = set()
    for place, columns in _checked(CalendarBody, "calendars", entries, problems):
        pointer, name = f"/calendars/{place}", columns["name"]
        if not _is_first(name, seen, pointer, problems):
            continue
        try:
            if (row := known.get(name)) is None:
                create_calendar(Calendar(**columns))
                yield Done("created", "calendar", name)
                continue
            changes = _changes(row, columns)
            if changes:
                change_calendar(name, changes)
            yield Done("changed" if changes else "unchanged", "calendar", name, sorted(changes))
        except BadRecurrence as refusal:
            problems += _problems(refusal, pointer)


def _schedules(entries: Sequence[Any], problems: list[Problem]) -> Iterator[Done]:
    rows = TaskSchedule.objects.all()
    known: dict[Any, TaskSchedule] = {(row.owner, row.name) if row.name else row.id: row for row in rows}
    seen: set[Any] = set()
    for place, columns in _checked(ScheduleInFile, "schedules", entries, problems):
        pointer = f"/schedules/{place}"
        key = columns.get("id") or (columns["owner"], columns["name"])
        if not _is_first(key, seen, pointer, problems):
            continue
        try:
            yield _bring_in(known.get(key), columns)
        except (BadRecurrence, UnknownKind, InternalKind, BadPayload, BadSubmission) as refusal:
            problems += _problems(refusal, pointer)


def _bring_in(row: TaskSchedule | None, columns: Row) -> Done:
    if "scheduled_at" in columns:
        columns["scheduled_at"] = columns["scheduled_at"].replace(microsecond=0)
    if row is None:
        new = TaskSchedule(**columns)
        create_schedule(new)
        return Done("created", "schedule", str(new))
    changes = _changes(row, columns)
    if changes:
        # What code declares may also be of kinds that clients may not submit.
        change_schedule(row.id, changes, trusted=row.declared is not None)
    return Done("changed" if changes else "unchanged", "schedule", str(row), sorted(changes))


def _checked(
    body: type[serializers.Serializer[Any]], part: str, entries: Sequence[Any], problems: list[Problem]
) -> Iterator[tuple[int, Row]]:
    """The entries that are right by themselves, with their places."""
    for place, entry in enumerate(entries):
        read = body(data=entry)
        if read.is_valid():
            yield place, dict(read.validated_data)
        else:
            problems += problems_in(read.errors, f"/{part}/{place}")


def _is_first(key: Any, seen: set[Any], pointer: str, problems: list[Problem]) -> bool:
    if key in seen:
        problems.append(Problem(pointer, "duplicate", "The same is above."))
        return False
    seen.add(key)
    return True


def _changes(row: Any, columns: Row) -> Row:
    return {name: value for name, value in columns.items() if getattr(row, name) != value}


def _problems(refusal: Any, pointer: str) -> list[Problem]:
    if isinstance(refusal, BadRecurrence):
        return [Problem(f"{pointer}/{name}", "invalid", str(refusal)) for name in refusal.fields]
    return [problem._replace(pointer=pointer + problem.pointer) for problem in refusal.problems]
