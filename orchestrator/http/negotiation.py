"""Which of a view's media types a response has."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from django.http.request import MediaType
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class Negotiation(DefaultContentNegotiation):
    """The type that the Accept header prefers (RFC 9110, section 12.5.1); the first of a view's where it has no
    preference.

    REST framework's own ignores q. What is chosen is `request.accepted_media_type`.
    """

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderers = list(renderers)
        accept = request.headers.get("Accept", "").strip() or "*/*"
        names = [(each, name) for each in renderers for name in (each.media_type, *getattr(each, "also_known_as", ()))]
        best = names[0] if accept == "*/*" else max(names, key=lambda each: _quality(each[1], accept))
        if accept != "*/*" and not _quality(best[1], accept):
            raise NotAcceptable(available_renderers=renderers)
        return best


def _quality(name: str, accept: str) -> float:
    """From 0 to 1, by the range that names the type most closely."""
    ranges = [each for each in map(MediaType, accept.split(",")) if _covers(each, name)]
    closest = max(ranges, key=attrgetter("specificity"), default=None)
    return 0 if closest is None else closest.quality


def _covers(range: MediaType, name: str) -> bool:
    main, _, sub = name.partition("/")
    return range.main_type in ("*", main) and range.sub_type in ("*", sub)
