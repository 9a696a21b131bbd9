"""Where Flower is."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest


def flower_url(request: HttpRequest) -> str:
    """FLOWER_URL, or its port on the host by whose name this page was asked for."""
    name = request.get_host()
    host = name.rpartition(":")[0] or name
    return settings.ENV.FLOWER_URL.rstrip("/") or f"http://{host}:{settings.ENV.FLOWER_PORT}"
