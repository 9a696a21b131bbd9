"""Cron expressions: read, refused with what would be right, and expanded by cronsim. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from scheduler.recurrence import clocks

MAX_CRON_LENGTH = 200

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


def any_case(expression: str) -> str:
    """A regular expression in capitals, for capitals and small letters alike."""
    return re.sub("[A-Z]", lambda letter: f"[{letter[0]}{letter[0].lower()}]", expression)


class BadCron(ValueError):
    """The expression cannot be used."""


@dataclass(frozen=True)
class Field:
    """One of the five fields, and what may stand in it."""

    name: str
    least: int
    most: int
    words: tuple[str, ...] = ()
    first_word: int = 0
    special: str = "(?!)"
    hint: str = ""

    def read(self, text: str) -> str:
        """The field as cronsim reads it; raises BadCron."""
        return ",".join(self._term(term, text) for term in text.split(","))

    @property
    def pattern(self) -> str:
        """A regular expression of what may stand there, but for how far a step goes."""
        numbers = "|".join(map(str, range(self.least, self.most + 1)))
        value = "|".join([f"0{{0,2}}({numbers})", *map(any_case, self.words)])
        special = "" if self.special == "(?!)" else rf"|\?|{any_case(self.special)}"
        term = rf"(\*|({value})(-({value}))?)(/0{{0,2}}[1-9][0-9]{{0,2}})?{special}"
        return f"({term})(,({term}))*"

    def _term(self, term: str, text: str) -> str:
        if term == "?" and self.special != "(?!)":
            return "*"
        if re.fullmatch(self.special, term):
            # croniter's L5 is cronsim's 5L.
            return term[1:] + "L" if re.fullmatch("L[0-7]", term) else term.replace("-L", f"-{self.most}")
        values, slash, step = term.partition("/")
        first, dash, last = values.partition("-")
        if values == "*":
            begin, end = self.least, self.most
        elif values:
            begin = self._number(first, term)
            end = self._number(last, term) if dash else self.most if slash else begin
        else:
            raise self._bad(term)
        if slash:
            self._check_step(step, end - begin if end >= begin else (end - begin) % self._size, term)
        # cronsim counts only upwards: 22-2 is 22, 23, 0, 1, 2.
        return self._wrapped(begin, end, int(step or 1)) if end < begin else term

    def _number(self, value: str, term: str) -> int:
        if value in self.words:
            return self.words.index(value) + self.first_word
        if not re.fullmatch(r"[0-9]{1,3}", value) or not self.least <= int(value) <= self.most:
            raise self._bad(term)
        return int(value)

    def _check_step(self, step: str, width: int, term: str) -> None:
        if not re.fullmatch(r"[0-9]{1,3}", step) or not int(step):
            raise self._bad(term)
        # A step beyond the last day is the customary way of saying that both day fields have to match.
        if int(step) > width and self.name != "day of month":
            raise BadCron(
                f"the step in {term!r} exceeds the range of the {self.name}, so it would only run at the first "
                "value; for longer steps use an interval in seconds, every_x_hours or every_x_days"
            )

    def _wrapped(self, begin: int, end: int, step: int) -> str:
        width = (end - begin) % self._size
        return ",".join(str((begin - self.least + at) % self._size + self.least) for at in range(0, width + 1, step))

    @property
    def _size(self) -> int:
        """How many values there are; Sunday is 0 and 7, which is one day."""
        return len(WEEKDAYS) if self.words == WEEKDAYS else self.most - self.least + 1

    def _bad(self, term: str) -> BadCron:
        words = f" or {self.words[0]} to {self.words[-1]}" if self.words else ""
        right = f"{self.least} to {self.most}{words}, *, ranges (1-5), steps (*/5) and lists (1,3,5){self.hint}"
        return BadCron(f"{term[:40]!r} is not a {self.name}: {right}")


FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field(
        "day of month",
        1,
        31,
        special="L|LW|([1-9]|[12][0-9]|3[01])-L",
        hint=", L for the last day, LW for the last from Monday to Friday; for others such as the third last day "
        "use an rrule (FREQ=MONTHLY;BYMONTHDAY=-3)",
    ),
    Field("month", 1, 12, MONTHS, first_word=1),
    Field(
        "day of week",
        0,
        7,
        WEEKDAYS,
        special=r"[0-7]L|L[0-7]|([0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)#[1-5]",
        hint=" where 0 and 7 are Sunday, 5L for the last Friday of the month, MON#2 for its second Monday",
    ),
)

# An expression as far as a regular expression can tell: not how far a step goes, nor which months have the days.
PATTERN = "|".join([r"[ \t]+".join(field.pattern for field in FIELDS), *(any_case(name.upper()) for name in MACROS)])


@dataclass(frozen=True)
class CronTimes:
    """An expression that was read: as cronsim takes it, and how it goes through hours that clocks repeat or skip."""

    fields: str
    counts_real_time: bool

    def instants(self, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        """When the expression fires later than the instant, and perhaps a few times before, rising."""
        if self.counts_real_time:
            yield from clocks.all_showings(self.local_times, zone, after)
        else:
            for local in self.local_times(clocks.to_local(after, zone)):
                yield clocks.to_instant(local, zone)

    def local_times(self, after: datetime) -> Iterator[datetime]:
        return CronSim(self.fields, after)


@lru_cache(maxsize=1_000)
def read(expression: str) -> CronTimes:
    """Reads five fields or a name such as @daily; raises BadCron."""
    if len(expression) > MAX_CRON_LENGTH:
        raise BadCron(f"at most {MAX_CRON_LENGTH} characters, not {len(expression)}")
    if re.search(r"[^\S \t]", expression):
        raise BadCron("separate its fields by spaces, on one line")
    if expression.strip().startswith("@"):
        return _read_fields(_macro(expression.strip()).split())
    return _read_fields(expression.upper().split())


def _macro(name: str) -> str:
    if fields := MACROS.get(name.lower()):
        return fields
    if name.lower().startswith("@every"):
        raise BadCron("for @every use an interval in seconds, every_x_hours or every_x_days")
    raise BadCron(f"{name[:40]!r} is unknown; use one of {', '.join(MACROS)}, or five fields")


def _read_fields(given: list[str]) -> CronTimes:
    if len(given) != len(FIELDS):
        more = len(given) > len(FIELDS)
        hint = "; for seconds use an interval, or BYSECOND of an rrule, and for a last year ends_at" * more
        names = "minute, hour, day of month, month and day of week"
        raise BadCron(f"it has {len(given)} fields, but needs five: {names}{hint}")
    fields = [field.read(text) for field, text in zip(FIELDS, given, strict=True)]
    try:
        CronSim(" ".join(fields), datetime(2000, 1, 1))  # noqa: DTZ001 - local time has no zone here
    except CronSimError:
        raise BadCron(f"the day {fields[2]} does not occur in the months {fields[3]}, so it never fires") from None
    wildcard = given[0].startswith("*") or given[1].startswith("*") or "/" in given[1]
    return CronTimes(" ".join(fields), wildcard)
