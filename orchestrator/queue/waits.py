"""Which limit a job waits for, and what is known of how long."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.db import connection

from orchestrator.kinds import known_kind
from orchestrator.limits import Rate
from orchestrator.models import Job
from orchestrator.queue import kind_limits, lanes
from orchestrator.queue.lanes import Lanes
from orchestrator.ready_jobs import heads

# Jobs before it are counted up to this, and of so many owners.
MAX_COUNTED, MAX_OWNERS = 10_000, 1_000

AHEAD = """
SELECT count(*) FROM (
    SELECT FROM orchestrator_job
    WHERE kind = %(kind)s AND blocked_by = %(lane)s AND finished_at IS NULL AND (rank, id) < (%(rank)s, %(id)s)
    LIMIT %(at_most)s
) AS counted
"""
# Owners take turns: while those of its own owner are served that are more urgent, and the job itself, each of the
# others has as many served, if it has so many.
READY_AHEAD = f"""
WITH own AS MATERIALIZED (
    SELECT count(*) AS jobs FROM (
        SELECT FROM orchestrator_job
        WHERE ready AND kind = %(kind)s AND owner = %(owner)s AND (rank, id) < (%(rank)s, %(id)s)
        ORDER BY rank, id LIMIT %(at_most)s
    ) AS counted
)
SELECT least(%(at_most)s, (SELECT jobs FROM own) + (SELECT count(*) FROM (
    SELECT FROM {heads("%(kind)s", most=MAX_OWNERS)} AS head CROSS JOIN LATERAL (
        SELECT FROM orchestrator_job WHERE ready AND kind = %(kind)s AND owner = head.owner
        ORDER BY rank, id LIMIT (SELECT jobs + 1 FROM own)
    ) AS of_other
    WHERE head.owner <> %(owner)s
    LIMIT %(at_most)s
) AS others))
"""  # noqa: S608 It is made of constants.


class LimitWait(NamedTuple):
    """lane: as in `lanes`. rounds: how often as many jobs as the limit allows have to end first, on average; seconds:
    after which time there is room, of a rate.
    """

    lane: str
    rounds: float
    seconds: float | None

    @property
    def limit(self) -> str:
        """The name of the limit, as it is set."""
        name = self.lane.partition(":")[0]
        return "rate" if name.startswith(lanes.RATE) else name

    @property
    def of(self) -> str | None:
        """The owner or the key whose limit it is; None for one of the whole kind."""
        return self.lane.partition(":")[2] if ":" in self.lane else None


def limit_of_lane(lane: str) -> str:
    return LimitWait(lane, 0, None).limit


def limit_wait(job: Job) -> LimitWait | None:
    """Of a job that could start otherwise: the limit it waits for, if it does."""
    kind = known_kind(job.kind)
    limits = kind_limits.limits_of(kind) if kind else kind_limits.known_limits_of(job.kind)
    if not limits.holds_back or not (job.ready or job.blocked_by):
        return None
    waits_in = [job.blocked_by] if job.blocked_by else Lanes(limits).of_kind()
    room = lanes.room(job.kind, limits, waits_in)
    lane = job.blocked_by or room.first_full(waits_in)
    if lane is None:
        return None
    rounds = (_ahead(job, lane) + 1) / (room.lanes.limit_of(lane) or 1)
    if not lane.startswith(lanes.RATE) or limits.rate is None:
        return LimitWait(lane, rounds, None)
    first = room.full_for[lane].total_seconds() if lane in room.full_for else 0.0
    return LimitWait(lane, rounds, max(0.0, first) + int(rounds - 1e-9) * Rate.parse(limits.rate).seconds)


def _ahead(job: Job, lane: str) -> int:
    parameters: dict[str, Any] = {
        "kind": job.kind,
        "owner": job.owner,
        "lane": lane,
        "rank": job.rank,
        "id": job.id,
        "at_most": MAX_COUNTED,
    }
    with connection.cursor() as cursor:
        cursor.execute(AHEAD if job.blocked_by else READY_AHEAD, parameters)
        return int(cursor.fetchone()[0])
