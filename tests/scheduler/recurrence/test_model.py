"""Recurrences beside a model that knows no shortcuts: it looks at every minute around a change of clocks, and at every
day of some years.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.recurrence.rules import BadRecurrence, Recurrence, make_rule

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)

# What is odd about clocks: half hours, two hours, midnights, a minute past midnight, a day that never was, summer time
# that is the exception, and years ago.
CHANGES = [
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("Europe/Bucharest", "2026-03-29T01:00"),
    ("Europe/Bucharest", "2026-10-25T01:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Antarctica/Troll", "2026-03-29T01:00"),
    ("Antarctica/Troll", "2026-10-25T01:00"),
    ("America/Sao_Paulo", "2017-10-15T03:00"),
    ("America/Sao_Paulo", "2018-02-18T02:00"),
    ("Asia/Beirut", "2026-03-28T22:00"),
    ("Asia/Beirut", "2026-10-24T21:00"),
    ("America/St_Johns", "2006-04-02T03:31"),
    ("America/St_Johns", "2006-10-29T02:31"),
    ("Africa/Casablanca", "2026-02-15T02:00"),
    ("Africa/Casablanca", "2026-03-22T02:00"),
    ("Pacific/Apia", "2011-12-30T10:00"),
    ("Asia/Pyongyang", "2015-08-14T15:00"),
    ("Europe/Paris", "1940-06-14T22:00"),
    ("UTC", "2026-03-29T01:00"),
]
changes = st.sampled_from(CHANGES)


def shown(instant: datetime, zone: ZoneInfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def minutes(begin: datetime, end: datetime) -> list[datetime]:
    return [begin + number * MINUTE for number in range((end - begin) // MINUTE + 1)]


def every_pass(fits: Any, begin: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
    return [at for at in minutes(begin, end) if fits(shown(at, zone))]


def once(fits: Any, begin: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
    """Each local minute the first time that the clocks have reached it, or are beyond it."""
    fired = []
    reached = shown(begin - DAY, zone)
    for at in minutes(begin - DAY + MINUTE, end):
        passed = []
        while reached < shown(at, zone):
            reached += MINUTE
            passed.append(reached)
        if any(fits(local) for local in passed):
            fired.append(at)
    return [at for at in fired if at >= begin]


def occurrences(rule: dict[str, Any], begin: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
    recurrence = Recurrence(make_rule(**rule), begin, zone)
    return list(takewhile(lambda at: at <= end, recurrence.after(begin - timedelta(seconds=1))))


@st.composite
def windows(draw: Any) -> tuple[ZoneInfo, datetime, datetime]:
    """Some hours before and after a change of clocks."""
    name, change = draw(changes)
    at = datetime.fromisoformat(change).replace(tzinfo=UTC)
    return ZoneInfo(name), at - draw(st.integers(1, 1_600)) * MINUTE, at + draw(st.integers(1, 1_600)) * MINUTE


MINUTES = {"*": range(60), "*/15": range(0, 60, 15), "0": [0], "30": [30], "1,31": [1, 31], "50-10/10": [50, 0, 10]}
HOURS = {
    "*": range(24), "*/2": range(0, 24, 2), "1/2": range(1, 24, 2), "0-6": range(7), "1,2,3": [1, 2, 3], "2": [2],
    "23": [23], "0": [0], "22-2": [22, 23, 0, 1, 2],
}  # fmt: skip
DAYS = {"*": range(8), "SUN": [0], "FRI-SUN": [5, 6, 0], "6-1": [6, 0, 1], "MON-FRI": range(1, 6), "7": [0]}


@settings(deadline=None, max_examples=150)
@given(windows(), st.sampled_from(list(MINUTES)), st.sampled_from(list(HOURS)), st.sampled_from(list(DAYS)))
def test_cron_fires_at_every_minute_that_fits(window: Any, minute: str, hour: str, day: str) -> None:
    zone, begin, end = window

    def fits(local: datetime) -> bool:
        weekday = local.isoweekday() % 7
        return local.minute in MINUTES[minute] and local.hour in HOURS[hour] and weekday in DAYS[day]

    model = every_pass if minute.startswith("*") or hour.startswith("*") or "/" in hour else once

    assert occurrences({"cron": f"{minute} {hour} * * {day}"}, begin, end, zone) == model(fits, begin, end, zone)


WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")


@st.composite
def rule_lists(draw: Any) -> tuple[dict[str, list[int]], str]:
    """Some lists of an RRULE, and how they are written."""
    lists = {
        "BYHOUR": draw(st.lists(st.integers(0, 23), max_size=4, unique=True)),
        "BYMINUTE": draw(st.lists(st.sampled_from([0, 1, 15, 30, 31, 45, 59]), max_size=3, unique=True)),
        "BYDAY": draw(st.lists(st.integers(0, 6), max_size=4, unique=True)),
    }
    texts = [
        f";{name}={','.join(WEEKDAYS[number] if name == 'BYDAY' else str(number) for number in numbers)}"
        for name, numbers in lists.items()
        if numbers
    ]
    return lists, "".join(texts)


@settings(deadline=None, max_examples=150)
@given(windows(), rule_lists(), st.sampled_from(["DAILY", "HOURLY", "MINUTELY"]), st.booleans())
def test_an_rrule_of_every_step_fires_at_every_minute_that_fits(
    window: Any, lists: Any, freq: str, plain: bool
) -> None:
    zone, begin, end = window
    numbers, text = lists
    if plain or freq == "DAILY":
        local = shown(begin, zone)
        defaults = {"DAILY": ["BYHOUR", "BYMINUTE"], "HOURLY": ["BYMINUTE"], "MINUTELY": []}[freq]
        values = {"BYHOUR": local.hour, "BYMINUTE": local.minute}
        text += "".join(f";{name}={values[name]}" for name in defaults if not numbers[name])
        numbers = numbers | {name: numbers[name] or [values[name]] for name in defaults}
    elif freq == "HOURLY" and not numbers["BYMINUTE"]:
        return

    def fits(local: datetime) -> bool:
        found = {"BYHOUR": local.hour, "BYMINUTE": local.minute, "BYDAY": local.weekday()}
        return all(not numbers[name] or found[name] in numbers[name] for name in numbers)

    model = once if numbers["BYHOUR"] else every_pass
    expected = [at for at in model(fits, begin, end, zone) if at >= begin]

    assert occurrences({"rrule": f"FREQ={freq}{text}"}, begin, end, zone) == expected


@settings(deadline=None)
@given(windows(), st.integers(1, 300))
def test_steps_of_minutes_are_elapsed_time(window: Any, interval: int) -> None:
    zone, begin, end = window

    found = occurrences({"rrule": f"FREQ=MINUTELY;INTERVAL={interval}"}, begin, end, zone)

    assert found == minutes(begin, end)[::interval]


# Days

STARTS = st.dates(date(2023, 1, 1), date(2030, 12, 31))


@st.composite
def day_rules(draw: Any) -> dict[str, Any]:
    freq = draw(st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    ordinals = {"MONTHLY": [0, 0, 1, 2, 5, -1, -5], "YEARLY": [0, 0, 1, 4, -1]}.get(freq, [0])
    rule = {
        "freq": freq,
        "interval": draw(st.integers(1, 4)),
        "week_start": draw(st.integers(0, 6)),
        "days": draw(st.lists(st.tuples(st.sampled_from(ordinals), st.integers(0, 6)), max_size=4, unique=True)),
        "months": draw(st.lists(st.integers(1, 12), max_size=3, unique=True)),
        "month_days": [],
        "positions": [],
    }
    if freq != "WEEKLY":
        rule["month_days"] = draw(st.lists(st.sampled_from([1, 2, 13, 29, 31, -1, -2, -31]), max_size=3, unique=True))
    if freq != "DAILY" and (rule["days"] or rule["month_days"]):
        rule["positions"] = draw(st.lists(st.sampled_from([1, 2, 3, 5, -1, -2, 40]), max_size=3, unique=True))
    return rule


def written(rule: dict[str, Any]) -> str:
    text = f"FREQ={rule['freq']};INTERVAL={rule['interval']};WKST={WEEKDAYS[rule['week_start']]}"
    days = [f"{ordinal or ''}{WEEKDAYS[weekday]}" for ordinal, weekday in rule["days"]]
    for name, values in (
        ("BYDAY", days),
        ("BYMONTH", rule["months"]),
        ("BYMONTHDAY", rule["month_days"]),
        ("BYSETPOS", rule["positions"]),
    ):
        text += f";{name}={','.join(map(str, values))}" if values else ""
    return text


def period(day: date, rule: dict[str, Any]) -> int:
    periods: dict[str, int] = {
        "DAILY": day.toordinal(),
        "WEEKLY": (day.toordinal() - 1 - rule["week_start"]) // 7,
        "MONTHLY": day.year * 12 + day.month,
        "YEARLY": day.year,
    }
    return periods[rule["freq"]]


def nth_from_both_ends(day: date, by_month: bool) -> tuple[int, int]:
    first = day.replace(day=1) if by_month else date(day.year, 1, 1)
    last = date(day.year, day.month if by_month else 12, monthrange(day.year, day.month)[1] if by_month else 31)
    before = sum(1 for number in range(first.toordinal(), day.toordinal()) if number % 7 == day.toordinal() % 7)
    behind = sum(1 for number in range(day.toordinal() + 1, last.toordinal() + 1) if number % 7 == day.toordinal() % 7)
    return before + 1, -behind - 1


def fits_day(day: date, rule: dict[str, Any], start: date) -> bool:
    months, month_days, days = rule["months"], rule["month_days"], rule["days"]
    if rule["freq"] == "YEARLY" and not months and (month_days or not days):
        months = [start.month]
    if rule["freq"] in ("MONTHLY", "YEARLY") and not month_days and not days:
        month_days = [start.day]
    if rule["freq"] == "WEEKLY" and not days:
        days = [(0, start.weekday())]
    by_month = rule["freq"] == "MONTHLY" or bool(months)
    length = monthrange(day.year, day.month)[1]
    return (
        (not months or day.month in months)
        and (not month_days or day.day in month_days or day.day - length - 1 in month_days)
        and (
            not days
            or any(
                weekday == day.weekday() and (not ordinal or ordinal in nth_from_both_ends(day, by_month))
                for ordinal, weekday in days
            )
        )
    )


def expected_days(rule: dict[str, Any], start: date, end: date) -> Iterable[date]:
    origin = start - timedelta(370)
    every = [date.fromordinal(number) for number in range(origin.toordinal(), end.toordinal() + 370)]
    for number, days in groupby(every, lambda day: period(day, rule)):
        found = [day for day in days if fits_day(day, rule, start)]
        if (number - period(start, rule)) % rule["interval"]:
            continue
        if rule["positions"]:
            picked = {found[at - 1 if at > 0 else at] for at in rule["positions"] if -len(found) <= at <= len(found)}
            found = sorted(picked)
        yield from (day for day in found if start <= day <= end)


@settings(deadline=None, max_examples=150)
@given(day_rules(), STARTS)
def test_an_rrule_fires_on_every_day_that_fits(rule: dict[str, Any], start: date) -> None:
    begin = datetime(start.year, start.month, start.day, 12, tzinfo=UTC)
    end = begin + timedelta(900)

    try:
        found = [at.date() for at in occurrences({"rrule": written(rule)}, begin, end, ZoneInfo("UTC"))]
    except BadRecurrence:
        # It finds nothing in thousands of days: neither does the model.
        found = []

    assert found == list(expected_days(rule, start, end.date()))


@pytest.mark.parametrize("week_start", range(7))
def test_a_numbered_week_belongs_to_the_year_of_its_fourth_day(week_start: int) -> None:
    rule = {"rrule": f"FREQ=YEARLY;BYWEEKNO=1,20,-1;BYDAY={','.join(WEEKDAYS)};WKST={WEEKDAYS[week_start]}"}
    begin, end = (datetime(year, 6, 1, tzinfo=UTC) for year in (2020, 2040))
    expected = []
    for number in range((end - begin).days):
        at = begin + number * DAY
        fourth = at - (at.weekday() - week_start) % 7 * DAY + 3 * DAY
        is_last = (fourth + 7 * DAY).year > fourth.year
        if is_last or (fourth.timetuple().tm_yday + 6) // 7 in (1, 20):
            expected.append(at)

    assert occurrences(rule, begin, end, ZoneInfo("UTC")) == expected
