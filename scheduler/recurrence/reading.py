"""Lists of days, times and hours as they are written, read and refused with what would be right. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from scheduler.recurrence.calendars import WEEKDAYS, Calendar, Span, UnknownCountry, holidays_of
from scheduler.recurrence.exceptions import MAX_MOMENTS, BadMoment, Moments, read_moment
from scheduler.recurrence.rules import BadRecurrence

# Opening hours of a day.
MAX_HOURS = 24
# A year whose holidays tell whether a country has any.
SOME_YEAR = 2026


def moments(field: str, texts: Any, zone: ZoneInfo) -> Moments:
    """Days and instants of a list; raises BadRecurrence for the entry that is none."""
    days: set[date] = set()
    instants: set[datetime] = set()
    for place, text in enumerate(_bounded_list(field, texts, MAX_MOMENTS)):
        try:
            read = read_moment(text, zone)
        except BadMoment as error:
            raise BadRecurrence(f"{field}/{place}", str(error)) from None
        if isinstance(read, datetime):
            instants.add(read)
        else:
            days.add(read)
    return Moments(frozenset(days), frozenset(instants))


def read_calendar(
    name: str,
    *,
    country: str,
    subdivision: str,
    weekdays: Any,
    hours: Any,
    closed_days: Any,
    open_days: Any,
) -> Calendar:
    """A calendar as it is written; raises BadRecurrence for what cannot be."""
    if subdivision and not country:
        raise BadRecurrence("country", "Give the country that the subdivision is a part of.", "subdivision")
    if country:
        try:
            holidays_of(country, subdivision, SOME_YEAR)
        except UnknownCountry as error:
            raise BadRecurrence("subdivision" if subdivision else "country", str(error)) from None
    return Calendar(
        name,
        country,
        subdivision,
        frozenset(_weekdays(weekdays) or range(7)),
        tuple(_hours(hours)),
        tuple(_spans("closed_days", closed_days)),
        tuple(_spans("open_days", open_days)),
    )


def _bounded_list(field: str, texts: Any, most: int) -> Sequence[Any]:
    if not isinstance(texts, list):
        raise BadRecurrence(field, "Must be a list.")
    if len(texts) > most:
        raise BadRecurrence(field, f"At most {most:,} entries, not {len(texts):,}.")
    return texts


def _weekdays(texts: Any) -> list[int]:
    for place, text in enumerate(_bounded_list("weekdays", texts, len(WEEKDAYS))):
        if text not in WEEKDAYS:
            raise BadRecurrence(f"weekdays/{place}", f"Must be one of {', '.join(WEEKDAYS)}, not {str(text)[:40]!r}.")
    return [WEEKDAYS.index(text) for text in texts]


def _hours(texts: Any) -> list[tuple[time, time]]:
    return [_span_of_hours(place, text) for place, text in enumerate(_bounded_list("hours", texts, MAX_HOURS))]


def _span_of_hours(place: int, text: Any) -> tuple[time, time]:
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-(([01]\d|2[0-3]):([0-5]\d)|24:00)", str(text), re.ASCII)
    if match:
        begin = time(int(match[1]), int(match[2]))
        end = time.max if match[3] == "24:00" else time(int(match[4]), int(match[5]))
        if begin < end:
            return begin, end
    raise BadRecurrence(
        f"hours/{place}",
        f"{str(text)[:40]!r} is not a time of day to a later one, such as 09:00-17:00. Over midnight, give two: "
        "22:00-24:00 and 00:00-06:00.",
    )


def _spans(field: str, texts: Any) -> list[Span]:
    return [_span(field, place, text) for place, text in enumerate(_bounded_list(field, texts, MAX_MOMENTS))]


def _span(field: str, place: int, text: Any) -> Span:
    if isinstance(text, str) and re.fullmatch(r"\d{4}-\d\d-\d\d(/\d{4}-\d\d-\d\d)?", text, re.ASCII):
        first, _, last = text.partition("/")
        try:
            span = date.fromisoformat(first), date.fromisoformat(last or first)
        except ValueError:
            pass
        else:
            if span[0] <= span[1]:
                return span
    raise BadRecurrence(
        f"{field}/{place}",
        f"{str(text)[:40]!r} is neither a day, such as 2030-12-24, nor one to a later one, such as "
        "2030-12-24/2031-01-01.",
    )
