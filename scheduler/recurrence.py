"""Recurrences: from a rule, its start and its time zone to the instants when it fires. Pure: no clock, no database.

Rules that speak of days or times of day (every_x_days, cron, rrule) count in local time. A local time that the clocks
skip fires at the first valid instant after it; one that they repeat fires once, the first time. Rules that speak of
seconds or hours alone count elapsed time, which daylight saving does not touch.

Every occurrence is computed from the start, never from an earlier run, so nothing drifts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from dateutil.rrule import DAILY, HOURLY, MINUTELY, MONTHLY, SECONDLY, WEEKLY, YEARLY, rrule, rrulestr

MICROSECOND, SECOND, MINUTE = timedelta(microseconds=1), timedelta(seconds=1), timedelta(minutes=1)
LONGEST_INTERVAL = timedelta(days=36_525)
LONGEST_CRON, LONGEST_RRULE = 200, 500

# What keeps every question to an RRULE quick. COUNT has to be counted from the start, and a day's times are gone
# through one by one. A rule that finds no day among so many (137 years of them) never will, as far as anyone cares;
# so many minutes are those of four years, from one 29 February to the next.
MOST_COUNTED = 10_000
MOST_TIMES_A_DAY = 288
MOST_DAYS_SEARCHED = 50_000
MOST_MINUTES_SEARCHED = 2_200_000


class BadRecurrence(ValueError):
    """The rule cannot be used; `fields` are the parts of it that are wrong."""

    def __init__(self, field: str, message: str, *more_fields: str) -> None:
        self.fields = (field, *more_fields)
        super().__init__(message)


# What the rules below have in common: `instants` yields every occurrence later than `after`, and perhaps a few earlier
# ones, rising. It may begin at the local time of `after`: however clocks are changed, they first show a later time
# later.


@dataclass(frozen=True)
class Elapsed:
    """Every so much time."""

    interval: timedelta

    def instants(self, start: datetime, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        steps = max(0, (after - start) // self.interval)
        while True:
            yield start + steps * self.interval
            steps += 1


@dataclass(frozen=True)
class Days:
    """Every so many days, or days and hours, by the clock on the wall."""

    interval: timedelta

    def instants(self, start: datetime, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        local_start = to_local(start, zone)
        steps = max(0, (to_local(after, zone) - local_start) // self.interval)
        while True:
            # The start may be in an hour that the clocks repeat, the second time.
            yield to_instant(local_start + steps * self.interval, zone) if steps else start
            steps += 1


@dataclass(frozen=True)
class Cron:
    """Five fields: minute, hour, day of month, month, day of week; both day fields restricted: either may match."""

    expression: str

    def instants(self, start: datetime, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        for local in CronSim(self.expression, to_local(max(start - MINUTE, after), zone)):
            yield to_instant(local, zone)


@dataclass(frozen=True)
class RRule:
    """RFC 5545, section 3.3.10; the start is its DTSTART."""

    text: str

    def instants(self, start: datetime, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        local_start = to_local(start, zone)
        rule = _moved_forward(_parse_rrule(self.text, local_start, zone), to_local(after, zone))
        searches = _bound_searches(rule)
        try:
            for local in rule:
                for search in searches:
                    search.looks = 0
                yield start if local == local_start else to_instant(local, zone)
        except BadRecurrence:
            raise
        except ValueError as error:  # Dateutil found only now that nothing fits the rule.
            raise BadRecurrence("rrule", f"{self.text!r} cannot be followed: {error}.") from None


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
        latest = max(instant, self.start - MICROSECOND)
        occurrences = self.rule.instants(self.start, self.zone, instant)
        while (occurrence := _next(occurrences)) and (self.end is None or occurrence <= self.end):
            if occurrence > latest:
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


def zone_named(name: str) -> ZoneInfo:
    """The time zone of that IANA name; raises BadRecurrence for none."""
    if name not in _zone_names():
        raise BadRecurrence("timezone", f"{name[:100]!r} is no time zone; give an IANA name such as Europe/Bucharest.")
    return ZoneInfo(name)


@cache
def _zone_names() -> set[str]:
    return available_timezones()


def make_rule(
    *,
    interval: int | None = None,
    every_x_days: int | None = None,
    every_x_hours: int | None = None,
    cron: str | None = None,
    rrule: str | None = None,
) -> Rule:
    """The one rule that is given; raises BadRecurrence for none, for two, or for one that says nothing useful."""
    amounts = {"every_x_days": every_x_days, "every_x_hours": every_x_hours}
    calendar = {name: amount for name, amount in amounts.items() if amount is not None}
    others = {"interval": interval, "cron": cron, "rrule": rrule}
    given = [*calendar, *(name for name, value in others.items() if value is not None)]
    if not given or len(given) > max(1, len(calendar)):
        message = "Give exactly one of interval, every_x_days and/or every_x_hours, cron and rrule."
        raise BadRecurrence(*(given[:1] or ["interval"]), message, *given[1:])
    if interval is not None:
        return Elapsed(_bounded("interval", interval, SECOND))
    if cron is not None:
        return Cron(_checked_cron(cron))
    if rrule is not None:
        return RRule(rrule)
    days = _bounded("every_x_days", every_x_days or 0, timedelta(days=1), least=0)
    hours = _bounded("every_x_hours", every_x_hours or 0, timedelta(hours=1), least=0)
    if not days + hours:
        raise BadRecurrence(given[0], "Nothing lies between two runs.", *given[1:])
    return Days(days + hours) if days else Elapsed(hours)


def require_firing(recurrence: Recurrence) -> None:
    """Raises BadRecurrence for a recurrence that never fires, or whose first occurrences take too long to find."""
    if recurrence.end is not None and recurrence.end < recurrence.start:
        raise BadRecurrence("ends_at", "The end is before the start.")
    field = {Elapsed: "interval", Days: "every_x_days", Cron: "cron", RRule: "rrule"}[type(recurrence.rule)]
    if replace(recurrence, end=None).first() is None:
        raise BadRecurrence(field, "This never fires.")
    if recurrence.first() is None:
        raise BadRecurrence("ends_at", "This never fires between its start and its end.")


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


def _next(occurrences: Iterator[datetime]) -> datetime | None:
    """The next one; None after the last, and where the calendar ends."""
    try:
        return next(occurrences, None)
    except OverflowError:
        return None


def _bounded(field: str, amount: int, unit: timedelta, *, least: int = 1) -> timedelta:
    if not least <= amount <= LONGEST_INTERVAL // unit:
        raise BadRecurrence(field, f"{least} to {LONGEST_INTERVAL // unit:,} (a hundred years), not {amount:,}.")
    return amount * unit


def _checked_cron(expression: str) -> str:
    if len(expression) > LONGEST_CRON or len(expression.split()) != 5:
        raise BadRecurrence("cron", "Five fields: minute, hour, day of month, month and day of week.")
    try:
        CronSim(expression, datetime(2000, 1, 1))  # noqa: DTZ001 - local time has no zone here
    except (CronSimError, ValueError, AssertionError, TypeError) as error:
        raise BadRecurrence("cron", f"{expression!r} is no cron expression: {error}.") from None
    return expression


def _parse_rrule(text: str, local_start: datetime, zone: ZoneInfo) -> rrule:
    body = text.strip().upper().removeprefix("RRULE:")
    if not re.fullmatch(r"[A-Z]+=[A-Z0-9,+-]+(;[A-Z]+=[A-Z0-9,+-]+)*", body) or len(text) > LONGEST_RRULE:
        raise BadRecurrence("rrule", "One RFC 5545 rule, such as FREQ=WEEKLY;BYDAY=MO,WE; its start is scheduled_at.")
    names = [part.partition("=")[0] for part in body.split(";")]
    if len(set(names)) < len(names) or {"COUNT", "UNTIL"} <= set(names):
        raise BadRecurrence("rrule", "Each part comes once, and COUNT and UNTIL exclude each other.")
    try:
        rule = rrulestr(
            re.sub(r"UNTIL=(\d{8}T\d{6})Z", lambda match: _local_until(match[1], zone), body), dtstart=local_start
        )
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise BadRecurrence("rrule", f"{body!r} is no rule: {error}.") from None
    _require_bounded(rule)
    return rule


def _local_until(utc: str, zone: ZoneInfo) -> str:
    until = datetime.strptime(utc, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return f"UNTIL={to_local(until, zone):%Y%m%dT%H%M%S}"


# How long one step of each frequency is; months and years at their longest.
STEPS = {
    SECONDLY: SECOND,
    MINUTELY: MINUTE,
    HOURLY: timedelta(hours=1),
    DAILY: timedelta(days=1),
    WEEKLY: timedelta(weeks=1),
    MONTHLY: timedelta(days=31),
    YEARLY: timedelta(days=366),
}


def _require_bounded(rule: rrule) -> None:
    """Refuses what would take long to expand. Dateutil keeps these parts of a rule private; its version is pinned."""
    if not 1 <= rule._interval <= LONGEST_INTERVAL // STEPS[rule._freq]:
        raise BadRecurrence("rrule", f"INTERVAL is at least 1 and at most {LONGEST_INTERVAL.days:,} days.")
    if rule._count is not None and rule._count > MOST_COUNTED:
        raise BadRecurrence("rrule", f"COUNT is at most {MOST_COUNTED:,}; use UNTIL, ends_at or schedule_x_times.")
    if len(rule._timeset or ()) > MOST_TIMES_A_DAY:
        raise BadRecurrence(
            "rrule", f"At most {MOST_TIMES_A_DAY} times a day; use FREQ=MINUTELY or SECONDLY for more."
        )
    if rule._freq == SECONDLY and (rule._byhour or rule._byminute):
        raise BadRecurrence("rrule", "With BYHOUR or BYMINUTE, use FREQ=MINUTELY or HOURLY and BYSECOND.")
    if rule._byweekno and rule._freq != YEARLY:
        raise BadRecurrence("rrule", "BYWEEKNO goes with FREQ=YEARLY only (RFC 5545, section 3.3.10).")


def _moved_forward(rule: rrule, local: datetime) -> rrule:
    """The same rule begun later by whole steps, so that finding its next occurrence does not walk through the past.

    It begins a step earlier than it might, since dateutil does not see the whole of a rule's first week or month. A
    rule that counts its occurrences has to be walked.
    """
    if rule._count is not None:
        return rule
    if rule._freq in (YEARLY, MONTHLY):
        return _moved_years(rule, local)
    step = STEPS[rule._freq] * rule._interval
    steps = (local - rule._dtstart) // step - 1
    return rule.replace(dtstart=rule._dtstart + steps * step) if steps > 0 else rule


def _moved_years(rule: rrule, local: datetime) -> rrule:
    """Begun later by so many years that the same day of the same month comes round in them, also 29 February."""
    years = 4 * rule._interval
    steps = (local.year - rule._dtstart.year) // years - 1
    while steps > 0:
        try:
            return rule.replace(dtstart=rule._dtstart.replace(year=rule._dtstart.year + steps * years))
        except ValueError:  # There is no 29 February 2100.
            steps -= 1
    return rule


class _Search(Collection[int]):
    """The weekdays, months or hours of a rule. Dateutil asks about every day or minute it looks at, so an endless
    search ends here.
    """

    def __init__(self, values: Collection[int], most_looks: int) -> None:
        self.values = frozenset(values)
        self.most_looks = most_looks
        self.looks = 0

    def __contains__(self, value: object) -> bool:
        self.looks += 1
        if self.looks > self.most_looks:
            raise BadRecurrence("rrule", "The rule finds nothing, or not soon enough.")
        return value in self.values

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self.values))

    def __len__(self) -> int:
        return len(self.values)


def _bound_searches(rule: rrule) -> list[_Search]:
    """Makes the rule give up looking for its next occurrence; the answers count the looks since their last reset."""
    searches = []
    if rule._bymonth:
        rule._bymonth = _Search(rule._bymonth, MOST_DAYS_SEARCHED)
        searches.append(rule._bymonth)
    else:
        rule._byweekday = _Search(rule._byweekday or range(7), MOST_DAYS_SEARCHED)
        searches.append(rule._byweekday)
    if rule._freq == MINUTELY and rule._byhour:
        rule._byhour = _Search(rule._byhour, MOST_MINUTES_SEARCHED)
        searches.append(rule._byhour)
    return searches
