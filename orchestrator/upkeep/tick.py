"""Upkeep: what runs by itself, part by part. Any number of ticks at once, or none for an hour, do no harm."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db.models import OuterRef, Subquery
from django.db.models.functions import Now

from orchestrator.failpoints import Failpoint
from orchestrator.models import Arrival, Attempt, Job, Kind, Upkeep
from orchestrator.queue import bell, endings, held_back, pausing, pipelines, recovery, turns, unblocking
from orchestrator.queue.by_indexes import by_indexes
from orchestrator.rollups import writing
from orchestrator.upkeep import retention

logger = logging.getLogger(__name__)

# Most jobs made ready by one statement.
DUE_BATCH = 10_000

# Later than any process ends what hangs in it, and further off than a clock is set.
LEFT_OVERDUE = timedelta(minutes=10, seconds=settings.ENV.HARD_TIMEOUT_GRACE_SECONDS)

# How long pruning rests once nothing is left to prune.
PRUNE_EVERY = timedelta(minutes=1)
LONG_AGO = datetime.min.replace(tzinfo=UTC)

# Jobs whose time has come. An array, since a subquery might be run again for each row, and yield others each time.
MAKE_DUE_READY = """
UPDATE orchestrator_job SET ready = true, updated_at = clock_timestamp()
WHERE id = ANY(ARRAY(
    SELECT id FROM orchestrator_job
    WHERE NOT ready AND status = 'CREATED' AND unfinished_dependencies = 0 AND blocked_by IS NULL
      AND NOT unresolved
      AND run_at <= clock_timestamp()
    ORDER BY run_at
    LIMIT %s
    FOR UPDATE SKIP LOCKED
))
"""

OVERDUE = endings.Ended(Attempt.Outcome.TIMED_OUT, error="It took longer than its kind's timeout.")

Part = Callable[[], None]

_parts: dict[Part, Failpoint] = {}
_last_parts: dict[Part, Failpoint] = {}


def part(function: Part) -> Part:
    """Makes the function a part of every tick.

    It must be quick, harmless when others run it too, and right when nobody has run it for an hour.
    """
    _parts[function] = _failpoint_after(function)
    return function


def last_part(function: Part) -> Part:
    """As `part`, for what nobody waits for: it runs when all other parts are done."""
    _last_parts[function] = _failpoint_after(function)
    return function


def _failpoint_after(function: Part) -> Failpoint:
    return Failpoint(f"tick-after-{function.__name__.replace('_', '-')}")


def parts() -> dict[Part, Failpoint]:
    """The parts in their order, each with the failpoint after it."""
    return _parts | _last_parts


def run_parts() -> None:
    """Runs every part. One that fails is logged and does not hold up the others."""
    for run, has_run in parts().items():
        try:
            run()
            has_run()
        except Exception:
            logger.exception("The upkeep part %s failed; the next tick tries again.", run.__name__)
    Upkeep.objects.update_or_create(part="tick", defaults={"ran_at": Now()})


@part
def take_back_from_dead_workers() -> None:
    recovery.expire_leases()
    recovery.take_back_from_ended()


@part
def end_overdue_attempts() -> None:
    """The process that runs an attempt ends it, with the handler's slot. This is for one that does not."""
    # Only what is leased has a deadline, and an index leads to that.
    long_overdue = Job.objects.filter(worker__isnull=False, deadline_at__lt=Now() - LEFT_OVERDUE)
    with by_indexes():
        jobs = list(long_overdue.order_by("deadline_at")[:1_000])
    for job in jobs:
        endings.end_attempt(job, OVERDUE, skip_locked=True)


@part
def unwind_pipelines() -> None:
    pipelines.unwind_left()


@part
def advance_graphs() -> None:
    """What comes after a step is resolved at once; this is for a process that died before it had."""
    pipelines.resolve_left()


@part
def make_due_ready() -> None:
    with connection.cursor() as cursor:
        cursor.execute(MAKE_DUE_READY, [DUE_BATCH])


@part
def let_blocked_go() -> None:
    """Those whose limits have room. Whoever makes room does so at once; this is for one that died, and for rates."""
    unblocking.let_due_go()
    unblocking.look_at_all()


@part
def pause_new_kinds_of_paused_queues() -> None:
    pausing.follow_queues()


@part
def give_turns() -> None:
    """Does what claims do of themselves, for kinds of which nothing is claimed just now."""
    for kind in Arrival.objects.values_list("kind", flat=True).distinct():
        turns.absorb(kind)
    turns.tidy(list(Kind.objects.values_list("name", flat=True)))


@part
def ring_for_ready() -> None:
    """Rings for every kind with a ready job: for those whose bell was lost, or was never rung."""
    # In the order of the index, as in `claims.has_ready`.
    next_ready = Job.objects.filter(ready=True, kind=OuterRef("name")).order_by("owner", "rank", "id").values("id")[:1]
    kinds = Kind.objects.filter(paused_at=None).annotate(next_ready=Subquery(next_ready))
    for name in kinds.exclude(next_ready=None).values_list("name", flat=True):
        bell.ring(name)


@last_part
def write_rollups() -> None:
    """Every ten seconds; a tick that has fallen behind does so each time."""
    if writing.roll_up():
        held_back.count()


@last_part
def prune() -> None:
    """Deletes what has expired: at every tick while there is more, and else once a minute."""
    Upkeep.objects.get_or_create(part="prune", defaults={"ran_at": LONG_AGO})
    is_due = Upkeep.objects.filter(part="prune", ran_at__lt=Now() - PRUNE_EVERY).update(ran_at=Now())
    if is_due:
        turns.forget(list(Kind.objects.values_list("name", flat=True)))
    if is_due and retention.prune():
        Upkeep.objects.filter(part="prune").update(ran_at=LONG_AGO)
