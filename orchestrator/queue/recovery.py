"""What dead workers held: who counts as dead, and how the attempts at their jobs end. Anyone may do so at any time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from orchestrator.failpoints import Failpoint
from orchestrator.host import host, process_started
from orchestrator.models import Attempt, Job, Worker
from orchestrator.queue import endings
from orchestrator.queue.by_indexes import by_indexes
from orchestrator.queue.endings import Ended
from orchestrator.queue.tracebacks import limit_seconds, was_ended

logger = logging.getLogger(__name__)

declaring_dead = Failpoint("declaring-dead")
taking_back = Failpoint("taking-back")

# In so many parts a lease runs out, at the least: after an outage a process has most of it to renew its row.
LOOKS_PER_LEASE = 3
# How long it takes at most until another process has taken the place of one that its watchdog ended.
REPLACED_SECONDS = 5.0

# If a process dies that ran more jobs than these, they are not isolated at once.
MAX_SUSPECTS = 64

# As a batch leaves a job that it has not completed. A later claim may have found no room for it.
READY_OR_BLOCKED = Q(ready=True) | Q(blocked_by__isnull=False)

# Why attempts were ended.
DIED = "Its worker died while it ran."
PRESUMED_DEAD = "The lease of its worker expired; the worker may have been running without a database connection."
TIMED_OUT_WITH_PROCESS = "It took longer than its timeout, and was ended with its process."
SHUT_DOWN = "The worker was shut down."
# How often a job was interrupted because of another is counted by this sentence.
ENDED_FOR_ANOTHER = "Its process was ended because of another job, which did not end in time."

# The clock of leases goes on only as ticks see it go on, so much at most from one to the next. So it knows neither an
# outage, in which no tick could write, nor a step of PostgreSQL's clock.
ADVANCE_LEASE_CLOCK = """
INSERT INTO orchestrator_upkeep AS clock (part, ran_at, seconds) VALUES ('clock of leases', clock_timestamp(), 0)
ON CONFLICT (part) DO UPDATE
SET seconds = clock.seconds
              + least(greatest(extract(epoch FROM clock_timestamp() - clock.ran_at), 0), %(at_most)s),
    ran_at = clock_timestamp()
RETURNING seconds
"""

# Who has renewed its row since the tick before, with what the clock of leases shows now.
NOTE_RENEWALS = """
UPDATE orchestrator_worker
SET noted_seen_at = seen_at, noted_seconds = %(seconds)s
WHERE ended_at IS NULL AND noted_seen_at IS DISTINCT FROM seen_at
"""


def expire_leases() -> None:
    """Declares dead the processes that have not renewed their rows for the length of a lease, by the clock of leases.

    What they ran is charged for it only where they are known to have died.
    """
    with connection.cursor() as cursor:
        cursor.execute(ADVANCE_LEASE_CLOCK, {"at_most": settings.ENV.LEASE_SECONDS / LOOKS_PER_LEASE})
        [seconds] = cursor.fetchone()
        cursor.execute(NOTE_RENEWALS, {"seconds": seconds})
    for worker in Worker.objects.filter(ended_at=None, noted_seconds__lte=seconds - settings.ENV.LEASE_SECONDS):
        died = _has_died(worker)
        if died or not _may_hang(worker) or worker.noted_seconds <= seconds - limit_seconds() - REPLACED_SECONDS:
            declare_dead(worker.id, presumed=not died)


def recover_on_this_host() -> None:
    """Does so without waiting for a lease to expire for every process of this host that does not exist any more."""
    for worker in Worker.objects.filter(ended_at=None, host=host()):
        if _is_gone(worker):
            declare_dead(worker.id, presumed=not _has_died(worker))
    take_back_from_ended()


def _has_died(worker: Worker) -> bool:
    """Whether it is known to have died. One that its watchdog ended, with nothing that hangs, was only frozen."""
    if _is_gone(worker):
        return _may_hang(worker) or not was_ended(worker.pid, worker.process_started)
    return _was_replaced(worker)


def _is_gone(worker: Worker) -> bool:
    """Whether it was a process of this host that does not exist any more."""
    return worker.host == host() and process_started(worker.pid) != worker.process_started


def _may_hang(worker: Worker) -> bool:
    """Whether its watchdog may be about to end it. Once it has, it is known to have died."""
    return bool(worker.in_flight_batch) or Job.objects.filter(worker=worker, deadline_at__lt=Now()).exists()


def _was_replaced(worker: Worker) -> bool:
    """Whether another process has taken its name since, elsewhere: in the container that was started in its place."""
    return (
        Worker.objects.filter(name=worker.name, started_at__gt=worker.seen_at)
        .exclude(host=worker.host)
        .filter(host__startswith=f"{worker.host.partition(' ')[0]} ")
        .exists()
    )


def declare_dead(worker_id: int, *, presumed: bool = False) -> None:
    """From now on the process cannot claim. If it is just claiming, its row is locked, and the next tick does this.

    presumed: nobody knows whether it has died.
    """
    with transaction.atomic():
        locked = Worker.objects.select_for_update(skip_locked=True).filter(id=worker_id, ended_at=None)
        for worker in locked:
            ran = Job.objects.filter(worker=worker).count() + len(worker.in_flight_batch)
            Worker.objects.filter(id=worker.id).update(ended_at=Now(), lost=True, presumed_dead=presumed, ran=ran)
            reason = PRESUMED_DEAD if presumed else DIED
            logger.warning("%s [%d] was declared dead: %s", worker.name, worker.pid, reason)
        declaring_dead()


def take_back_from_ended() -> None:
    """Ends the attempts of processes that have ended, in whatever way."""
    left = Job.objects.filter(worker__isnull=False, worker__ended_at__isnull=False)
    with by_indexes():
        worker_ids = set(left.values_list("worker", flat=True))
    for worker_id in worker_ids:
        _take_back_leased(worker_id)
    for worker in Worker.objects.filter(ended_at__isnull=False).exclude(in_flight_batch={}):
        _take_back_in_flight(worker)


def _take_back_leased(worker_id: int) -> None:
    """Ends the attempts of a process that has ended.

    If one of a process that died was past its deadline, that is what it died of, and the others are not to blame. The
    row is locked, so that who comes second does not miss the one to blame.
    """
    left = Job.objects.filter(worker=worker_id)
    with transaction.atomic():
        worker = Worker.objects.select_for_update(skip_locked=True).filter(id=worker_id).first()
        if worker is None:
            return
        overdue = set(left.filter(deadline_at__lt=worker.ended_at).values_list("id", flat=True))
        if worker.presumed_dead:
            take_back(left, Ended(Attempt.Outcome.UNAVAILABLE, error=PRESUMED_DEAD))
        elif overdue:
            # Of a group only one had begun, and nobody knows which.
            hung = Ended(Attempt.Outcome.TIMED_OUT, error=TIMED_OUT_WITH_PROCESS, isolate_next_time=len(overdue) > 1)
            take_back(left.filter(id__in=overdue), hung)
            take_back(left.exclude(id__in=overdue), Ended(Attempt.Outcome.INTERRUPTED, error=ENDED_FOR_ANOTHER))
        else:
            _take_back_lost(left, worker.ran)


def _take_back_lost(left: QuerySet[Job], ran: int) -> None:
    """Ends the attempts that a process has died of, or with.

    Of very many hardly one was the cause, and to run them one by one would take long: not until it happens again.
    """
    if ran > MAX_SUSPECTS:
        first_time = left.exclude(attempts__outcome=Attempt.Outcome.LOST).values_list("id", flat=True)
        take_back(left.filter(id__in=list(first_time)), Ended(Attempt.Outcome.LOST, error=DIED, is_one_of_many=True))
    take_back(left, Ended(Attempt.Outcome.LOST, error=DIED, isolate_next_time=ran > 1))


def _take_back_in_flight(worker: Worker) -> None:
    outcome, error = (Attempt.Outcome.LOST, DIED)
    if worker.presumed_dead:
        outcome, error = (Attempt.Outcome.UNAVAILABLE, PRESUMED_DEAD)
    ended = Ended(outcome, error=error, isolate_next_time=worker.ran > 1)
    if record_crashed_attempts(worker.in_flight_batch, ended, worker_name=worker.name):
        Worker.objects.filter(id=worker.id).update(in_flight_batch={})


def take_back(jobs: QuerySet[Job], ended: Ended) -> None:
    """Ends the attempts at leased jobs whose handlers are gone. A job that is about to move anyway is left alone."""
    for job in jobs:
        endings.end_attempt(job, _held_to_attempts_if_alone(job, ended), skip_locked=True)
        taking_back()


def record_crashed_attempts(in_flight: Mapping[str, int], ended: Ended, *, worker_name: str) -> bool:
    """Counts an attempt for each transactional job that was being run after so many, and has not moved since.

    False if somebody holds one of them just now: then do it again. Those that are counted have moved.
    """
    if len(in_flight) > 1:
        ended = replace(ended, isolate_next_time=True)
    moved = [
        endings.end_attempt(
            job,
            _held_to_attempts_if_alone(job, ended),
            worker_name=worker_name,
            skip_locked=True,
        )
        for job in Job.objects.filter(READY_OR_BLOCKED, id__in=in_flight.keys())
        if job.attempt == in_flight[str(job.id)]
    ]
    return None not in moved


def _held_to_attempts_if_alone(job: Job, ended: Ended) -> Ended:
    """What was to run alone, and did, is charged for what its process died of."""
    return replace(ended, isolate_next_time=False) if job.runs_alone else ended
