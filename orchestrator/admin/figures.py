"""Figures that several pages show: what ended as a chart, how many a minute, and how long jobs typically run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.safestring import SafeString

from orchestrator.admin.charts import Bar, bars, sparkline
from orchestrator.queue import lanes
from orchestrator.rollups import reading
from orchestrator.rollups.reading import Held, KindNow, Point, TimesAt
from orchestrator.shown.words import duration

RATE_MINUTES = 5
NOTHING_ENDED = "No job ended in this time."
NOTHING_RAN = "No job completed in this time."


def jobs_url(**filters: object) -> str:
    return f"{reverse('admin:orchestrator_job_changelist')}?{urlencode(filters)}"


def held_back(kinds: Iterable[KindNow]) -> list[dict[str, Any]]:
    """What limits hold back of these kinds, each with where its jobs are listed."""
    return [
        {"kind": kind.name, "held": held, "url": _held_url(kind.name, held)}
        for kind in kinds
        for held in kind.held_back
    ]


def _held_url(kind: str, held: Held) -> str:
    """Jobs behind a limit of the whole kind are those that wait for a worker: only the kind itself knows better."""
    of_each = held.limit in (lanes.PER_OWNER, lanes.PER_KEY) or held.per in ("owner", "key")
    return jobs_url(kind=kind, waiting_for=held.limit if of_each else "worker")


def rate_of(minutes: Sequence[Point]) -> float:
    """Jobs done a minute, over the last whole minutes."""
    whole = minutes[-RATE_MINUTES - 1 : -1]
    return sum(point.counts.ended for point in whole) / max(len(whole), 1)


def ended_chart(points: Sequence[Point], title: str, clock: str) -> dict[str, Any]:
    columns = [
        Bar(
            [
                ("m-completed", point.counts.completed),
                ("m-cancelled", point.counts.cancelled),
                ("m-failed", point.counts.failed),
            ],
            f"{point.at:{clock}}: {point.counts.completed:,} completed, {point.counts.failed:,} failed, "
            f"{point.counts.cancelled:,} cancelled",
        )
        for point in points
    ]
    peak = int(max(column.total for column in columns))
    counts = reading.summed(point.counts for point in points)
    said = f"{counts.completed:,} completed, {counts.failed:,} failed" if peak else ""
    return {
        "title": title,
        "svg": bars(columns, f"{title}: {said or NOTHING_ENDED}"),
        "said": said,
        "peak": f"{peak:,}",
        "empty": "" if peak else NOTHING_ENDED,
        "labels": [f"{points[n].at:{clock}}" for n in (0, len(points) // 2, -1)],
    }


def run_times_chart(hours: Sequence[TimesAt]) -> dict[str, Any]:
    """The median of each hour."""
    title, said, longest = "Typical run time, last day by the hour", _range_of(hours), _longest(hours)
    return {
        "title": title,
        "svg": bars(_medians(hours), f"{title}: {said or NOTHING_RAN}"),
        "said": said,
        "peak": duration(longest),
        "is_times": True,
        "empty": "" if longest else NOTHING_RAN,
        "labels": [f"{hours[n].at:%H:00}" for n in (0, len(hours) // 2, -1)],
    }


def run_times_sparkline(hours: Sequence[TimesAt]) -> SafeString | str:
    """The same in a line of a table."""
    if not (said := _range_of(hours)):
        return ""
    return sparkline(_medians(hours), f"Typical run time, last day by the hour: {said}")


def _range_of(hours: Sequence[TimesAt]) -> str:
    medians = [each.times.median for each in hours if each.times.median is not None]
    return f"median {duration(min(medians))} to {duration(max(medians))}" if medians else ""


def _longest(hours: Sequence[TimesAt]) -> float | None:
    return max((each.times.median for each in hours if each.times.median is not None), default=None)


def _medians(hours: Sequence[TimesAt]) -> list[Bar]:
    return [
        Bar(
            [("m-running", each.times.median or 0)],
            f"{each.at:%H:00}: median {duration(each.times.median)}, 95 % within {duration(each.times.p95)}",
        )
        for each in hours
    ]
