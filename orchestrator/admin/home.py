"""The admin's home page: panels that each app declares, drawn anew while somebody looks.

A panel reads a few rows that are counted already, so that the page is as quick over millions of jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from access.permissions import is_granted
from orchestrator.rollups import reading
from orchestrator.rollups.reading import MINUTE, Ended


class Alert(NamedTuple):
    """What is not as it should be, in a sentence, and where to look."""

    msg: str
    url: str = ""
    is_grave: bool = True


class Shown(NamedTuple):
    """What a panel has read: the context of its template, what it found to be wrong, and a note below all panels."""

    context: dict[str, Any]
    alerts: list[Alert] = []
    note: str = ""


class Panel(NamedTuple):
    template: str
    read: Callable[[HttpRequest], Shown]
    permission: str
    place: int


_panels: list[Panel] = []


def panel(template: str, *, permission: str, place: int) -> Callable[[Callable[[HttpRequest], Shown]], Panel]:
    """Makes a function a panel of the home page, shown to those with the permission.

    place: those with lower numbers come first.
    """

    def declare(read: Callable[[HttpRequest], Shown]) -> Panel:
        _panels.append(Panel(template, read, permission, place))
        return _panels[-1]

    return declare


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold asks it for what the home page shows. htmx asks for the panels alone."""
    panels: list[tuple[str, Shown]] = [(each.template, each.read(request)) for each in _shown_to(request)]
    alerts = [alert for _, shown in panels for alert in shown.alerts]
    is_grave = any(alert.is_grave for alert in alerts)
    failed = failed_lately(request)
    return context | {
        "layout": "orchestrator/admin/bare.html" if "HX-Request" in request.headers else "admin/base_site.html",
        "is_fullwidth": "1",
        "title": "Home",
        "panels": [{"template": template, **shown.context} for template, shown in panels],
        "failed": failed,
        "alerts": sorted(alerts, key=lambda alert: not alert.is_grave),
        "health": "m-is-bad" if is_grave else "m-is-odd" if alerts or failed else "m-is-good",
        "notes": [shown.note for _, shown in panels if shown.note],
        "sees_anything": bool(panels),
    }


def lately(request: HttpRequest) -> Ended:
    """What has ended lately, read once for all that one page shows of it."""
    if not hasattr(request, "ended_lately"):
        request.ended_lately = reading.ended(timezone.now())  # type: ignore[attr-defined]
    found: Ended = request.ended_lately  # type: ignore[attr-defined]
    return found


def failed_lately(request: HttpRequest) -> int:
    """How many jobs have failed within the last hour, for the sidebar of whoever may see jobs."""
    if not is_granted(request.user, "orchestrator.view_job"):
        return 0
    if request.path == reverse("admin:index"):
        return lately(request).total(MINUTE).failed
    return reading.failed_within_hour()


def _shown_to(request: HttpRequest) -> Iterator[Panel]:
    for each in sorted(_panels, key=lambda panel: panel.place):
        if is_granted(request.user, each.permission):
            yield each
