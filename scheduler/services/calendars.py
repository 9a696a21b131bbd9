"""What can be done with calendars, which schedules share: create, change and delete them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Least, Now

from access import audit
from scheduler.models import Calendar, TaskSchedule, calendars_named
from scheduler.recurrence.calendars import Calendar as BusinessCalendar
from scheduler.recurrence.rules import BadRecurrence

MAX_NAMED = 5

# Whoever changes or deletes one of them waits until schedules that were made with it are there.
LOCK = "SELECT FROM scheduler_calendar WHERE name = ANY(%s) ORDER BY name FOR SHARE"


class CalendarInUse(Exception):
    """Schedules name the calendar, so it cannot be deleted."""

    def __init__(self, name: str, schedules: Collection[str]) -> None:
        more = " and others" * (len(schedules) > MAX_NAMED)
        named = ", ".join(list(schedules)[:MAX_NAMED])
        super().__init__(f"Schedules use the calendar {name!r}: {named}{more}. Take it from them first.")


def create_calendar(calendar: Calendar) -> Calendar:
    """Writes a new calendar. Raises BadRecurrence for what cannot be, or where there is one of that name."""
    _check(calendar)
    try:
        with transaction.atomic():
            calendar.save(force_insert=True)
            audit.record("calendar.create", calendar.name, calendar.name, after=_audited(calendar))
    except IntegrityError:
        raise BadRecurrence("name", f"There is a calendar {calendar.name!r} already.") from None
    return Calendar.objects.get(name=calendar.name)


def change_calendar(name: str, changes: Mapping[str, Any]) -> Calendar:
    """Changes some columns of a calendar. The next tick gives the schedules that name it their next occurrences by it.

    Raises Calendar.DoesNotExist, or BadRecurrence; then nothing was written.
    """
    with transaction.atomic():
        calendar = Calendar.objects.select_for_update(no_key=True).get(name=name)
        before = _audited(calendar)
        for column, value in changes.items():
            setattr(calendar, column, value)
        _check(calendar)
        if (after := _audited(calendar)) != before:
            calendar.updated_at = Now()
            calendar.save()
            # One that is due earlier than it was, and one that no longer is, are found alike: by looking from now on.
            users = TaskSchedule.objects.filter(calendars__contains=[name], enabled=True, next_run_at__isnull=False)
            users.update(next_run_at=Least("next_run_at", Now()))
            values = audit.changes(before, after)
            audit.record("calendar.change", name, name, before=values["before"], after=values["after"])
    return Calendar.objects.get(name=name)


def delete_calendar(name: str) -> None:
    """Deletes a calendar that no schedule names. Raises Calendar.DoesNotExist, or CalendarInUse."""
    with transaction.atomic():
        calendar = Calendar.objects.select_for_update().get(name=name)
        users = TaskSchedule.objects.filter(calendars__contains=[name]).order_by("id")[: MAX_NAMED + 1]
        if named := [str(schedule) for schedule in users]:
            raise CalendarInUse(name, named)
        audit.record("calendar.delete", name, name, before=_audited(calendar))
        calendar.delete()


def lock_calendars(names: Collection[str]) -> None:
    """Keeps the calendars from being changed until the transaction ends."""
    if names:
        with connection.cursor() as cursor:
            cursor.execute(LOCK, [list(names)])


def load_calendars(schedules: Sequence[TaskSchedule]) -> Mapping[str, BusinessCalendar]:
    """Reads the calendars of all the schedules at once; returns them by name."""
    loaded = calendars_named({name for schedule in schedules for name in schedule.calendars})
    for schedule in schedules:
        schedule.loaded_calendars = loaded
    return loaded


def _check(calendar: Calendar) -> None:
    assert calendar.rules


def _audited(calendar: Calendar) -> dict[str, Any]:
    names = ("description", "country", "subdivision", "weekdays", "hours", "closed_days", "open_days")
    return {name: getattr(calendar, name) for name in names}
