"""Bulk actions: the same is done to all jobs that match a filter, at the moment when that is asked for.

The jobs are found by one statement, in one snapshot, and kept as batches of ids. So nothing that is submitted, ends or
fails again later is touched, whoever is at work meanwhile. A job of the kind `jobs.bulk_action` then takes one batch
after the other; one that was interrupted is done again, which changes nothing that is done already. Whoever asks helps
for a moment, so that few jobs need no free worker.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.db.models import Q, QuerySet, Sum
from django.db.models.functions import Now

from access import audit
from orchestrator.client_limits import NO_QUOTAS, Quotas, check_again
from orchestrator.models import BulkBatch, Job
from orchestrator.states import UNFINISHED, Status
from orchestrator.steering import batches
from orchestrator.steering.batches import BulkAction, Verb
from orchestrator.steering.changing import Change
from orchestrator.steering.selection import BULK_ACTION
from orchestrator.submission import submit

PERMISSIONS: dict[Verb, str] = {
    "cancel": "orchestrator.cancel_job",
    "retry": "orchestrator.retry_job",
    "change": "orchestrator.reschedule_job",
}

# Jobs that one action takes; more wait for another one. Jobs of a batch.
MAX_SELECTED = 1_000_000
BATCH_SIZE = 1_000
# A batch that somebody began so long ago was given up, or takes so long that two may do it.
BATCH_SECONDS = 60
# How long whoever asks helps.
HELP_SECONDS = 2.0
MAX_REFUSALS = 10
# How often it is asked whether others have done what they are at.
OTHERS_SECONDS = 0.5

# The jobs that match, in batches. The time is that of the snapshot or a little later.
KEEP = """
INSERT INTO orchestrator_bulkbatch (action_id, number, size, job_ids, found_at, asked_by, outcome, refusals)
SELECT %s, number, count(*), array_agg(id ORDER BY id), clock_timestamp(), %s, '{{}}', '{{}}'
FROM (
    SELECT id, (row_number() OVER (ORDER BY id) - 1) / %s AS number FROM ({matching}) AS matching
) AS numbered
GROUP BY number
RETURNING size
"""

# The next batch that nobody is at, with what it is for.
TAKE = """
UPDATE orchestrator_bulkbatch SET begun_at = clock_timestamp()
WHERE id = (
    SELECT id FROM orchestrator_bulkbatch
    WHERE action_id = %s AND done_at IS NULL
      AND (begun_at IS NULL OR begun_at < clock_timestamp() - %s * interval '1 second')
    ORDER BY number
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING id, job_ids, found_at, asked_by::json
"""


class Started(NamedTuple):
    """A bulk action: the job that does it, or None if no job matched, and how many matched.

    more: whether others matched, too, and are left.
    """

    job: Job | None
    matched: int
    more: bool


def eligible(verb: Verb, jobs: QuerySet[Job], change: Change | None = None) -> QuerySet[Job]:
    """Those of the jobs to which that can be done as they are."""
    if verb == "cancel":
        return jobs.filter(status__in=UNFINISHED, cancel_requested_at=None)
    if verb == "retry":
        return jobs.filter(status__in=(Status.FAILED, Status.CANCELLED), parent=None, pruning=False)
    waiting = Q(status=Status.CREATED)
    if change and not change.has_time:
        waiting |= Q(status=Status.RUNNING, worker=None)  # A pipeline whose other children wait.
    return jobs.filter(waiting)


class _NothingMatched(Exception):
    """Rolls back what was written for it."""


def start(
    verb: Verb,
    jobs: QuerySet[Job],
    described: Mapping[str, Any],
    *,
    owner: str = "",
    change: Change | None = None,
    quotas: Quotas = NO_QUOTAS,
) -> Started:
    """Has it done to the jobs as they are now. Once that is committed, whoever asked helps for a moment.

    jobs: those that match, and to which it may be done. described: the filter, for the record. owner: who sees how far
    it is. quotas: of whoever asks; a retry that would exceed them together with its own job raises
    QuotaExceeded, and jobs that would by the time that their turn comes are refused.
    """
    change_made = change.as_json() if change else None
    asked = BulkAction(verb, msgspec.to_builtins(dict(described)), change_made, quotas)
    try:
        with transaction.atomic():
            job = submit(BULK_ACTION, msgspec.to_builtins(asked), owner=owner)
            meant = eligible(verb, jobs, change).exclude(id=job.id)
            if verb == "retry":
                check_again(meant, quotas, is_now=False)
            matched = _keep(job, meant)
            if not matched:
                raise _NothingMatched
            audit.record(f"jobs.{verb}", job.id, f"{min(matched, MAX_SELECTED):,} jobs", after=_for_audit(asked))
            transaction.on_commit(partial(help_with, job.id, asked), robust=True)
    except _NothingMatched:
        return Started(None, 0, more=False)
    return Started(job, min(matched, MAX_SELECTED), more=matched > MAX_SELECTED)


def _for_audit(asked: BulkAction) -> dict[str, Any]:
    """What was asked for, for the audit trail."""
    return {**asked.filter, **{f"new {name}": value for name, value in (asked.change or {}).items()}}


def _keep(job: Job, jobs: QuerySet[Job]) -> int:
    """Keeps what is to be done; returns how many match, as far as MAX_SELECTED + 1."""
    matching, parameters = jobs.order_by("id").values("id")[: MAX_SELECTED + 1].query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute(KEEP.format(matching=matching), [job.id, json.dumps(audit.doer()), BATCH_SIZE, *parameters])
        matched: int = sum(size for (size,) in cursor.fetchall())
    if matched > MAX_SELECTED:
        BulkBatch.objects.filter(action=job, number=MAX_SELECTED // BATCH_SIZE).delete()
    return matched


class _TimeIsUp(Exception):
    """Who asked for an action has helped enough."""


def help_with(job_id: UUID, asked: BulkAction) -> None:
    """Does as much of the action as a moment allows; its job does the rest."""
    stops_at = time.monotonic() + HELP_SECONDS

    def check() -> None:
        if time.monotonic() > stops_at:
            raise _TimeIsUp

    with suppress(_TimeIsUp):
        work_off(job_id, asked, check=check)


def finish(job: Job, tell: Callable[[int, int], None]) -> dict[str, Any]:
    """Does all of the action that nobody else does, and waits for the rest; returns its result.

    tell: is told now and then how many jobs have been seen to, of how many.
    """
    asked = msgspec.convert(job.payload, BulkAction)
    while not is_done(job.id):
        work_off(job.id, asked, check=lambda: None, tell=lambda: tell(*progress(job.id)))
        if not is_done(job.id):
            time.sleep(OTHERS_SECONDS)
    return result(job.id, asked)


def work_off(
    job_id: UUID,
    asked: BulkAction,
    *,
    check: Callable[[], None],
    tell: Callable[[], None] = lambda: None,
) -> None:
    """Does what is left of the action and nobody else is at, batch by batch. Anyone may do so at any time.

    check: called between jobs; an exception that it raises ends the work, and what is left can be done later.
    tell: called after each batch.
    """
    check()
    while (batch := _take(job_id)) is not None:
        with audit.on_behalf_of(batch.asked_by):
            _do(batch, asked, check)
        tell()
        check()


def is_done(job_id: UUID) -> bool:
    return not BulkBatch.objects.filter(action=job_id, done_at=None).exists()


class _Batch(NamedTuple):
    id: int
    job_ids: list[UUID]
    found_at: datetime
    asked_by: dict[str, str]


def _take(job_id: UUID) -> _Batch | None:
    with connection.cursor() as cursor:
        cursor.execute(TAKE, [job_id, BATCH_SECONDS])
        row = cursor.fetchone()
    return _Batch(*row) if row else None


def _do(batch: _Batch, asked: BulkAction, check: Callable[[], None]) -> None:
    row = BulkBatch.objects.filter(id=batch.id, done_at=None)
    try:
        outcome, refusals = batches.act(asked, batch.job_ids, batch.found_at, check)
    except BaseException:
        row.update(begun_at=None)  # Whoever comes next need not wait.
        raise
    some = dict(list(refusals.items())[:MAX_REFUSALS])
    row.update(done_at=Now(), job_ids=[], outcome=dict(outcome), refusals=some)


class Progress(NamedTuple):
    done: int
    total: int


def progress(job_id: UUID) -> Progress:
    """How many jobs have been seen to, of how many."""
    totals = BulkBatch.objects.filter(action=job_id).aggregate(
        total=Sum("size", default=0), done=Sum("size", filter=Q(done_at__isnull=False), default=0)
    )
    return Progress(**totals)


def result(job_id: UUID, asked: BulkAction) -> dict[str, Any]:
    """What became of the action, as its job's result."""
    outcome: Counter[str] = Counter()
    refusals: dict[str, str] = {}
    rows = BulkBatch.objects.filter(action=job_id).order_by("number").values_list("outcome", "refusals")
    for counts, reasons in rows.iterator():
        outcome.update(counts)
        if len(refusals) < MAX_REFUSALS:
            refusals |= reasons
    shown = [{"job_id": id, "detail": detail} for id, detail in list(refusals.items())[:MAX_REFUSALS]]
    return {"action": asked.action, "matched": progress(job_id).total, **outcome, "refusals": shown}
