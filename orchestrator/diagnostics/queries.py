"""What the database says of workers and the tick, for readiness, the doctor and the admin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection
from django.db.models import DurationField, ExpressionWrapper, F, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now
from django.utils import timezone

from orchestrator.models import Upkeep, Worker
from orchestrator.ready_jobs import KINDS, most_urgent
from orchestrator.rollups import reading

Check = dict[str, Any]

# A handler that checks its deadline has ended so long after it; one that has not, hangs.
HUNG_AFTER_SECONDS = 2

# Behind a job that holds the GIL the rest of its group is overdue, too, and has no slots of its own.
HUNG_SLOTS = """(
    SELECT least(count(*), orchestrator_worker.slots) FROM orchestrator_job
    WHERE worker_id = orchestrator_worker.id AND deadline_at < clock_timestamp() - make_interval(secs => %s)
)"""


# The most urgent ready job of every kind. Workers claim by kind, so the queue is that of the kind by now.
WAITING = f"""
WITH RECURSIVE {KINDS}
SELECT waiting.kind, coalesce(known.queue, head.queue),
       extract(epoch FROM clock_timestamp() - greatest(head.run_at, head.updated_at))::float
FROM waiting CROSS JOIN LATERAL {most_urgent("waiting.kind")} AS head
LEFT JOIN orchestrator_kind known ON known.name = waiting.kind
ORDER BY waiting.kind
"""  # noqa: S608 It is made of constants.


# What is wrong with queues.
NO_WORKER = "No worker serves {}."
ALL_HANG = "Every slot of {} is held by a job past its timeout."


class Waiting(NamedTuple):
    """A kind with ready jobs, the queue that serves it, and how long the most urgent one has waited."""

    kind: str
    queue: str
    seconds: float


def waiting() -> list[Waiting]:
    return [Waiting(*row) for row in rows(WAITING)]


def workers() -> Check:
    """The processes alive for each queue, and how many of its slots hang. A queue that is declared, or for which jobs
    wait, and has no free slot fails.
    """
    alive = list(alive_workers().annotate(hung=hung_slots()).values_list("queues", "slots", "hung"))
    serving = {queue: [(slots, hung) for queues, slots, hung in alive if queue in queues] for queue in needed_queues()}
    hung = {queue: sum(hung for _, hung in those) for queue, those in serving.items()}
    idle, stuck = idle_and_stuck(serving)
    found: Check = {"ok": not (idle or stuck), "queues": {queue: len(those) for queue, those in serving.items()}}
    if any(hung.values()):
        found["hung"] = {queue: slots for queue, slots in hung.items() if slots}
    if idle:
        found["detail"] = NO_WORKER.format(", ".join(idle))
        if undeclared := [queue for queue in idle if queue not in settings.SERVED_QUEUES]:
            found["detail"] += f" Jobs wait in {', '.join(undeclared)}, and QUEUES does not declare it here."
    elif stuck:
        found["detail"] = ALL_HANG.format(", ".join(stuck))
    return found


def idle_and_stuck(serving: Mapping[str, Sequence[tuple[int, int]]]) -> tuple[list[str], list[str]]:
    """The queues that no worker serves, and those without a free slot.

    serving: of each queue its workers, each with its slots and how many of them hang.
    """
    idle = [queue for queue, those in serving.items() if not those]
    stuck = [
        queue
        for queue, those in serving.items()
        if those and sum(hung for _, hung in those) >= sum(slots for slots, _ in those)
    ]
    return idle, stuck


def kinds() -> Check:
    """How many kinds keep failing. Work goes on, so that is no reason not to be ready; the doctor names them."""
    now = timezone.now()
    failing = sum(each.keeps_failing for each in reading.failing(now, reading.ended(now)))
    if not failing:
        return {"ok": True}
    return {"ok": True, "failing": failing, "detail": "Most jobs of some kinds failed within the last hour."}


def tick() -> Check:
    age = ExpressionWrapper(Now() - F("ran_at"), output_field=DurationField())
    passed = Upkeep.objects.filter(part="tick").annotate(age=age).values_list("age", flat=True).first()
    if passed is None:
        return {"ok": False, "age_seconds": None, "detail": "No tick has run yet."}
    seconds = round(passed.total_seconds(), 3)
    limit = settings.TICK_STOPPED_AFTER_SECONDS
    if seconds > limit:
        return {"ok": False, "age_seconds": seconds, "detail": f"The last tick was more than {limit:g} s ago."}
    return {"ok": True, "age_seconds": seconds}


def alive_workers() -> QuerySet[Worker]:
    """The processes that may claim jobs."""
    lease = timedelta(seconds=settings.ENV.LEASE_SECONDS)
    return Worker.objects.filter(ended_at=None, draining_at=None, seen_at__gte=Now() - lease)


def hung_slots() -> RawSQL:
    """How many of a worker's jobs run on although they were asked to end."""
    return RawSQL(HUNG_SLOTS, [HUNG_AFTER_SECONDS])  # noqa: S611 - a constant


def needed_queues() -> list[str]:
    """The queues that are declared, and those for which jobs wait."""
    return list(dict.fromkeys((*settings.SERVED_QUEUES, *sorted({each.queue for each in waiting()}))))


def names(sql: str, **parameters: Any) -> list[str]:
    """The one column of the statement."""
    return [str(name) for [name] in rows(sql, **parameters)]


def rows(sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return list(cursor.fetchall())
