"""Retention: what has expired is pruned, in small transactions that nobody waits for.

A finished job is kept for as long as its kind says, and a pipeline as long as its parent. With a job goes whatever has
a foreign key to it with on_delete=CASCADE, and what hangs on that; PROTECT or RESTRICT keeps the job.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.sessions.models import Session
from django.core import checks
from django.db import connection, models, transaction
from django.db.models import Exists, Model, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from psycopg2.extras import execute_values

from access import tokens
from access.models import AuditEntry
from orchestrator.kinds import all_kinds
from orchestrator.limits import Rate
from orchestrator.models import IdempotencyKey, Job, Kind, RateStart, Rollup, Worker
from orchestrator.queue import kind_limits

logger = logging.getLogger(__name__)

# What one transaction deletes: so many jobs that are no children, and so many rows of anything that goes with them.
MAX_JOBS, MAX_ROWS = 200, 1_000
# What each of its statements waits for others, and takes at most. It is undone then, and tried again later.
LOCK_SECONDS, STATEMENT_SECONDS = 0.1, 2
# How long one tick prunes. What is left is done by the next one.
PRUNING_SECONDS = 0.5

# How long a start is kept at the least that a rate counts, so that a rate can be lowered.
MIN_START_SECONDS = 3_600
# How long a worker's row is kept after its end.
ENDED_WORKER_DAYS = 7
# How long figures are kept.
ROLLUP_DAYS = {Rollup.Span.MINUTE: 2, Rollup.Span.HOUR: 35}

# Jobs that are deleted now: first those that were begun, then those of each kind that ended long enough ago. Their
# children end before them, and nobody writes to those without having locked the parent.
LOCK_OLD = """
SELECT id FROM (
    SELECT id FROM orchestrator_job WHERE pruning LIMIT {limit} FOR UPDATE SKIP LOCKED
) AS begun
UNION ALL
SELECT old.id FROM (VALUES %s) AS kept (kind, days), LATERAL (
    SELECT id FROM orchestrator_job AS job
    WHERE kind = kept.kind AND parent_id IS NULL AND NOT pruning
      AND finished_at < statement_timestamp() - kept.days * interval '1 day' {unless_protected}
      AND (unique_until IS NULL OR unique_until <= statement_timestamp())
    ORDER BY finished_at
    LIMIT {limit}
    FOR UPDATE SKIP LOCKED
) AS old
LIMIT {limit}
"""

Pruning = Callable[[], bool]

prunings: list[Pruning] = []


def pruning(function: Pruning) -> Pruning:
    """Makes the function a part of pruning: it deletes some of what has expired, quickly, and returns whether
    there may be more.
    """
    prunings.append(function)
    return function


def prune() -> bool:
    """Deletes what has expired, for about PRUNING_SECONDS; returns whether something is left.

    Anyone may do so at any time: what others hold, or delete just now, is left alone.
    """
    # In any order, here and below, so that none has to wait for another that always has more.
    left, ends_at = random.sample(prunings, len(prunings)), time.monotonic() + PRUNING_SECONDS
    while left and time.monotonic() < ends_at:
        next_one = left.pop(0)
        if prune_some(next_one):
            left.append(next_one)
    return bool(left)


def prune_some(some: Pruning) -> bool:
    """One that fails is logged and does not hold up the others."""
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(
                    f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'; SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'"
                )
            return some()
    except Exception:
        logger.exception("Pruning %s failed; trying again later.", some.__name__)
        return False


def kept_days(kind: str, own: float | None) -> float:
    """How many days a finished job of the kind is kept; 0: for ever.

    What RETENTION_DAYS_BY_KIND says, or else the kind's own keep_days, or else RETENTION_DAYS.
    """
    default = settings.ENV.RETENTION_DAYS if own is None else own
    return settings.RETENTION_DAYS_BY_KIND.get(kind, default)


@checks.register
def check_names(**_: Any) -> list[checks.CheckMessage]:
    """A typing error in a name would keep jobs for longer or shorter than intended."""
    unknown = settings.RETENTION_DAYS_BY_KIND.keys() - {kind.name for kind in all_kinds()}
    return [
        checks.Warning(
            f"RETENTION_DAYS_BY_KIND names the kind {name!r}, which this release does not know.",
            hint="GET /kinds lists them. A removed kind may stay there until its last job is pruned.",
            id="orchestrator.W001",
        )
        for name in sorted(unknown)
    ]


@pruning
def jobs() -> bool:
    """Finished jobs with all that goes with them. What is too much for one transaction is marked, and goes first in
    the next one; nobody can retry it meanwhile.
    """
    # What workers reported of kinds that this process may not know, and what it knows itself.
    wanted = dict(Kind.objects.values_list("name", "keep_days")) | {each.name: each.keep_days for each in all_kinds()}
    kept = [(kind, days) for kind, own in wanted.items() if (days := kept_days(kind, own))]
    ids = _lock_old(kept or [("", 0)])
    if not _delete(Job, ids):
        Job.objects.filter(id__in=ids, pruning=False).update(pruning=True)
        return True
    return len(ids) == MAX_JOBS


@pruning
def idempotency_keys() -> bool:
    forgotten = timedelta(hours=settings.ENV.IDEMPOTENCY_KEY_HOURS)
    return delete_some(IdempotencyKey.objects.filter(created_at__lt=Now() - forgotten).order_by("created_at"))


@pruning
def worker_rows() -> bool:
    long_ended = Worker.objects.filter(ended_at__lt=Now() - timedelta(days=ENDED_WORKER_DAYS), in_flight_batch={})
    return delete_some(long_ended.exclude(Exists(Job.objects.filter(worker=OuterRef("id")))))


@pruning
def starts_of_rates() -> bool:
    """Those that no rate of their kind counts any more."""
    old = Q()
    for name in Kind.objects.values_list("name", flat=True):
        rate = kind_limits.known_limits_of(name).rate
        seconds = max(MIN_START_SECONDS, Rate.parse(rate).seconds if rate else 0)
        old |= Q(kind=name, started_at__lt=Now() - timedelta(seconds=seconds))
    return bool(old) and delete_some(RateStart.objects.filter(old))


@pruning
def rollups() -> bool:
    old = Q()
    for span, days in ROLLUP_DAYS.items():
        old |= Q(span=span, begins_at__lt=Now() - timedelta(days=days))
    return delete_some(Rollup.objects.filter(old))


@pruning
def expired_sessions() -> bool:
    return delete_some(Session.objects.filter(expire_date__lt=Now()))


@pruning
def expired_tokens() -> bool:
    return delete_some(tokens.expired())


@pruning
def audit_entries() -> bool:
    return delete_some(AuditEntry.objects.filter(keep_until__lt=Now()).order_by("keep_until"))


def delete_some(rows: QuerySet[Any]) -> bool:
    """Deletes at most MAX_ROWS of the rows, skipping locked ones; returns whether there may be more."""
    ids = list(rows.select_for_update(skip_locked=True).values_list("pk", flat=True)[:MAX_ROWS])
    rows.model._base_manager.filter(pk__in=ids).delete()
    return len(ids) == MAX_ROWS


def _lock_old(kept: Sequence[tuple[str, float]]) -> list[Any]:
    shuffled = random.sample(kept, len(kept))
    statement = LOCK_OLD.format(limit=MAX_JOBS, unless_protected=_unless_protected())
    with connection.cursor() as cursor:
        return [id for (id,) in execute_values(cursor.cursor, statement, shuffled, page_size=len(kept), fetch=True)]


def _unless_protected() -> str:
    return " ".join(
        f'AND NOT EXISTS (SELECT FROM "{field.model._meta.db_table}" WHERE "{field.column}" = job.id'  # noqa: S608 - our tables
        f' OR "{field.column}" IN (SELECT id FROM orchestrator_job WHERE parent_id = job.id))'
        for field in keys_to(Job)
        if field.remote_field.on_delete in (models.PROTECT, models.RESTRICT)
    )


def _delete(model: type[Model], ids: Sequence[Any]) -> bool:
    """Deletes the rows with what goes with them, which comes first; False, and the rows stay, if that is too much."""
    if not ids:
        return True
    is_done = True
    for field in keys_to(model):
        if field.remote_field.on_delete in (models.CASCADE, models.SET_NULL):
            some = _some_that_refer(field, ids)
            is_done &= len(some) < MAX_ROWS
            if field.remote_field.on_delete is models.CASCADE:
                is_done &= _delete(field.model, some)
            elif some:
                field.model._base_manager.filter(pk__in=some).update(**{field.name: None})
    if is_done:
        _delete_rows(model, ids)
    return is_done


def _delete_rows(model: type[Model], ids: Sequence[Any]) -> None:
    table, [first, *others] = model._meta.db_table, _key(model)
    statement = f'DELETE FROM "{table}" WHERE "{first}" = ANY(%s)'  # noqa: S608 - our tables
    given: list[Any] = [list(ids)]
    if others:
        statement += f" AND ({_named([first, *others])}) IN %s"
        given = [[id[0] for id in ids], tuple(ids)]
    with connection.cursor() as cursor:
        cursor.execute(statement, given)


def _some_that_refer(field: Any, ids: Sequence[Any]) -> list[Any]:
    """The primary keys of rows that name one of the ids, locked; each a tuple if the key has several columns."""
    table, key = field.model._meta.db_table, _key(field.model)
    statement = f'SELECT {_named(key)} FROM "{table}" WHERE "{field.column}" = ANY(%s) LIMIT {MAX_ROWS} FOR UPDATE'  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(statement, [list(ids)])
        return [row if len(key) > 1 else row[0] for row in cursor.fetchall()]


def _key(model: type[Model]) -> list[str]:
    """The columns of the primary key."""
    fields: list[Any] = model._meta.pk_fields
    return [field.column for field in fields]


def _named(columns: Sequence[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def keys_to(model: type[Model]) -> list[Any]:
    """The foreign keys to the model, also those that have no name there."""
    relations: list[Any] = model._meta.get_fields(include_hidden=True)
    return [each.field for each in relations if each.auto_created and (each.one_to_many or each.one_to_one)]
