"""Calendars: days and hours at which a schedule may run. Pure, but for the tables of holidays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import lru_cache

import holidays

WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
DAY = timedelta(days=1)
# Of the names of holidays, where they are known in it.
LANGUAGE = "en_US"

Span = tuple[date, date]


class UnknownCountry(ValueError):
    """There are no holidays known of that country, or of that part of it."""


@dataclass(frozen=True)
class Closed:
    """Why a time is closed, and the local time from which on it might be open."""

    reason: str
    until: datetime


@dataclass(frozen=True)
class Calendar:
    """What is open: its weekdays, but for holidays and closed days, and the hours of these; open days are open
    whatever else is said.
    """

    name: str
    country: str = ""
    subdivision: str = ""
    weekdays: frozenset[int] = frozenset(range(7))
    # From one time to another, the latter not included; at any time if there are none.
    hours: tuple[tuple[time, time], ...] = ()
    closed_days: tuple[Span, ...] = field(default=())
    open_days: tuple[Span, ...] = field(default=())

    def day_closed(self, day: date) -> str:
        """Why the day is closed; empty if it is open."""
        if _within(day, self.open_days):
            return ""
        if _within(day, self.closed_days):
            return f"{self.name}: a closed day"
        if day.weekday() not in self.weekdays:
            return f"{self.name}: closed on {day:%A}s"
        if self.country and (holiday := holidays_of(self.country, self.subdivision, day.year).get(day)):
            return f"{self.name}: {holiday}"
        return ""

    def closed(self, local: datetime) -> Closed | None:
        """Why it is closed at the local time; None if it is open."""
        day = local.date()
        midnight = datetime.combine(day + DAY, time())
        if reason := self.day_closed(day):
            return Closed(reason, midnight)
        if not self.hours or any(begin <= local.time() < end for begin, end in self.hours):
            return None
        later = [datetime.combine(day, begin) for begin, _ in self.hours if begin > local.time()]
        return Closed(f"{self.name}: outside its hours", min(later, default=midnight))


def _within(day: date, spans: Iterable[Span]) -> bool:
    return any(first <= day <= last for first, last in spans)


@lru_cache(maxsize=1_000)
def holidays_of(country: str, subdivision: str, year: int) -> dict[date, str]:
    """The public holidays of a year, with their names; raises UnknownCountry."""
    try:
        # Otherwise their names would be in the language that the environment of each process names.
        found = holidays.country_holidays(
            country, subdiv=subdivision or None, years=year, expand=False, language=LANGUAGE
        )
    except NotImplementedError:
        raise UnknownCountry(
            f"No holidays are known of {country!r}{f' with {subdivision!r}' * bool(subdivision)}; use the code of a "
            "country (ISO 3166), such as DE, and of a part of it, such as BY."
        ) from None
    return dict(found)
