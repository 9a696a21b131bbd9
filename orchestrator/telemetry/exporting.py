"""Exports spans to a collector, as OpenTelemetry's own environment variables say. Imported only where they are set."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from typing import Any

from orchestrator.per_process import PerProcess

logger = logging.getLogger(__name__)

# How long a process that ends waits for its last spans to be sent.
STOP_SECONDS = 2.0

PACKAGES = "opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http"


def make_provider() -> Any:
    """A provider of spans that exports them; None if the packages are missing."""
    try:
        # Not above, since they need not be installed.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning("No traces are exported (%s): install %s.", error, PACKAGES)
        return None
    named = SERVICE_NAME in OTELResourceDetector().detect().attributes
    resource = Resource.create({} if named else {SERVICE_NAME: "muster"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    # Its thread sends what it is given; what does not fit into its queue is dropped.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _start() -> Any:
    """The provider of this process; None if there is none that could be asked to send what it has."""
    provider = _current()
    if provider is None:
        provider = make_provider()
        if provider is not None:
            from opentelemetry import trace

            trace.set_tracer_provider(provider)
            atexit.register(_flush, provider, os.getpid())
    return provider if hasattr(provider, "force_flush") else None


def _current() -> Any:
    """Somebody else's, or what a forked process has inherited, which has made itself another thread; or None."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


_provider = PerProcess(_start)


def start() -> None:
    """Sets OpenTelemetry up, unless it is."""
    _provider()


def flush() -> None:
    """Sends the remaining spans, if that takes no longer than a moment."""
    if provider := _provider():
        _flush(provider, os.getpid())


def _flush(provider: Any, pid: int) -> None:
    if os.getpid() == pid:
        # A collector that does not answer would be waited for by the last statement of the process.
        thread = threading.Thread(target=provider.force_flush, name="last-spans", daemon=True)
        thread.start()
        thread.join(STOP_SECONDS)
