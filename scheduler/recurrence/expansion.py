"""From a rule of RFC 5545 and its start to the instants when it fires. Pure.

A rule that names no hours and steps by hours, minutes or seconds counts real time. All others count by the clock on
the wall: each occurrence is found as a local time, and then the instant of it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from scheduler.recurrence import by_days, clocks, within_days
from scheduler.recurrence.clocks import SECOND
from scheduler.recurrence.rrule import WITHIN_A_DAY, BadRRule, Rule
from scheduler.recurrence.search import Search

# What COUNT may cost, once.
MAX_STEPS_COUNTED = 200_000


def instants(rule: Rule, start: datetime, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The occurrences later than the instant, and perhaps a few earlier ones, rising; the first may be the start.

    Raises BadRRule where they take too long to find.
    """
    excluded = {moment.instant(zone) for moment in rule.excluded}
    added = sorted({moment.instant(zone) for moment in rule.added})
    end = _end(rule, start, zone)
    found = takewhile(lambda at: at <= end, _endless(rule, start, zone, max(start, after), Search()))
    for instant in heapq.merge(found, added):
        if instant not in excluded:
            yield instant


def _end(rule: Rule, start: datetime, zone: ZoneInfo) -> datetime:
    if rule.until:
        return rule.until.last_instant(zone)
    return _last_counted(rule, start, zone) if rule.count else datetime.max.replace(tzinfo=UTC)


@lru_cache(maxsize=10_000)
def _last_counted(rule: Rule, start: datetime, zone: ZoneInfo) -> datetime:
    """The instant of the last occurrence that COUNT allows; counted once, so that no tick has to."""
    search = Search(most=MAX_STEPS_COUNTED, earned=0, left=MAX_STEPS_COUNTED)
    try:
        last = deque(islice(_endless(rule, start, zone, start, search), rule.count), maxlen=1)
    except BadRRule:
        raise BadRRule(
            f"COUNT={rule.count} takes too long to count; use UNTIL, ends_at or schedule_x_times."
        ) from None
    return last[0] if last else start


def _endless(rule: Rule, start: datetime, zone: ZoneInfo, after: datetime, search: Search) -> Iterator[datetime]:
    """The occurrences from the start on, none twice, whatever COUNT and UNTIL say, to the end of the calendar."""
    latest = start - SECOND
    try:
        for instant in _by_its_clock(rule, start, zone, after, search):
            if instant > latest:
                latest = instant
                search.found()
                yield instant
    except OverflowError:
        return


def _by_its_clock(rule: Rule, start: datetime, zone: ZoneInfo, after: datetime, search: Search) -> Iterator[datetime]:
    if rule.counts_real_time:
        yield from within_days.times(rule, start, after, lambda instant: clocks.to_local(instant, zone), search)
        return
    local_start, local_after = clocks.to_local(start, zone), clocks.to_local(after, zone)
    if rule.freq in WITHIN_A_DAY:
        found = within_days.times(rule, local_start, local_after, lambda local: local, search)
    else:
        found = by_days.local_times(_with_defaults(rule, local_start), local_start, local_after, search)
    for local in found:
        if local >= local_start:
            # The start may be in an hour that the clocks repeat, the second time.
            yield start if local == local_start else clocks.to_instant(local, zone)


def _with_defaults(rule: Rule, start: datetime) -> Rule:
    """The rule with what it does not say taken from its start: the time, and the day, weekday or month."""
    rule = replace(
        rule,
        hours=rule.hours or (start.hour,),
        minutes=rule.minutes or (start.minute,),
        seconds=rule.seconds or (start.second,),
    )
    if rule.freq == "WEEKLY" or (rule.week_numbers and not rule.month_days and not rule.year_days):
        return replace(rule, weekdays=rule.weekdays or ((0, start.weekday()),))
    if rule.freq == "DAILY" or rule.year_days or rule.week_numbers:
        return rule
    if not rule.month_days and rule.weekdays:
        return rule
    months = (start.month,) if rule.freq == "YEARLY" else ()
    return replace(rule, months=rule.months or months, month_days=rule.month_days or (start.day,))
