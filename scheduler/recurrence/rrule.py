"""RFC 5545's recurrence rules as text: read, and refused with what would be right. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from scheduler.recurrence import clocks

MAX_RRULE_LENGTH = 500
# COUNT has to be counted from the start.
MAX_COUNT = 10_000
# A day's times are gone through one by one.
MAX_TIMES_A_DAY = 288
MAX_INTERVAL = timedelta(days=36_525)

# How long one step of each frequency is, about.
STEPS = {
    "SECONDLY": timedelta(seconds=1),
    "MINUTELY": timedelta(minutes=1),
    "HOURLY": timedelta(hours=1),
    "DAILY": timedelta(days=1),
    "WEEKLY": timedelta(weeks=1),
    "MONTHLY": timedelta(days=31),
    "YEARLY": timedelta(days=365),
}
WITHIN_A_DAY = ("SECONDLY", "MINUTELY", "HOURLY")
WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")

# The parts that are lists of numbers: the least and the most, and whether they are also counted from the end.
NUMBERS = {
    "BYMONTH": (1, 12, False),
    "BYWEEKNO": (1, 53, True),
    "BYYEARDAY": (1, 366, True),
    "BYMONTHDAY": (1, 31, True),
    "BYHOUR": (0, 23, False),
    "BYMINUTE": (0, 59, False),
    # 60 is a leap second, which neither PostgreSQL nor Python has.
    "BYSECOND": (0, 59, False),
    "BYSETPOS": (1, 366, True),
}
PARTS = ("FREQ", "INTERVAL", "COUNT", "UNTIL", *NUMBERS, "BYDAY", "WKST")

# What RFC 5545, section 3.3.10, forbids: the part, the frequencies it is not allowed with, and what would be right.
FORBIDDEN = (
    ("BYWEEKNO", set(STEPS) - {"YEARLY"}, "it goes with FREQ=YEARLY only"),
    ("BYYEARDAY", {"DAILY", "WEEKLY", "MONTHLY"}, "give FREQ=YEARLY, or BYMONTH with BYMONTHDAY"),
    ("BYMONTHDAY", {"WEEKLY"}, "give FREQ=MONTHLY, or FREQ=DAILY with BYDAY and BYMONTHDAY"),
)

# Lines of a calendar's entry that are not the rule, and where what they say belongs.
ELSEWHERE = {
    "DTSTART": "use scheduled_at for the start, and timezone for its zone",
    "DTEND": "a task has no duration; use ends_at for the last run",
    "DURATION": "a task has no duration; use ends_at for the last run",
    "EXRULE": "RFC 5545 has removed it; list the excluded times as EXDATE",
}


class BadRRule(ValueError):
    """The rule cannot be used."""


@dataclass(frozen=True)
class Moment:
    """A time that a rule names: of a zone or, without one, of the schedule's zone."""

    local: datetime
    zone: ZoneInfo | None = None

    def instant(self, zone: ZoneInfo) -> datetime:
        """Where clocks show the time twice, the first time."""
        try:
            return clocks.to_instant(self.local, self.zone or zone)
        except OverflowError:  # Elsewhere it is the year 0 or 10,000.
            return self.local.replace(tzinfo=UTC)

    def last_instant(self, zone: ZoneInfo) -> datetime:
        """Where clocks show the time twice, the second time."""
        try:
            return [self.instant(zone), *clocks.showings(self.local, self.zone or zone)][-1]
        except OverflowError:
            return self.instant(zone)


@dataclass(frozen=True)
class Rule:
    """A rule that was read and has one meaning. Empty lists were not given."""

    text: str
    freq: str
    interval: int = 1
    count: int | None = None
    until: Moment | None = None
    week_start: int = 0
    months: tuple[int, ...] = ()
    week_numbers: tuple[int, ...] = ()
    year_days: tuple[int, ...] = ()
    month_days: tuple[int, ...] = ()
    # How manieth of its month or year, or 0 for every one, and which day, from Monday, which is 0.
    weekdays: tuple[tuple[int, int], ...] = ()
    hours: tuple[int, ...] = ()
    minutes: tuple[int, ...] = ()
    seconds: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()
    excluded: tuple[Moment, ...] = field(default=(), kw_only=True)
    added: tuple[Moment, ...] = field(default=(), kw_only=True)

    @property
    def counts_real_time(self) -> bool:
        """Whether it goes through every hour alike, also through those that clocks repeat, because it names none."""
        return self.freq in WITHIN_A_DAY and not self.hours


@lru_cache(maxsize=1_000)
def read(text: str) -> Rule:
    """Reads a rule, with or without `RRULE:`, and with EXDATE and RDATE on lines of their own; raises BadRRule."""
    if len(text) > MAX_RRULE_LENGTH:
        raise BadRRule(f"At most {MAX_RRULE_LENGTH} characters, not {len(text)}.")
    # RFC 5545 folds long lines by a line break and a blank.
    lines = re.sub(r"\r?\n[ \t]", "", text).strip().splitlines()
    rules: list[str] = []
    moments: dict[str, list[Moment]] = {"EXDATE": [], "RDATE": []}
    for line in lines:
        name, parameters, value = _content_line(line)
        if name == "RRULE":
            rules.append(value)
        else:
            moments[name] += _moments(name, parameters, value)
    if len(rules) != 1:
        raise BadRRule(
            f"Give one RRULE, such as FREQ=WEEKLY;BYDAY=MO,WE, not {len(rules)}; create a schedule for each."
        )
    return replace(_rule(rules[0]), excluded=tuple(moments["EXDATE"]), added=tuple(moments["RDATE"]))


def _content_line(line: str) -> tuple[str, str, str]:
    """The name, the parameters and the value of a line; a rule may stand there without its name."""
    match = re.fullmatch(r"([A-Za-z-]+)(?:;([^:]*))?:(.*)", line)
    if not match:
        return "RRULE", "", line.upper()
    name, parameters, value = match[1].upper(), match[2] or "", match[3].upper()
    if name not in ("RRULE", "EXDATE", "RDATE") or (name == "RRULE" and parameters):
        raise BadRRule(f"{name[:40]} is not supported: {ELSEWHERE.get(name, 'use only RRULE, EXDATE and RDATE')}.")
    return name, parameters, value


def _moments(name: str, parameters: str, value: str) -> list[Moment]:
    zone = None
    for parameter in filter(None, parameters.split(";")):
        key, _, given = parameter.partition("=")
        if key.upper() == "TZID":
            zone = _zone(given.strip('"'))
        elif parameter.upper() != "VALUE=DATE-TIME":
            raise BadRRule(
                f"{parameter[:40]} is not supported in {name}: give times, such as {name}:20300131T090000Z."
            )
    return [_moment(name, each, zone) for each in value.split(",")]


def _zone(name: str) -> ZoneInfo:
    try:
        return clocks.zone_named(name)
    except clocks.UnknownZone as error:
        raise BadRRule(f"TZID={error}") from None


def _moment(name: str, value: str, zone: ZoneInfo | None = None) -> Moment:
    """A time in UTC (with a Z), or by the clocks of the zone."""
    wrong = BadRRule(
        f"{value[:40]!r} is not a time for {name}: write 20300131T090000Z for UTC, or 20300131T090000 for local time "
        f"in the schedule's timezone{', or 20300131 to include that day' * (name == 'UNTIL')}."
    )
    if name == "UNTIL" and re.fullmatch(r"[0-9]{8}", value):
        value += "T235959"
    if not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z?", value) or (zone and value.endswith("Z")):
        raise wrong
    try:
        local = datetime.strptime(value.removesuffix("Z"), "%Y%m%dT%H%M%S")  # noqa: DTZ007 - of any zone
    except ValueError:
        raise wrong from None
    # Python reads the seconds 60 and 61 as well.
    if f"{local.second:02}" != value[13:15]:
        raise wrong
    if name != "UNTIL" and local.year not in clocks.YEARS:
        raise BadRRule(f"{value!r}: the year of {name} must be {clocks.YEARS[0]} to {clocks.YEARS[-1]}.")
    return Moment(local, ZoneInfo("UTC") if value.endswith("Z") else zone)


def _rule(text: str) -> Rule:
    parts = _parts(text)
    freq = parts.get("FREQ", "")
    if freq not in STEPS:
        raise BadRRule(f"FREQ={freq[:40]} is unknown; use one of {', '.join(reversed(STEPS))}.")
    _check_together(parts, freq)
    numbers = {name: _numbers(name, parts[name]) if name in parts else () for name in NUMBERS}
    rule = Rule(
        text=text,
        freq=freq,
        interval=_number("INTERVAL", parts.get("INTERVAL", "1"), MAX_INTERVAL // STEPS[freq]),
        count=_number("COUNT", parts["COUNT"], MAX_COUNT) if "COUNT" in parts else None,
        until=_moment("UNTIL", parts["UNTIL"]) if "UNTIL" in parts else None,
        week_start=_weekday("WKST", parts.get("WKST", "MO")),
        months=numbers["BYMONTH"],
        week_numbers=numbers["BYWEEKNO"],
        year_days=numbers["BYYEARDAY"],
        month_days=numbers["BYMONTHDAY"],
        weekdays=_weekdays(parts, freq),
        hours=numbers["BYHOUR"],
        minutes=numbers["BYMINUTE"],
        seconds=numbers["BYSECOND"],
        positions=numbers["BYSETPOS"],
    )
    _check_times(rule)
    return rule


def _parts(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    # A semicolon at the end says nothing; Google's calendar writes it.
    for part in text.removesuffix(";").split(";"):
        name, equals, value = part.partition("=")
        if name in ("RSCALE", "SKIP"):
            raise BadRRule(
                f"{part[:40]!r} is from RFC 7529; only the Gregorian calendar is supported, so leave it out."
            )
        if name in ELSEWHERE:
            raise BadRRule(f"{name} is not supported: {ELSEWHERE[name]}.")
        if name not in PARTS or not equals:
            raise BadRRule(
                f"{part[:40]!r} is not part of a rule such as FREQ=WEEKLY;BYDAY=MO,WE; its parts are "
                f"{', '.join(PARTS)}."
            )
        if not value:
            raise BadRRule(f"{name} has no value; give one, or leave {name} out.")
        if name in parts:
            raise BadRRule(f"{name} is given twice, as {parts[name][:40]} and {value[:40]}; give all values at once.")
        parts[name] = value
    return parts


def _check_together(parts: dict[str, str], freq: str) -> None:
    for name, frequencies, right in FORBIDDEN:
        if name in parts and freq in frequencies:
            raise BadRRule(f"{name}={parts[name][:40]} is not allowed with FREQ={freq}: {right}.")
    if {"COUNT", "UNTIL"} <= parts.keys():
        raise BadRRule(
            f"COUNT={parts['COUNT'][:40]} and UNTIL={parts['UNTIL'][:40]} exclude each other; give only one."
        )
    if "BYSETPOS" in parts and not any(name.startswith("BY") for name in parts.keys() - {"BYSETPOS"}):
        raise BadRRule(
            f"BYSETPOS={parts['BYSETPOS'][:40]} selects from what another BY part yields; add one, such as "
            "BYDAY=MO,TU."
        )


def _numbers(name: str, values: str) -> tuple[int, ...]:
    least, most, from_the_end = NUMBERS[name]
    right = f"{least} to {most}" + f" or -{most} to -{least}" * from_the_end
    numbers = set()
    for value in values.split(","):
        signs = "[+-]?" if from_the_end else ""
        if not re.fullmatch(signs + "[0-9]{1,3}", value):
            raise BadRRule(f"{value[:40]!r} is not a value of {name}: {right}.")
        if not least <= abs(int(value)) <= most:
            raise BadRRule(f"{name}={value} is out of range: {right}.")
        numbers.add(int(value))
    return tuple(sorted(numbers))


def _number(name: str, value: str, most: int) -> int:
    if not re.fullmatch("[0-9]{1,20}", value) or not 1 <= int(value) <= most:
        hint = "; for more use UNTIL, ends_at or schedule_x_times" * (name == "COUNT")
        raise BadRRule(f"{name}={value[:40]} is out of range: 1 to {most:,}{hint}.")
    return int(value)


def _weekday(name: str, value: str) -> int:
    if value not in WEEKDAYS:
        raise BadRRule(f"{value[:40]!r} is not a day for {name}: {', '.join(WEEKDAYS)}.")
    return WEEKDAYS.index(value)


def _weekdays(parts: dict[str, str], freq: str) -> tuple[tuple[int, int], ...]:
    days = set()
    for value in parts["BYDAY"].split(",") if "BYDAY" in parts else ():
        match = re.fullmatch(r"([+-]?[0-9]{1,3})?([A-Z]{2})", value)
        if not match:
            raise BadRRule(f"{value[:40]!r} is not a day for BYDAY: {', '.join(WEEKDAYS)}, or such as 2TU and -1FR.")
        if match[1]:
            _check_ordinal(value, int(match[1]), parts, freq)
        days.add((int(match[1] or 0), _weekday("BYDAY", match[2])))
    return tuple(sorted(days))


def _check_ordinal(value: str, ordinal: int, parts: dict[str, str], freq: str) -> None:
    weekday = value[-2:]
    if freq not in ("MONTHLY", "YEARLY"):
        raise BadRRule(
            f"BYDAY={value} is not allowed with FREQ={freq}: give BYDAY={weekday}, or FREQ=MONTHLY or YEARLY."
        )
    if "BYWEEKNO" in parts:
        raise BadRRule(
            f"BYDAY={value} is not allowed with BYWEEKNO: a week has one {weekday}, so give BYDAY={weekday}."
        )
    most, period = (5, "month") if freq == "MONTHLY" or "BYMONTH" in parts else (53, "year")
    if not 1 <= abs(ordinal) <= most:
        raise BadRRule(f"BYDAY={value} is out of range: 1 to {most} or -{most} to -1 of a {period}.")


def _check_times(rule: Rule) -> None:
    if rule.freq not in WITHIN_A_DAY:
        times = max(1, len(rule.hours)) * max(1, len(rule.minutes)) * max(1, len(rule.seconds))
        if times > MAX_TIMES_A_DAY:
            raise BadRRule(
                f"{times:,} times a day: at most {MAX_TIMES_A_DAY}; for more give FREQ=MINUTELY or SECONDLY."
            )
