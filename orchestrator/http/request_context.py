"""What a request is part of, for logs and traces. Each is installed only where the settings ask for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from uuid import uuid4

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from orchestrator.telemetry import json_lines, tracing

# What a client or a proxy may call its request; anything else would make lines that cannot be searched for.
GIVEN_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
# Nobody wants to see these.
UNTRACED = ("/api/health", "/metrics", "/static/", "/favicon.ico")

GetResponse = Callable[[HttpRequest], HttpResponseBase]


class RequestIdMiddleware:
    """Has lines in the log name the request: by its X-Request-ID, or a new one, which the response has as well."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get("X-Request-ID", "")
        request_id = given if GIVEN_ID.fullmatch(given) else uuid4().hex
        with json_lines.serving(request_id, request):
            response = self.get_response(request)
        response["X-Request-ID"] = request_id
        return response


class TracingMiddleware:
    """Makes a span of each request, which continues the trace of its `traceparent`, if it has one (W3C)."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        tracing.is_on()  # What it needs is imported now, not by the first request.

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if request.path.startswith(UNTRACED) or not tracing.is_on():
            return self.get_response(request)
        method = request.method or ""
        headers = {name: request.headers[name] for name in ("traceparent", "tracestate") if name in request.headers}
        with tracing.request_span(method, headers, **{"url.path": request.path}) as span:
            response = self.get_response(request)
            if span:
                route = request.resolver_match.route if request.resolver_match else ""
                tracing.answered(span, method=method, route=route, status=response.status_code)
        return response
