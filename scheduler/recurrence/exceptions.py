"""What is taken from a rule's occurrences, and added to them: excluded and included times, and calendars. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from scheduler.recurrence.calendars import DAY, Calendar, Closed
from scheduler.recurrence.clocks import YEARS, to_instant, to_local

MAX_MOMENTS, MAX_CALENDARS = 1_000, 10
# A day (2030-12-24), or a time; as JSON Schema writes it, too.
MOMENT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt].{1,29})?"
# How far an occurrence on a closed day is moved to find an open one.
MAX_MOVE = timedelta(days=31)
# Occurrences of one closed stretch that are looked at one by one, before it is left at once.
MAX_SKIPPED_ONE_BY_ONE = 20
# Occurrences in a row that may be skipped.
MAX_SKIPPED = 10_000

OnClosed = Literal["skip", "next", "previous"]
Plain = Callable[[datetime], Iterator[datetime]]


class BadMoment(ValueError):
    """An entry of exclude or include is neither a day nor a time."""


class TooManySkipped(ValueError):
    """No occurrence is left within a bearable search."""


class Event(NamedTuple):
    """An occurrence, or one that is skipped, with the reason."""

    at: datetime
    reason: str = ""


class Moments(NamedTuple):
    """Days, and instants."""

    days: frozenset[date] = frozenset()
    instants: frozenset[datetime] = frozenset()


NONE = Moments()


def read_moment(text: object, zone: ZoneInfo) -> date | datetime:
    """A day (2030-12-24), or the instant of a time, in the zone if it has no offset; raises BadMoment."""
    # Python reads weeks (2030-W52-2), too.
    match = re.fullmatch(MOMENT, text, re.ASCII) if isinstance(text, str) else None
    if match and int(match[0][:4]) not in YEARS:
        raise BadMoment(f"The year of {match[0]!r} must be {YEARS[0]} to {YEARS[-1]}.")
    try:
        if match and not match[1]:
            return date.fromisoformat(match[0])
        if match:
            read = datetime.fromisoformat(match[0].upper())
            at = read.astimezone(UTC) if read.tzinfo else to_instant(read, zone)
            return at.replace(microsecond=0)
    except (ValueError, OverflowError):
        pass
    raise BadMoment(
        f"{str(text)[:40]!r} is neither a day, such as 2030-12-24, nor a time, such as 2030-12-24T09:00:00Z; without "
        "an offset it is in the schedule's timezone."
    )


@dataclass(frozen=True)
class Exceptions:
    """What of a rule's occurrences does not run, or runs on another day, and what runs besides."""

    excluded: Moments = NONE
    included: Moments = NONE
    calendars: tuple[Calendar, ...] = ()
    on_closed: OnClosed = "skip"

    def __bool__(self) -> bool:
        return any(self.excluded) or any(self.included) or bool(self.calendars)

    def judge(self, at: datetime, zone: ZoneInfo) -> Closed | None:
        """Why an occurrence does not run at that instant; None if it does. What is included runs in any case."""
        local = to_local(at, zone)
        if at in self.included.instants or local.date() in self.included.days:
            return None
        if at in self.excluded.instants:
            return Closed("excluded", local)
        if local.date() in self.excluded.days:
            return Closed("excluded", datetime.combine(local.date() + DAY, time()))
        closings = (calendar.closed(local) for calendar in self.calendars)
        return next((closed for closed in closings if closed), None)

    def open_day(self, day: date) -> date | None:
        """The day itself if it is open, or else the next or previous one that is; None if that is too far."""
        step = DAY if self.on_closed == "next" else -DAY
        for away in range(MAX_MOVE.days + 1):
            moved = day + away * step
            if moved in self.included.days or not self.day_closed(moved):
                return moved
        return None

    def day_closed(self, day: date) -> str:
        """Why the calendars are closed on that day; empty if none is."""
        return next((reason for calendar in self.calendars if (reason := calendar.day_closed(day))), "")


class Expansion(NamedTuple):
    """The exceptions at work on a rule: `plain` yields the occurrences of the rule alone later than an instant."""

    exceptions: Exceptions
    zone: ZoneInfo

    def skipped(self, plain: Plain, instant: datetime) -> Iterator[Event]:
        """The occurrences, and those that are skipped; of long closed stretches the first ones alone."""
        in_a_row = 0
        occurrences = plain(instant)
        while (at := next(occurrences, None)) is not None:
            closed = self.exceptions.judge(at, self.zone)
            yield Event(at, closed.reason if closed else "")
            in_a_row = in_a_row + 1 if closed else 0
            if in_a_row >= MAX_SKIPPED:
                raise TooManySkipped(f"{MAX_SKIPPED:,} occurrences in a row are excluded, from before {at} on.")
            if closed and in_a_row % MAX_SKIPPED_ONE_BY_ONE == 0:
                reopens = to_instant(closed.until, self.zone)
                if reopens > at:
                    occurrences = plain(reopens - timedelta(microseconds=1))

    def moved(self, plain: Plain, instant: datetime) -> Iterator[Event]:
        """The occurrences, those on closed days moved to open ones, in order: an earlier day is never moved behind a
        later one, so only those of one day are to be sorted.
        """
        begin = instant - MAX_MOVE - DAY if self.exceptions.on_closed == "next" else instant - DAY
        target: date | None = None
        of_day: set[datetime] = set()
        for at in plain(begin):
            local = to_local(at, self.zone)
            day = self.exceptions.open_day(local.date())
            if day is not None and day != target:
                yield from self._judged(of_day)
                target, of_day = day, set()
            if day != local.date():
                where = f"moved to {day}" if day else f"no open day within {MAX_MOVE.days} days"
                yield Event(at, f"{self.exceptions.day_closed(local.date())}; {where}")
            if day is not None:
                of_day.add(at if day == local.date() else to_instant(datetime.combine(day, local.time()), self.zone))
        yield from self._judged(of_day)

    def _judged(self, instants: set[datetime]) -> Iterator[Event]:
        for at in sorted(instants):
            closed = self.exceptions.judge(at, self.zone)
            yield Event(at, closed.reason if closed else "")
