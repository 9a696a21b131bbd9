"""Which days a rule names, and where in their month or year days are. Pure."""

from __future__ import annotations

from calendar import isleap, monthrange
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta

from scheduler.recurrence.rrule import Rule


def local_time(day: date, time: timedelta = timedelta(0)) -> datetime:
    return datetime(day.year, day.month, day.day) + time  # noqa: DTZ001 - local time has no zone here


def indexes_of(positions: Iterable[int], length: int) -> list[int]:
    """Where, from 0, the positions are, which count from 1 or, negative, from the end."""
    places = {position - 1 if position > 0 else length + position for position in positions}
    return sorted(place for place in places if 0 <= place < length)


def next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(32)).replace(day=1)


def fits(rule: Rule, day: date) -> bool:
    """Whether the day is among all that the rule says of days, apart from the numbers of weeks."""
    if rule.months and day.month not in rule.months:
        return False
    if rule.month_days and not _is_place(day.day, monthrange(day.year, day.month)[1], rule.month_days):
        return False
    if rule.year_days and not _is_place(day.timetuple().tm_yday, days_in_year(day.year), rule.year_days):
        return False
    return not rule.weekdays or any(
        weekday == day.weekday() and (not ordinal or _is_nth(rule, day, ordinal)) for ordinal, weekday in rule.weekdays
    )


def _is_place(number: int, length: int, places: Sequence[int]) -> bool:
    return number in places or number - length - 1 in places


def _is_nth(rule: Rule, day: date, ordinal: int) -> bool:
    """Whether the day is the nth of its weekday in its month or year."""
    if rule.freq == "MONTHLY" or rule.months:
        number, length = day.day, monthrange(day.year, day.month)[1]
    else:
        number, length = day.timetuple().tm_yday, days_in_year(day.year)
    return ordinal == (number - 1) // 7 + 1 or -ordinal == (length - number) // 7 + 1


def days_in_year(year: int) -> int:
    return 366 if isleap(year) else 365
