"""/metrics, for Prometheus: by a token of its own, or from this machine alone."""

from __future__ import annotations

import hmac
from ipaddress import ip_address

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from prometheus_client import CONTENT_TYPE_LATEST

from access.failed_attempts import address_of
from orchestrator.http.responses import only_read, problem
from orchestrator.metrics import jobs as jobs  # Its sources.
from orchestrator.metrics.registry import exposition

FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via")


@only_read
def metrics(request: HttpRequest) -> HttpResponseBase:
    if settings.ENV.METRICS_TOKEN:
        if not _has_token(request):
            detail = "Send 'Authorization: Bearer TOKEN' with METRICS_TOKEN."
            return problem(401, detail, headers={"WWW-Authenticate": "Bearer"})
    elif not _is_from_here(request):
        return problem(403, "Without METRICS_TOKEN, metrics are served to this machine alone, not through a proxy.")
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})


def _has_token(request: HttpRequest) -> bool:
    given = request.headers.get("Authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {settings.ENV.METRICS_TOKEN}".encode())


def _is_from_here(request: HttpRequest) -> bool:
    """A proxy on this machine asks for others, and says so in one of these headers."""
    try:
        is_loopback = ip_address(address_of(request)).is_loopback
    except ValueError:
        is_loopback = False
    return is_loopback and not any(name in request.headers for name in FORWARDED)
