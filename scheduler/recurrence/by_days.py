"""Rules that step by days or longer: the local times when they fire. Pure."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator, Sequence
from datetime import MAXYEAR, date, datetime, timedelta
from itertools import product

from scheduler.recurrence.calendar_days import days_in_year, fits, indexes_of, local_time, next_month
from scheduler.recurrence.rrule import Rule
from scheduler.recurrence.search import Search


def local_times(rule: Rule, start: datetime, after: datetime, search: Search) -> Iterator[datetime]:
    """Local times of a rule that steps by days or longer."""
    periods = {"YEARLY": _years, "MONTHLY": _months, "WEEKLY": _weeks, "DAILY": _days}[rule.freq]
    times = [
        timedelta(hours=hour, minutes=minute, seconds=second)
        for hour, minute, second in product(rule.hours, rule.minutes, rule.seconds)
    ]
    for days in periods(rule, start.date(), after.date(), search):
        if rule.positions:
            places = indexes_of(rule.positions, len(days) * len(times))
            yield from (local_time(days[place // len(times)], times[place % len(times)]) for place in places)
        else:
            yield from (local_time(day, time) for day in days if day >= after.date() for time in times)


def _years(rule: Rule, start: date, after: date, search: Search) -> Iterator[list[date]]:
    first = _week_year(start, rule.week_start) if rule.week_numbers else start.year
    passed = max(0, (after.year - 1 - first) // rule.interval)
    for year in range(first + passed * rule.interval, MAXYEAR, rule.interval):
        yield _fitting(rule, _candidates(rule, year), search)


def _candidates(rule: Rule, year: int) -> list[date]:
    """The days of a year, or of its weeks, that could fit, rising."""
    first = date(year, 1, 1)
    if rule.week_numbers:
        begin = _first_week(year, rule.week_start)
        weeks = (_first_week(year + 1, rule.week_start) - begin).days // 7
        return [begin + timedelta(7 * week + day) for week in indexes_of(rule.week_numbers, weeks) for day in range(7)]
    if rule.year_days:
        return [first + timedelta(place) for place in indexes_of(rule.year_days, days_in_year(year))]
    if not rule.months:
        return [first + timedelta(day) for day in range(days_in_year(year))]
    return [day for month in rule.months for day in _days_of_month(rule, year, month)]


def _days_of_month(rule: Rule, year: int, month: int) -> list[date]:
    length = monthrange(year, month)[1]
    places = indexes_of(rule.month_days, length) if rule.month_days else range(length)
    return [date(year, month, place + 1) for place in places]


def _months(rule: Rule, start: date, after: date, search: Search) -> Iterator[list[date]]:
    first = start.year * 12 + start.month - 1
    passed = max(0, (after.year * 12 + after.month - 1 - first) // rule.interval)
    for number in range(first + passed * rule.interval, MAXYEAR * 12, rule.interval):
        year, month = number // 12, number % 12 + 1
        if rule.months and month not in rule.months:
            search.spend()
        else:
            yield _fitting(rule, _days_of_month(rule, year, month), search)


def _weeks(rule: Rule, start: date, after: date, search: Search) -> Iterator[list[date]]:
    first = start - timedelta((start.weekday() - rule.week_start) % 7)
    step = timedelta(weeks=rule.interval)
    week = first + max(0, (after - first) // step) * step
    while True:
        yield _fitting(rule, [week + timedelta(day) for day in range(7)], search)
        week += step


def _days(rule: Rule, start: date, after: date, search: Search) -> Iterator[list[date]]:
    step = timedelta(rule.interval)
    day = start + max(0, (after - start) // step) * step
    while True:
        if rule.months and day.month not in rule.months:
            search.spend()
            day += max(step, -((day - next_month(day)) // step) * step)
        else:
            yield _fitting(rule, [day], search)
            day += step


def _fitting(rule: Rule, days: Sequence[date], search: Search) -> list[date]:
    search.spend(max(1, len(days)))
    return [day for day in days if fits(rule, day)]


def _first_week(year: int, week_start: int) -> date:
    """Where week 1 begins: the first with at least four days in the year, which therefore has its 4 January."""
    fourth = date(year, 1, 4)
    return fourth - timedelta((fourth.weekday() - week_start) % 7)


def _week_year(day: date, week_start: int) -> int:
    """The year whose numbered weeks the day is in, which at New Year may be the one before or after its own."""
    years = (day.year - 1, day.year, day.year + 1)
    return max(year for year in years if _first_week(year, week_start) <= day)
