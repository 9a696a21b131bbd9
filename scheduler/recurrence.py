"""Recurrences: from a rule, its start and its time zone to the instants at which it fires. Pure: no clock, no database.

Rules that speak of days or times of day (every_x_days, cron, rrule) count in local time. A local time that the clocks
skip fires at the first valid instant after it; one that they repeat fires once, the first time. Rules that speak of
seconds or hours alone count elapsed time, which daylight saving does not touch.

Every occurrence is computed from the start, never from an earlier run, so nothing drifts.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from dateutil.rrule import DAILY, HOURLY, MINUTELY, SECONDLY, WEEKLY, rrule, rrulestr

SECOND = timedelta(seconds=1)
# No zone's clocks are ever put forward or back by more; how far local time may differ from elapsed time in a day.
CLOCK_CHANGE = timedelta(hours=25)
LONGEST_INTERVAL = timedelta(days=36_525)
MOST_COUNTED = 10_000
EXPANSION_SECONDS = 1.0


class BadRecurrence(ValueError):
    """The rule cannot be used; `field` names the part of it that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


@dataclass(frozen=True)
class Elapsed:
    """Every so much time."""

    interval: timedelta

    def instants(self, start: datetime, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        steps = max(0, (after - start) // self.interval)
        while True:
            try:
                yield start + steps * self.interval
            except OverflowError:
                return
            steps += 1


@dataclass(frozen=True)
class Days:
    """Every so many days, or days and hours, by the clock on the wall."""

    interval: timedelta

    def instants(self, start: datetime, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        local_start = to_local(start, zone)
        steps = max(0, (to_local(after, zone) - CLOCK_CHANGE - local_start) // self.interval)
        while True:
            try:
                yield to_instant(local_start + steps * self.interval, zone)
            except OverflowError:
                return
            steps += 1


@dataclass(frozen=True)
class Cron:
    """Five fields: minute, hour, day of month, month, day of week; both day fields restricted: either may match."""

    expression: str

    def instants(self, start: datetime, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        for local in CronSim(self.expression, to_local(max(start, after), zone) - CLOCK_CHANGE):
            yield to_instant(local, zone)


@dataclass(frozen=True)
class RRule:
    """RFC 5545, section 3.3.10; the start is its DTSTART."""

    text: str

    def instants(self, start: datetime, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        rule = _parse_rrule(self.text, to_local(start, zone), zone)
        for local in _moved_forward(rule, to_local(after, zone) - CLOCK_CHANGE):
            yield to_instant(local, zone)


Rule = Elapsed | Days | Cron | RRule


@dataclass(frozen=True)
class Recurrence:
    """A rule with its start and end, as instants, and the zone whose clocks it follows."""

    rule: Rule
    start: datetime
    zone: ZoneInfo
    end: datetime | None = None

    def after(self, instant: datetime) -> Iterator[datetime]:
        """The occurrences later than the instant, rising, none twice; the first may be the start itself."""
        latest = instant
        for occurrence in self.rule.instants(self.start, self.zone, instant):
            if self.end and occurrence > self.end:
                return
            if occurrence > latest and occurrence >= self.start:
                latest = occurrence
                yield occurrence

    def next_after(self, instant: datetime) -> datetime | None:
        return next(self.after(instant), None)

    def latest(self, instant: datetime) -> datetime:
        """The last occurrence not later than the instant; raises BadRecurrence if there is none."""
        window = timedelta(hours=1)
        while True:
            begin = max(instant - window, self.start) - SECOND
            if found := list(takewhile(lambda at: at <= instant, self.after(begin))):
                return found[-1]
            if begin < self.start:
                raise BadRecurrence("scheduled_at", "Nothing has been due yet.")
            window *= 2

    def first(self) -> datetime | None:
        return self.next_after(self.start - SECOND)


def make_rule(
    *,
    interval: int | None = None,
    every_x_days: int | None = None,
    every_x_hours: int | None = None,
    cron: str | None = None,
    rrule: str | None = None,
) -> Rule:
    """The one rule that is given; raises BadRecurrence for none, for two, or for one that says nothing useful."""
    calendar = every_x_days is not None or every_x_hours is not None
    given = [interval is not None, calendar, cron is not None, rrule is not None]
    if sum(given) != 1:
        raise BadRecurrence(
            "interval", "Give exactly one of interval, every_x_days and/or every_x_hours, cron and rrule."
        )
    if interval is not None:
        return Elapsed(_bounded("interval", timedelta, seconds=interval))
    if calendar:
        field = "every_x_hours" if every_x_days is None else "every_x_days"
        length = _bounded(field, timedelta, days=every_x_days or 0, hours=every_x_hours or 0)
        return Days(length) if every_x_days else Elapsed(length)
    if cron is not None:
        return Cron(_checked_cron(cron))
    assert rrule is not None
    return RRule(rrule)


def require_firing(recurrence: Recurrence) -> None:
    """Raises BadRecurrence for a recurrence that never fires, or whose first occurrences take too long to find.

    An RRULE may search the calendar until the year 9999, so another process, which can be stopped, tries it first.
    """
    field = {Elapsed: "interval", Days: "every_x_days", Cron: "cron", RRule: "rrule"}[type(recurrence.rule)]
    if isinstance(recurrence.rule, RRule):
        _parse_rrule(recurrence.rule.text, to_local(recurrence.start, recurrence.zone), recurrence.zone)
        _try_elsewhere(recurrence.rule.text, to_local(recurrence.start, recurrence.zone))
    if recurrence.first() is None:
        raise BadRecurrence(field, "This never fires between its start and its end.")


def to_local(instant: datetime, zone: ZoneInfo) -> datetime:
    """What the clocks of the zone show, without a zone."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def to_instant(local: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which the zone's clocks first show the local time or, if they skip it, go on after the gap."""
    by_old_offset = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if to_local(by_old_offset, zone) == local:
        return by_old_offset
    by_new_offset = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _clock_change(by_new_offset, by_old_offset, zone)


def _clock_change(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The instant between the two, to the second, from which the zone has another offset."""
    old_offset = before.astimezone(zone).utcoffset()
    while after - before > SECOND:
        middle = before + (after - before) // 2
        if middle.astimezone(zone).utcoffset() == old_offset:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def _bounded(field: str, make: type[timedelta], **amounts: int) -> timedelta:
    try:
        length = make(**amounts)
    except OverflowError:
        length = timedelta.max
    if not SECOND <= length <= LONGEST_INTERVAL or min(amounts.values()) < 0:
        raise BadRecurrence(field, f"At least 1 second and at most {LONGEST_INTERVAL.days:,} days between two runs.")
    return length


def _checked_cron(expression: str) -> str:
    if len(expression.split()) != 5:
        raise BadRecurrence("cron", "Five fields: minute, hour, day of month, month and day of week.")
    try:
        CronSim(expression, datetime(2000, 1, 1))
    except (CronSimError, ValueError) as error:
        raise BadRecurrence("cron", f"{expression!r} is no cron expression that ever fires: {error}.") from None
    return expression


def _parse_rrule(text: str, local_start: datetime, zone: ZoneInfo) -> rrule:
    body = text.strip().removeprefix("RRULE:")
    if not re.fullmatch(r"[A-Z]+=[A-Z0-9,+-]+(;[A-Z]+=[A-Z0-9,+-]+)*", body) or len(body) > 500:
        raise BadRecurrence("rrule", "One RFC 5545 rule, such as FREQ=WEEKLY;BYDAY=MO,WE; its start is scheduled_at.")
    try:
        rule = rrulestr(re.sub(r"UNTIL=(\d{8}T\d{6})Z", lambda match: _local_until(match[1], zone), body), dtstart=local_start)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadRecurrence("rrule", f"{body!r} is no rule: {error}.") from None
    if rule._count is not None and rule._count > MOST_COUNTED:
        raise BadRecurrence("rrule", f"COUNT is at most {MOST_COUNTED:,}; use UNTIL, ends_at or schedule_x_times.")
    return rule


def _local_until(utc: str, zone: ZoneInfo) -> str:
    until = datetime.strptime(utc, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return f"UNTIL={to_local(until, zone):%Y%m%dT%H%M%S}"


def _moved_forward(rule: rrule, local: datetime) -> rrule:
    """The same rule begun later by whole steps, so that finding the next occurrence does not walk through all the past.

    A rule that counts its occurrences has to; months and years are walked in no time.
    """
    units = {
        SECONDLY: SECOND,
        MINUTELY: timedelta(minutes=1),
        HOURLY: timedelta(hours=1),
        DAILY: timedelta(days=1),
        WEEKLY: timedelta(weeks=1),
    }
    if rule._count is not None or rule._freq not in units:
        return rule
    step = units[rule._freq] * rule._interval
    steps = (local - rule._dtstart) // step
    return rule.replace(dtstart=rule._dtstart + steps * step) if steps > 0 else rule


def _try_elsewhere(text: str, local_start: datetime) -> None:
    try:
        subprocess.run(
            [sys.executable, "-m", "scheduler.recurrence", text, local_start.isoformat()],
            check=True,
            capture_output=True,
            timeout=EXPANSION_SECONDS,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        raise BadRecurrence(
            "rrule", f"The rule's first occurrences could not be found within {EXPANSION_SECONDS:g} s."
        ) from None


if __name__ == "__main__":
    # What `_try_elsewhere` runs: finds the first occurrences and prints nothing.
    list(islice(_parse_rrule(sys.argv[1], datetime.fromisoformat(sys.argv[2]), ZoneInfo("UTC")), 3))
