"""What lives: the tick, the workers and what each of them runs; for the admin's home page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.conf import settings

from orchestrator.diagnostics.queries import ALL_HANG, HUNG_AFTER_SECONDS, NO_WORKER, idle_and_stuck, rows

# Leased jobs shown of one worker; the others are counted.
MAX_SHOWN = 20

PULSE = """
SELECT extract(epoch FROM clock_timestamp() - (SELECT ran_at FROM orchestrator_upkeep WHERE part = 'tick'))::float,
       (SELECT ran_at FROM orchestrator_upkeep WHERE part = 'rollups')
"""

# The processes that have not ended, each with its jobs: those that began first, and how many there are.
LIVE = """
SELECT worker.id, name, queues::json, slots, draining_at, seen_at,
       seen_at >= now() - make_interval(secs => %(lease)s), trying <> '{}',
       job.id, job.kind, job.began_at, job.jobs, job.hung
FROM orchestrator_worker worker LEFT JOIN LATERAL (
    SELECT id, kind, started_at AS began_at, count(*) OVER () AS jobs,
           count(*) FILTER (WHERE deadline_at < clock_timestamp() - make_interval(secs => %(late)s)) OVER () AS hung
    FROM orchestrator_job WHERE worker_id = worker.id ORDER BY started_at LIMIT %(shown)s
) AS job ON true
WHERE ended_at IS NULL
ORDER BY name, worker.id, job.began_at
LIMIT 2000
"""


class Pulse(NamedTuple):
    """The age of the last tick, and until when the rollups count."""

    tick_seconds: float | None
    counted_until: datetime | None

    @property
    def tick_stopped(self) -> bool:
        return self.tick_seconds is None or self.tick_seconds > settings.TICK_STOPPED_AFTER_SECONDS


class LeasedJob(NamedTuple):
    id: UUID
    kind: str
    began_at: datetime | None


@dataclass
class LiveWorker:
    """A worker process that has not ended."""

    id: int
    name: str
    queues: list[str]
    slots: int
    draining_at: datetime | None
    seen_at: datetime
    is_seen: bool
    runs_batch: bool
    leased: int = 0
    hung: int = 0
    jobs: list[LeasedJob] = field(default_factory=list)

    @property
    def is_claiming(self) -> bool:
        return self.is_seen and self.draining_at is None

    @property
    def busy(self) -> int:
        return self.leased + self.runs_batch

    @property
    def by_kind(self) -> list[tuple[str, int, LeasedJob]]:
        """What it runs, so many of each kind, and the first of them."""
        counts = Counter(job.kind for job in self.jobs)
        first = {job.kind: job for job in reversed(self.jobs)}
        return [(kind, count, first[kind]) for kind, count in counts.most_common()]

    @property
    def more(self) -> int:
        return self.leased - len(self.jobs)


def pulse() -> Pulse:
    [[seconds, counted_until]] = rows(PULSE)
    return Pulse(seconds, counted_until)


def live_workers() -> list[LiveWorker]:
    limits = {"lease": settings.ENV.LEASE_SECONDS, "late": HUNG_AFTER_SECONDS, "shown": MAX_SHOWN}
    workers: dict[int, LiveWorker] = {}
    for *worker, job_id, kind, began_at, jobs, hung in rows(LIVE, **limits):
        each = workers.setdefault(worker[0], LiveWorker(*worker))
        if job_id:
            each.jobs.append(LeasedJob(job_id, kind, began_at))
            # Behind a job that holds the GIL the rest of its group is overdue, too, and has no slots of its own.
            each.leased, each.hung = jobs, min(hung, each.slots)
    return list(workers.values())


def unserved(workers: Sequence[LiveWorker], queues: Iterable[str]) -> list[str]:
    """What is wrong with each of the queues that has no worker, or none with a free slot: a sentence each."""
    claiming = [worker for worker in workers if worker.is_claiming]
    idle, stuck = idle_and_stuck(
        {queue: [(each.slots, each.hung) for each in claiming if queue in each.queues] for queue in queues}
    )
    return [*map(NO_WORKER.format, idle), *map(ALL_HANG.format, stuck)]
