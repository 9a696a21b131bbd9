"""Local time: what the clocks of a zone show at an instant, and at which instants they show it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

SECOND = timedelta(seconds=1)
# Of times that a rule names. Close to the year 10,000 it may be too late to be shown by the clocks of a zone.
YEARS = range(1970, 9_000)

# Files beside those of the zones: what this machine is set to, a zone whose clocks stand at "unset", a template.
NO_ZONES = frozenset({"localtime", "Factory", "posixrules"})


class UnknownZone(ValueError):
    """There is no such time zone."""


def zone_names() -> list[str]:
    """The names of all time zones there are here, in order."""
    return sorted(_zone_names().values())


def zone_named(name: str) -> ZoneInfo:
    """The time zone of that IANA name; raises UnknownZone for none."""
    names = _zone_names()
    if names.get(name.casefold()) == name:
        return ZoneInfo(name)
    if meant := names.get(name.strip().casefold()):
        raise UnknownZone(f"{name[:100]!r} is not a time zone; did you mean {meant}?")
    if name in NO_ZONES:
        raise UnknownZone(
            f"{name!r} is not the time zone of a place; use an IANA name such as Europe/Bucharest, or UTC."
        )
    raise UnknownZone(
        f"{name[:100]!r} is not a time zone; use an IANA name such as Europe/Bucharest. For a fixed offset: UTC, or "
        "Etc/GMT-2 for two hours east of it (the sign is reversed)."
    )


@cache
def _zone_names() -> dict[str, str]:
    return {name.casefold(): name for name in available_timezones() - NO_ZONES}


def to_local(instant: datetime, zone: ZoneInfo) -> datetime:
    """What the clocks of the zone show, without a zone."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def to_instant(local: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which the zone's clocks first show the local time or, if they skip it, go on after the gap."""
    by_old_offset = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if to_local(by_old_offset, zone) == local:
        return by_old_offset
    by_new_offset = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return first_change(by_new_offset, by_old_offset, lambda instant: to_local(instant, zone))


def showings(local: datetime, zone: ZoneInfo) -> list[datetime]:
    """The instants at which the zone's clocks show the local time: none, one or two."""
    passes = [local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    return [instant for instant in sorted(set(passes)) if to_local(instant, zone) == local]


def all_showings(
    local_times: Callable[[datetime], Iterator[datetime]], zone: ZoneInfo, after: datetime
) -> Iterator[datetime]:
    """The instants later than `after`, and perhaps a few earlier ones, at which the zone's clocks show one of the
    local times: both times where they are set back, and never where they skip it.

    local_times: yields, rising, those later than the time it is given.
    """
    shown = after.astimezone(zone).replace(tzinfo=None)
    # In the first pass of an hour that comes twice, all of that hour is still to come.
    repeated = shown.replace(tzinfo=zone, fold=0).utcoffset() - shown.replace(tzinfo=zone, fold=1).utcoffset()  # type: ignore[operator]
    second_passes: deque[datetime] = deque()
    for local in local_times(shown.replace(fold=0) - max(repeated, timedelta(0))):
        found = showings(local, zone)
        while second_passes and (not found or second_passes[0] < found[0]):
            yield second_passes.popleft()
        yield from found[:1]
        second_passes.extend(found[1:])
    yield from second_passes


def first_change(before: datetime, after: datetime, clock: Callable[[datetime], datetime]) -> datetime:
    """The instant between the two, to the second, from which the clocks were changed."""
    low, high = 0, -((before - after) // SECOND)
    shown = clock(before)
    while high - low > 1:
        middle = (low + high) // 2
        if clock(before + middle * SECOND) - shown == middle * SECOND:
            low = middle
        else:
            high = middle
    return before + high * SECOND
