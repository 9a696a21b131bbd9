"""How durations, times and counts are shown."""

from __future__ import annotations

from datetime import UTC, datetime

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

MINUTE, HOUR, DAY = 60, 3_600, 86_400


def duration(seconds: float | None) -> str:
    """With two units at the most: 850 ms, 3.4 s, 2 min 5 s, 3 h 4 min, 5 d 2 h; a dash for none."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{max(seconds, 0) * 1_000:.0f} ms"
    if seconds < MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{int(seconds)} s"
    for unit, name, smaller, small_name in (
        (DAY, "d", HOUR, "h"),
        (HOUR, "h", MINUTE, "min"),
        (MINUTE, "min", 1, "s"),
    ):
        if seconds >= unit:
            rest = int(seconds % unit // smaller)
            return f"{int(seconds // unit):,} {name}" + (f" {rest} {small_name}" if rest else "")
    raise AssertionError(seconds)


def rough(seconds: float) -> str:
    """With one unit: 12 s, 3 min, 5 h, 2 d."""
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit):,} {name}"
    return f"{int(max(seconds, 0))} s"


def exact(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def age(moment: datetime | None) -> SafeString | str:
    """How long ago, or in what time; the exact time is shown to whoever points at it."""
    if moment is None:
        return "–"
    seconds = (timezone.now() - moment).total_seconds()
    words = f"{rough(seconds)} ago" if seconds >= 0 else f"in {rough(-seconds)}"
    return as_time(moment, words)


def for_how_long(moment: datetime | None) -> SafeString | str:
    """The time since then."""
    if moment is None:
        return "–"
    return as_time(moment, rough((timezone.now() - moment).total_seconds()))


def as_time(moment: datetime, words: str) -> SafeString:
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact(moment), words)


def number(value: float | None) -> str:
    """With thousands set apart."""
    return "–" if value is None else f"{value:,}"


def rate(value: float) -> str:
    """So many a minute, without more digits than tell anything."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
