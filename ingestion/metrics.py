"""Metrics of records."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from orchestrator.diagnostics.queries import rows
from orchestrator.metrics.registry import gauge, source

# To count millions would take seconds; PostgreSQL's own statistics know about how many there are.
RECORDS = """
SELECT pg_class.relname = 'ingestion_recorderror', greatest(reltuples, n_live_tup, 0)::float
FROM pg_class JOIN pg_stat_user_tables AS statistics ON statistics.relid = pg_class.oid
WHERE pg_class.oid IN ('ingestion_record'::regclass, 'ingestion_recorderror'::regclass)
"""


@source
def records() -> Iterable[Metric]:
    found = [(("rejected" if is_rejected else "stored",), count) for is_rejected, count in rows(RECORDS)]
    yield gauge("muster_records", "About how many records there are, by PostgreSQL's statistics.", ("state",), found)
