"""Rules that step by hours, minutes or seconds: the times when they fire. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import product

from scheduler.recurrence import clocks
from scheduler.recurrence.calendar_days import fits, indexes_of, local_time, next_month
from scheduler.recurrence.rrule import STEPS, Rule
from scheduler.recurrence.search import Search

DAY, HOUR, MINUTE, SECOND = (STEPS[freq] for freq in ("DAILY", "HOURLY", "MINUTELY", "SECONDLY"))

Clock = Callable[[datetime], datetime]


def times(rule: Rule, start: datetime, after: datetime, clock: Clock, search: Search) -> Iterator[datetime]:
    """Times of a rule that steps within a day: instants, of which `clock` gives the local time, or local times."""
    unit = STEPS[rule.freq]
    step = unit * rule.interval
    shown = clock(start)
    into_unit = (shown - local_time(shown.date())) % unit
    first = start - into_unit
    window = first + max(0, (after - first) // step) * step
    while True:
        shown = clock(window)
        ahead = _later(window, _next_look(rule, shown) - shown, clock) - window
        if ahead >= unit:
            search.spend()
            window += _whole_steps(ahead, step, unit)
            continue
        found = [at for at in _in_window(rule, window, into_unit, unit, clock) if _fits_time(rule, clock(at))]
        search.spend()
        if rule.positions:
            found = [found[place] for place in indexes_of(rule.positions, len(found))]
        yield from found
        window += step


def _next_look(rule: Rule, shown: datetime) -> datetime:
    """The local time from which on the rule could fit, so far as its longer parts say: this one, if they fit it."""
    if rule.months and shown.month not in rule.months:
        return local_time(next_month(shown.date()))
    if not fits(rule, shown.date()):
        return local_time(shown.date(), DAY)
    if rule.hours and shown.hour not in rule.hours:
        return shown.replace(minute=0, second=0) + HOUR
    if rule.freq != "HOURLY" and rule.minutes and shown.minute not in rule.minutes:
        return shown.replace(second=0) + MINUTE
    return shown


def _whole_steps(ahead: timedelta, step: timedelta, unit: timedelta) -> timedelta:
    """From one window to the first that reaches beyond so much time."""
    steps, rest = divmod(ahead, step)
    return max(1, steps + (rest >= unit)) * step


def _later(window: datetime, ahead: timedelta, clock: Clock) -> datetime:
    """As much later or, where the clocks are changed in between, when they are."""
    if clock(window + ahead) - clock(window) == ahead:
        return window + ahead
    return clocks.first_change(window, window + ahead, clock)


def _in_window(rule: Rule, window: datetime, into_unit: timedelta, unit: timedelta, clock: Clock) -> list[datetime]:
    """The times of an hour, minute or second that have the minutes and seconds of the rule or else of its start."""
    if rule.freq == "SECONDLY" or not (rule.seconds or (rule.freq == "HOURLY" and rule.minutes)):
        return [window + into_unit]
    end = window + unit
    if clock(end - SECOND) - clock(window) == unit - SECOND:
        return _between(rule, window, end, into_unit, clock)
    change = clocks.first_change(window, end, clock)
    return _between(rule, window, change, into_unit, clock) + _between(rule, change, end, into_unit, clock)


def _between(rule: Rule, begin: datetime, end: datetime, into_unit: timedelta, clock: Clock) -> list[datetime]:
    """Those between two times between which no clocks are changed."""
    unit = STEPS[rule.freq]
    shown = clock(begin)
    minutes = (0,) if rule.freq == "MINUTELY" else rule.minutes or (into_unit // MINUTE,)
    seconds = rule.seconds or (into_unit % MINUTE // SECOND,)
    offsets = [timedelta(minutes=minute, seconds=second) for minute, second in product(minutes, seconds)]
    floor = shown - (shown - local_time(shown.date())) % unit
    times = [begin + (base + offset - shown) for base in (floor, floor + unit) for offset in offsets]
    return [time for time in times if begin <= time < end]


def _fits_time(rule: Rule, shown: datetime) -> bool:
    return (
        fits(rule, shown.date())
        and (not rule.hours or shown.hour in rule.hours)
        and (not rule.minutes or shown.minute in rule.minutes)
        and (not rule.seconds or shown.second in rule.seconds)
    )
