"""Recurrences: from a rule, its start and its time zone to the instants when it fires. Pure: no clock, no database.

Rules with fixed times of day (every_x_days, cron with fixed hours, an rrule with BYHOUR or of days and longer) count
by the clock on the wall. A local time that the clocks skip fires at the first valid instant after it; one that they
repeat fires once, the first time. Rules that go through all hours alike (interval, every_x_hours, cron with * or a
step for its hour or * for its minute, an rrule that steps within a day) count real time, which daylight saving does
not touch.

Every occurrence is computed from the start, never from an earlier run, so nothing drifts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from heapq import merge
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from scheduler.recurrence import clocks, cron, expansion, rrule
from scheduler.recurrence.calendars import DAY, UnknownCountry
from scheduler.recurrence.clocks import SECOND, to_instant, to_local
from scheduler.recurrence.exceptions import Event, Exceptions, Expansion, TooManySkipped

MICROSECOND, MINUTE = timedelta(microseconds=1), timedelta(minutes=1)
MAX_INTERVAL = rrule.MAX_INTERVAL
MAX_CRON_LENGTH, MAX_RRULE_LENGTH = cron.MAX_CRON_LENGTH, rrule.MAX_RRULE_LENGTH

NO_EXCEPTIONS = Exceptions()
# A recurrence is accepted if so many occurrences are found soon enough, so that it does not stop before it has begun.
MIN_FOUND = 10


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
        return _cron(self.expression).instants(zone, max(start - MINUTE, after))


@dataclass(frozen=True)
class RRule:
    """RFC 5545, section 3.3.10; the start is its DTSTART."""

    text: str

    def instants(self, start: datetime, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        try:
            yield from expansion.instants(_rrule(self.text), start, zone, after)
        except rrule.BadRRule as error:
            raise BadRecurrence("rrule", str(error)) from None


Rule = Elapsed | Days | Cron | RRule


@dataclass(frozen=True)
class Recurrence:
    """A rule with its start and end, as instants, and the zone whose clocks it follows."""

    rule: Rule
    start: datetime
    zone: ZoneInfo
    end: datetime | None = None
    exceptions: Exceptions = NO_EXCEPTIONS

    def after(self, instant: datetime) -> Iterator[datetime]:
        """The occurrences later than the instant, rising, none twice; the first may be the start itself."""
        if not self.exceptions:
            yield from self._plain(instant)
            return
        for event in self.events(instant):
            if not event.reason:
                yield event.at

    def events(self, instant: datetime) -> Iterator[Event]:
        """The same, with those that are skipped: at most the first ones of a long closed stretch. Those that are
        moved are about where they were.
        """
        if not self.exceptions:
            yield from map(Event, self._plain(instant))
            return
        expansion = Expansion(self.exceptions, self.zone)
        expand = expansion.skipped if self.exceptions.on_closed == "skip" else expansion.moved
        latest = max(instant, self.start - MICROSECOND)
        try:
            for event in merge(expand(self._plain, instant), self._included(instant), key=lambda event: event.at):
                if event.reason and event.at > instant:
                    yield event
                elif latest < event.at and (self.end is None or event.at <= self.end):
                    latest = event.at
                    yield event
        except (TooManySkipped, UnknownCountry) as error:
            raise BadRecurrence("calendars" if self.exceptions.calendars else "exclude", str(error)) from None

    def _included(self, instant: datetime) -> list[Event]:
        return [Event(at) for at in sorted(self.exceptions.included.instants) if at > instant]

    def _plain(self, instant: datetime) -> Iterator[datetime]:
        """The occurrences of the rule alone."""
        latest = max(instant, self.start - MICROSECOND)
        occurrences = self.rule.instants(self.start, self.zone, instant)
        while (occurrence := _next(occurrences)) and (self.end is None or occurrence <= self.end):
            if occurrence > latest:
                latest = occurrence
                yield occurrence

    def between(self, begin: datetime, end: datetime, *, limit: int) -> list[datetime]:
        """The occurrences from one instant to another, both included; the first `limit` of them."""
        return list(islice(takewhile(lambda at: at <= end, self.after(begin - MICROSECOND)), limit))

    def due(self, begin: datetime, now: datetime, *, limit: int) -> tuple[list[datetime], datetime | None]:
        """The first `limit` occurrences from one instant to another, both included, and the one that follows them, all
        found in one go.
        """
        found: list[datetime] = []
        for at in self.after(begin - MICROSECOND):
            if at > now or len(found) == limit:
                return found, at
            found.append(at)
        return found, None

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
    try:
        return clocks.zone_named(name)
    except clocks.UnknownZone as error:
        raise BadRecurrence("timezone", str(error)) from None


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
        _cron(cron)
        return Cron(cron)
    if rrule is not None:
        _rrule(rrule)
        return RRule(rrule)
    days = _bounded("every_x_days", every_x_days or 0, timedelta(days=1), least=0)
    hours = _bounded("every_x_hours", every_x_hours or 0, timedelta(hours=1), least=0)
    if not days + hours:
        raise BadRecurrence(given[0], "The time between two runs must not be zero.", *given[1:])
    return Days(days + hours) if days else Elapsed(hours)


def require_firing(recurrence: Recurrence) -> None:
    """Raises BadRecurrence for a recurrence that never fires, or whose first occurrences take too long to find."""
    if recurrence.end is not None and recurrence.end < recurrence.start:
        raise BadRecurrence("ends_at", "The end is before the start.")
    if recurrence.exceptions:
        require_firing(replace(recurrence, exceptions=NO_EXCEPTIONS))
        _require_exceptions_that_fire(recurrence)
        return
    field = {Elapsed: "interval", Days: "every_x_days", Cron: "cron", RRule: "rrule"}[type(recurrence.rule)]
    if not list(islice(replace(recurrence, end=None).after(recurrence.start - SECOND), MIN_FOUND)):
        raise BadRecurrence(field, f"This never fires{_until_hint(recurrence)}.")
    if recurrence.first() is None:
        raise BadRecurrence("ends_at", "This never fires between its start and its end.")


def _require_exceptions_that_fire(recurrence: Recurrence) -> None:
    exceptions = recurrence.exceptions
    if exceptions.on_closed != "skip" and counts_real_time(recurrence.rule):
        raise BadRecurrence(
            "on_closed", "Only rules with fixed hours can be moved to another day, such as cron 0 9 * * *; use skip."
        )
    if recurrence.first() is None:
        name = "calendars" if exceptions.calendars else "exclude"
        raise BadRecurrence(name, "All occurrences are excluded, so this never fires.")
    for place, day in enumerate(sorted(exceptions.included.days)):
        begin = to_instant(datetime.combine(day, time()), recurrence.zone)
        plain = replace(recurrence, exceptions=NO_EXCEPTIONS)
        if not plain.between(begin, begin + DAY - MICROSECOND, limit=1):
            raise BadRecurrence(
                f"include/{place}", f"Nothing is due on {day}, so there is nothing to include; give a time."
            )


def counts_real_time(rule: Rule) -> bool:
    """Whether it goes through all hours alike, and has no times of day that could be kept on another one."""
    if isinstance(rule, Cron):
        return _cron(rule.expression).counts_real_time
    return isinstance(rule, Elapsed) or (isinstance(rule, RRule) and _rrule(rule.text).freq in rrule.WITHIN_A_DAY)


def _until_hint(recurrence: Recurrence) -> str:
    rule = recurrence.rule
    until = _rrule(rule.text).until if isinstance(rule, RRule) else None
    if until and until.last_instant(recurrence.zone) < recurrence.start:
        return (
            f": UNTIL, {until.local:%Y-%m-%d %H:%M:%S}, is before the start, {recurrence.start:%Y-%m-%d %H:%M:%S %Z}"
        )
    return ""


def _next(occurrences: Iterator[datetime]) -> datetime | None:
    """The next one; None after the last, and where the calendar ends."""
    try:
        return next(occurrences, None)
    except OverflowError:
        return None


def _bounded(field: str, amount: int, unit: timedelta, *, least: int = 1) -> timedelta:
    if not least <= amount <= MAX_INTERVAL // unit:
        raise BadRecurrence(field, f"Must be {least} to {MAX_INTERVAL // unit:,} (a hundred years), not {amount:,}.")
    return amount * unit


def _cron(expression: str) -> cron.CronTimes:
    try:
        return cron.read(expression)
    except cron.BadCron as error:
        raise BadRecurrence("cron", f"{expression!r} cannot be used: {error}.") from None


def _rrule(text: str) -> rrule.Rule:
    try:
        return rrule.read(text)
    except rrule.BadRRule as error:
        raise BadRecurrence("rrule", str(error)) from None
