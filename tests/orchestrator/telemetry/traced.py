"""A process that exports traces to a collector of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import override_settings
from opentelemetry import trace

from orchestrator.telemetry import attempts, exporting
from tests.orchestrator.telemetry.collector import Collector, Span, collecting

BOTH = pytest.mark.parametrize("execution", ["leased", "transactional"])
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
MIDDLEWARE = ["orchestrator.http.request_context.TracingMiddleware", *django_settings.MIDDLEWARE]


class Traced:
    """What this process exports, to a collector."""

    def __init__(self, collector: Collector, provider: Any) -> None:
        self._collector, self._provider = collector, provider

    def spans(self) -> list[Span]:
        """All spans that have ended until now."""
        self._provider.force_flush()
        return self._collector.spans

    def named(self, *names: str) -> list[Span]:
        self.spans()
        return [span for name in names for span in self._collector.named(name)]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    """A process with OpenTelemetry's variables set."""
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        provider = exporting.make_provider()
        assert provider is not None
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
        monkeypatch.setattr(attempts, "trace_budget", attempts.Budget("TRACED_JOBS_PER_SECOND"))
        with override_settings(MIDDLEWARE=MIDDLEWARE):
            yield Traced(collector, provider)
        provider.shutdown()
