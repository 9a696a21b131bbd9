"""The first page: what runs here, whether it is well, and where to go."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.safestring import mark_safe

from orchestrator.diagnostics.flower import flower_url
from orchestrator.diagnostics.readiness import readiness
from orchestrator.http.responses import only_read


@only_read
def first_page(request: HttpRequest) -> HttpResponse:
    is_ready, checks = readiness()
    context = {
        "is_ready": is_ready,
        "checks": checks,
        "host": f"{request.scheme}://{request.get_host()}",
        "flower_url": flower_url(request),
        "needs_token": settings.ENV.REQUIRE_AUTH,
        "token": mark_safe(" -H 'Authorization: Bearer TOKEN'") if settings.ENV.REQUIRE_AUTH else "",
    }
    return render(request, "first_page.html", context)
