"""Whether what is to be told to OpenTelemetry's collector can be told."""

from __future__ import annotations

import os
from importlib.util import find_spec

from django.conf import settings

from orchestrator.diagnostics.checks import Finding, check, ok, warn
from orchestrator.telemetry.exporting import PACKAGES

MODULES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


@check("traces", needs=())
def traces() -> Finding:
    """OpenTelemetry's variables do nothing without its packages, which need not be installed."""
    if not settings.EXPORT_TRACES:
        return ok("Traces are not exported: no OTEL_EXPORTER_OTLP_ENDPOINT is set.")
    if missing := [name for name in MODULES if not _is_installed(name)]:
        return warn(
            f"OpenTelemetry's variables are set, and traces are not exported: {missing[0]} is not installed.",
            f"Install {PACKAGES}: see docs/observability.md.",
        )
    if (protocol := _protocol()) not in ("", "http/protobuf"):
        return warn(
            f"Traces are sent by http/protobuf, not by {protocol}.",
            "Let OTEL_EXPORTER_OTLP_ENDPOINT name the collector's port for HTTP, usually 4318.",
        )
    return ok("Traces are exported, as OpenTelemetry's variables say.")


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # What it is part of is missing.
        return False


def _protocol() -> str:
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    return next((value for name in names if (value := os.environ.get(name, ""))), "")
