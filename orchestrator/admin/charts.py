"""Charts as SVG, made here: their colours come from the style sheet, so they are right in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

# A chart's height, and the least height of what is not nothing, in units of its drawing.
HEIGHT, LEAST = 100.0, 2.0
BAR, GAP = 8.0, 2.0


class Bar(NamedTuple):
    """What is stacked, from below: a class of the style sheet and a number each; and what pointing at it shows."""

    parts: Sequence[tuple[str, float]]
    title: str

    @property
    def total(self) -> float:
        return sum(value for _, value in self.parts)


def sparkline(columns: Sequence[Bar], label: str) -> SafeString:
    """The same in a line of a table."""
    return bars(columns, label, css="m-chart m-sparkline")


def bars(columns: Sequence[Bar], label: str, css: str = "m-chart") -> SafeString:
    """A chart of stacked bars, as wide as there is room. `label` says what it shows to those who cannot see it."""
    peak = max((column.total for column in columns), default=0) or 1
    step = BAR + GAP
    drawn = format_html_join(
        "",
        '<g><title>{}</title><rect class="m-hit" x="{}" y="0" width="{}" height="{}"/>{}</g>',
        (
            (column.title, f"{n * step:g}", f"{step:g}", f"{HEIGHT:g}", _stack(column, n * step + GAP / 2, peak))
            for n, column in enumerate(columns)
        ),
    )
    return format_html(
        '<svg class="{}" role="img" aria-label="{}" viewBox="0 0 {} {}" preserveAspectRatio="none">{}</svg>',
        css,
        label,
        f"{len(columns) * step:g}",
        f"{HEIGHT:g}",
        drawn,
    )


def _stack(column: Bar, x: float, peak: float) -> SafeString:
    rectangles = []
    top = HEIGHT
    for name, value in column.parts:
        if value:
            height = max(LEAST, value / peak * HEIGHT)
            top = max(0.0, top - height)
            rectangles.append((name, f"{x:g}", f"{top:.2f}", f"{BAR:g}", f"{height:.2f}"))
    return format_html_join("", '<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>', rectangles)


def meter(used: int, total: int, *, bad: int = 0) -> SafeString:
    """How many of so many are used, and how many of those are bad."""
    whole = max(total, used, 1)
    return format_html(
        '<svg class="m-meter" role="img" aria-label="{} of {}" viewBox="0 0 100 6" preserveAspectRatio="none">'
        '<rect class="m-track" width="100" height="6"/><rect class="m-running" width="{}" height="6"/>'
        '<rect class="m-failed" width="{}" height="6"/></svg>',
        used,
        total,
        f"{100 * used / whole:.1f}",
        f"{100 * bad / whole:.1f}",
    )
