"""Whether traces that are asked for are exported."""

from __future__ import annotations

import sys

import pytest
from pytest_django import Settings

from orchestrator.diagnostics.checks import Level
from orchestrator.doctor.telemetry import traces


def test_traces_that_nobody_asked_for_are_no_trouble(settings: Settings) -> None:
    settings.EXPORT_TRACES = False

    assert traces.look().level == Level.OK


def test_traces_that_are_exported_are_fine(settings: Settings) -> None:
    settings.EXPORT_TRACES = True

    assert traces.look().level == Level.OK


def test_missing_packages_are_a_warning_that_names_them(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.EXPORT_TRACES = True
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto", None)
    monkeypatch.delitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", raising=False)

    finding = traces.look()

    assert finding.level == Level.WARN
    assert "opentelemetry.exporter.otlp.proto.http is not installed" in finding.msg
    assert "opentelemetry-exporter-otlp-proto-http" in finding.hint


def test_a_protocol_that_is_not_spoken_is_a_warning(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.EXPORT_TRACES = True
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")

    assert traces.look().level == Level.WARN
