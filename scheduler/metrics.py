"""Metrics of schedules."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

from orchestrator.diagnostics.queries import rows
from orchestrator.metrics.registry import gauge, source

SCHEDULES = """
SELECT count(*), count(*) FILTER (WHERE last_error <> '' AND next_run_at IS NULL),
       count(*) FILTER (WHERE held_since IS NOT NULL),
       extract(epoch FROM clock_timestamp() - min(next_run_at))::float
FROM scheduler_taskschedule WHERE enabled
"""


@source
def schedules() -> Iterable[Metric]:
    [[enabled, broken, held, lag]] = rows(SCHEDULES)
    yield gauge("muster_schedules", "Schedules that are enabled.", (), [((), enabled)])
    yield gauge("muster_schedules_stopped", "Those of them that an error has stopped.", (), [((), broken)])
    yield gauge("muster_schedules_held", "Those that the limits of their owners hold back.", (), [((), held)])
    yield gauge(
        "muster_schedule_lag_seconds", "How overdue the most overdue schedule is.", (), [((), max(0.0, lag or 0.0))]
    )
