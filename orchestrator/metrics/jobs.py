"""Metrics of jobs, attempts, workers and notifications."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from django.conf import settings
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from orchestrator.diagnostics.liveness import LiveWorker, live_workers
from orchestrator.diagnostics.queries import needed_queues, rows
from orchestrator.metrics.registry import gauge, source
from orchestrator.models import Total
from orchestrator.rollups.durations import BUCKETS, SHORTEST_SECONDS
from orchestrator.rollups.totals import OUTCOMES

# Delayed jobs and pending messages that are counted.
MAX_COUNTED = 100_000

# Every so many buckets of the rollups are one of the histograms': each reaches four times as far as the one before.
STEP = 4

KINDS = """
SELECT coalesce(kind.name, backlog.kind), kind.paused_at IS NOT NULL, coalesce(waiting, 0), coalesce(running, 0),
       extract(epoch FROM clock_timestamp() - oldest_since)::float
FROM orchestrator_kind AS kind FULL JOIN orchestrator_backlog AS backlog ON backlog.kind = kind.name
ORDER BY 1
"""

DELAYED = """
SELECT kind, count(*) FROM (
    SELECT kind FROM orchestrator_job
    WHERE NOT ready AND status = 'CREATED' AND unfinished_dependencies = 0 AND blocked_by IS NULL LIMIT %(limit)s
) AS delayed GROUP BY kind ORDER BY kind
"""

HELD_BACK = 'SELECT kind, "limit", jobs FROM orchestrator_heldback ORDER BY kind, "limit"'

AGES = """
SELECT part, extract(epoch FROM clock_timestamp() - ran_at)::float FROM orchestrator_upkeep
WHERE part IN ('tick', 'rollups')
"""

LOST = """
SELECT count(*) FROM orchestrator_worker WHERE lost AND ended_at > clock_timestamp() - interval '1 hour'
"""

PENDING = """
SELECT count(*), extract(epoch FROM clock_timestamp() - min(created_at))::float FROM (
    SELECT created_at FROM orchestrator_delivery WHERE state = 'PENDING' ORDER BY notification_id, id LIMIT %(limit)s
) AS pending
"""


@source
def jobs() -> Iterable[Metric]:
    """What waits and runs, as the tick has counted it within the last ten seconds."""
    kinds = rows(KINDS)
    delayed = rows(DELAYED, limit=MAX_COUNTED)
    yield gauge(
        "muster_jobs",
        "Unfinished jobs: ready, running with a lease, or delayed to a later start. Counted up to 100,000.",
        ("kind", "state"),
        [
            *(((kind, "ready"), ready) for kind, _, ready, _, _ in kinds),
            *(((kind, "running"), running) for kind, _, _, running, _ in kinds),
            *(((kind, "delayed"), count) for kind, count in delayed),
        ],
    )
    yield gauge(
        "muster_jobs_held_back",
        "Jobs that could start but for a limit of their kind. Counted up to 10,000 a kind.",
        ("kind", "limit"),
        [((kind, limit), count) for kind, limit, count in rows(HELD_BACK)],
    )
    oldest = [((kind,), seconds or 0.0) for kind, _, _, _, seconds in kinds]
    yield gauge("muster_oldest_ready_seconds", "How long the oldest ready job has waited.", ("kind",), oldest)
    paused = [((kind,), float(is_paused)) for kind, is_paused, *_ in kinds]
    yield gauge("muster_kind_paused", "1 for a kind that is paused.", ("kind",), paused)


@source
def totals() -> Iterable[Metric]:
    """What ended since there are totals, up to about 15 seconds ago."""
    ended = CounterMetricFamily("muster_jobs_ended", "Jobs that ended.", labels=["kind", "status"])
    attempts = CounterMetricFamily(
        "muster_attempts_ended",
        "Attempts that did not complete their job, by what ended them.",
        labels=["kind", "outcome"],
    )
    waits = HistogramMetricFamily(
        "muster_job_wait_seconds", "How long jobs without a parent waited to start.", labels=["kind"]
    )
    runs = HistogramMetricFamily("muster_job_run_seconds", "How long completed jobs took.", labels=["kind"])
    for row in Total.objects.order_by("kind"):
        for status in ("completed", "failed", "cancelled"):
            ended.add_metric([row.kind, status.upper()], getattr(row, status))
        for outcome, count in zip(OUTCOMES, row.outcomes, strict=False):
            attempts.add_metric([row.kind, str(outcome)], count)
        waits.add_metric([row.kind], *histogram(row.waits))
        runs.add_metric([row.kind], *histogram(row.runs))
    return [ended, attempts, waits, runs]


def histogram(counts: Sequence[int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets as Prometheus has them, and the sum of the seconds, which is estimated by the middle of each
    bucket of the rollups.
    """
    reached = list(accumulate(counts))
    found = [(f"{upper(number):.6g}", float(reached[number])) for number in range(0, BUCKETS - 1, STEP)]
    total = sum(count * middle(number) for number, count in enumerate(counts))
    return [*found, ("+Inf", float(reached[-1]))], total


def upper(number: int) -> float:
    """How far a bucket of the rollups reaches, in seconds."""
    return float(SHORTEST_SECONDS * 2 ** (number / 2))


def middle(number: int) -> float:
    return upper(number) * 2**-0.25 if number else SHORTEST_SECONDS


@source
def workers() -> Iterable[Metric]:
    alive = [worker for worker in live_workers() if worker.is_claiming]
    queues = sorted({*needed_queues(), *(queue for worker in alive for queue in worker.queues)})
    serving = {queue: [worker for worker in alive if queue in worker.queues] for queue in queues}
    yield gauge("muster_workers", "Worker processes that claim jobs.", ("queue",), _sums(serving, lambda each: 1))
    yield gauge("muster_slots", "Jobs that they can run at once.", ("queue",), _sums(serving, lambda each: each.slots))
    yield gauge("muster_slots_busy", "Slots that run a job.", ("queue",), _sums(serving, lambda each: each.busy))
    yield gauge(
        "muster_slots_hung",
        "Slots held by jobs past their timeout.",
        ("queue",),
        _sums(serving, lambda each: each.hung),
    )
    [[lost]] = rows(LOST)
    yield gauge("muster_workers_lost", "Worker processes that died within the last hour.", (), [((), lost)])


def _sums(serving: dict[str, list[LiveWorker]], of: Callable[[LiveWorker], int]) -> list[tuple[tuple[str], float]]:
    return [((queue,), sum(map(of, those))) for queue, those in serving.items()]


@source
def upkeep() -> Iterable[Metric]:
    ages = dict(rows(AGES))
    yield gauge("muster_tick_age_seconds", "Since the last tick.", (), [((), ages.get("tick"))])
    yield gauge("muster_rollup_age_seconds", "How far the rollups lag behind.", (), [((), ages.get("rollups"))])
    limit = settings.TICK_STOPPED_AFTER_SECONDS
    yield gauge("muster_tick_limit_seconds", "Ticks count as stopped after so long.", (), [((), limit)])


@source
def notifications() -> Iterable[Metric]:
    [[count, seconds]] = rows(PENDING, limit=MAX_COUNTED)
    yield gauge("muster_deliveries_pending", "Messages of notifications that are to be sent.", (), [((), count)])
    yield gauge("muster_oldest_delivery_seconds", "How long the oldest of them has waited.", (), [((), seconds or 0)])
