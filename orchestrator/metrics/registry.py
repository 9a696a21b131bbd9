"""The families of metrics: each app adds functions that read its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from django.db import connection, transaction
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Source = Callable[[], Iterable[Metric]]

# What one statement of a scrape may take.
STATEMENT_SECONDS = 5

_sources: list[Source] = []


def source(function: Source) -> Source:
    """Registers a function that reads families of metrics from the database, in a few statements."""
    _sources.append(function)
    return function


def exposition() -> bytes:
    """All metrics as text. Raises the database's errors: a scrape that misses something must not look whole."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(_collected()))
    return generate_latest(registry)


def _collected() -> list[Metric]:
    began_at = time.monotonic()
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
        found = [family for each in _sources for family in each()]
    took = GaugeMetricFamily("muster_scrape_seconds", "How long the database took for these metrics.")
    took.add_metric([], time.monotonic() - began_at)
    return [*found, took]


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def gauge(
    name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[Iterable[object], float | None]]
) -> Metric:
    """A gauge; a value that is not known is left out."""
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for given, value in values:
        if value is not None:
            family.add_metric([str(each) for each in given], value)
    return family
