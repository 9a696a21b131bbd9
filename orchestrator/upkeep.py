"""Upkeep: what runs by itself, part by part. Any number of ticks at once, or none for an hour, do no harm."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from django.db import connection
from django.db.models import OuterRef, Subquery
from django.db.models.functions import Now

from orchestrator import bell, moves, pipelines, retention, workers
from orchestrator.failpoints import Failpoint
from orchestrator.kinds import all_kinds
from orchestrator.models import Attempt, Job, Kind, Upkeep

logger = logging.getLogger(__name__)

# Most jobs made ready by one statement.
DUE_BATCH = 10_000

# How long pruning rests once nothing is left to prune.
PRUNE_EVERY = timedelta(minutes=1)
LONG_AGO = datetime.min.replace(tzinfo=UTC)

# Jobs whose time has come. An array, since a subquery might be run again for each row, and yield others each time.
MAKE_DUE_READY = """
UPDATE orchestrator_job SET ready = true, updated_at = clock_timestamp()
WHERE id = ANY(ARRAY(
    SELECT id FROM orchestrator_job
    WHERE NOT ready AND status = 'CREATED' AND unfinished_dependencies = 0 AND run_at <= clock_timestamp()
    ORDER BY run_at
    LIMIT %s
    FOR UPDATE SKIP LOCKED
))
"""


Part = Callable[[], None]

_parts: dict[Part, Failpoint] = {}


def part(function: Part) -> Part:
    """Makes the function a part of every tick.

    It must be quick, harmless when others run it too, and right when nobody has run it for an hour.
    """
    _parts[function] = Failpoint(f"tick-after-{function.__name__.replace('_', '-')}")
    return function


def tick() -> None:
    """Runs every part, and prunes when the rest is done. One that fails is logged and does not hold up the others."""
    for run, has_run in sorted(_parts.items(), key=lambda each: each[0] is prune):
        try:
            run()
            has_run()
        except Exception:
            logger.exception("The upkeep part %s failed; the next tick tries again.", run.__name__)
    Upkeep.objects.update_or_create(part="tick", defaults={"ran_at": Now()})


@part
def give_up_silent_workers() -> None:
    workers.give_up_silent()
    workers.take_back_from_ended()


@part
def end_overdue_attempts() -> None:
    for job in Job.objects.filter(deadline_at__lt=Now()).order_by("deadline_at")[:1_000]:
        moves.end_attempt(
            job, Attempt.Outcome.TIMED_OUT, error="It took longer than its kind's timeout.", skip_locked=True
        )


@part
def unwind_pipelines() -> None:
    for parent_id in Job.objects.filter(unwinding=True).values_list("id", flat=True)[:1_000]:
        pipelines.unwind(parent_id)


@part
def make_due_ready() -> None:
    with connection.cursor() as cursor:
        cursor.execute(MAKE_DUE_READY, [DUE_BATCH])


@part
def ring_for_ready() -> None:
    """Rings for every kind with a ready job: for those whose bell was lost, or was never rung."""
    # In the order of the index, as in `moves.has_ready`.
    next_ready = Job.objects.filter(ready=True, kind=OuterRef("name")).order_by("rank", "id").values("id")[:1]
    kinds = Kind.objects.filter(paused_at=None).annotate(next_ready=Subquery(next_ready))
    waiting = set(kinds.exclude(next_ready=None).values_list("name", flat=True))
    for kind in all_kinds():
        if kind.name in waiting:
            bell.ring(kind)


@part
def prune() -> None:
    """Deletes what has had its time: at every tick while there is more, and else once a minute."""
    Upkeep.objects.get_or_create(part="prune", defaults={"ran_at": LONG_AGO})
    is_due = Upkeep.objects.filter(part="prune", ran_at__lt=Now() - PRUNE_EVERY).update(ran_at=Now())
    if is_due and retention.prune():
        Upkeep.objects.filter(part="prune").update(ran_at=LONG_AGO)
