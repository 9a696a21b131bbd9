"""Which jobs a worker may run next: the most urgent ready ones of a kind, found and locked. Nothing moves here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from django.db import connection, transaction

from orchestrator.attempt import prepared
from orchestrator.attempt.session import CLEAN
from orchestrator.claimed import CLAIMED, Claimed
from orchestrator.ids import texts_of
from orchestrator.kinds import Kind
from orchestrator.pg_values import as_array
from orchestrator.queue import admission, bell, turns, unblocking

# How long a worker that was frozen within a batch may keep its jobs locked.
FROZEN_BATCH_SECONDS = 15
LIMIT_IDLENESS = f"SET LOCAL idle_in_transaction_session_timeout = '{FROZEN_BATCH_SECONDS}s';"

# A batch is read in the order of the index. By statistics of a quiet time, PostgreSQL would read and sort all that
# waits for each batch.
IN_ORDER = "SET LOCAL enable_sort = off;"
# What its handler asks is planned as usual.
AS_USUAL = "SET LOCAL enable_sort TO DEFAULT;"

# The most urgent ready jobs of those whose turn it is, locked for as long as this transaction lasts: the lock is the
# lease. Owner by owner, only as far as jobs are wanted.
LOCK = f"""
SELECT {CLAIMED} FROM {turns.IN_TURN} AS in_turn
CROSS JOIN LATERAL (
    SELECT * FROM orchestrator_job
    WHERE ready AND kind = %(kind)s AND owner = in_turn.owner AND id <> ALL(%(left_out)s::uuid[])
    ORDER BY rank, id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) AS job
WHERE NOT EXISTS (SELECT FROM orchestrator_kind WHERE name = %(kind)s AND (paused_at IS NOT NULL OR limited))
LIMIT %(limit)s
"""  # noqa: S608

# One of a batch that failed as a whole, if it is as that batch left it.
LOCK_ONE = f"""
SELECT {CLAIMED} FROM orchestrator_job job
WHERE id = %(id)s AND ready AND attempt = %(attempt)s
  AND NOT EXISTS (SELECT FROM orchestrator_kind WHERE name = job.kind AND paused_at IS NOT NULL)
FOR UPDATE SKIP LOCKED
"""  # noqa: S608 It is made of constants.

# Jobs that are locked already, as there is room for them.
ADMITTED = f"SELECT {CLAIMED} FROM orchestrator_job job WHERE id = ANY(%(ids)s::uuid[]) ORDER BY rank, id"  # noqa: S608

# A row if any job of the kind is ready. In the order of the index: by old statistics a mere EXISTS would rather read
# the whole table. Each leased job asks, and the ORM would take longer to write this than PostgreSQL to answer.
NEXT_READY = "SELECT id FROM orchestrator_job WHERE ready AND kind = %s ORDER BY owner, rank, id LIMIT 1"

# Which of these jobs, locked by now, another process has noted that it runs, after as many attempts: it has died of
# one of them, and nobody has counted that yet.
TRIED_BY_OTHERS = """
SELECT tried.id
FROM orchestrator_worker worker, jsonb_each_text(worker.trying) AS tried (id, attempts),
     unnest(%(ids)s::text[], %(attempts)s::integer[]) AS locked (id, attempts)
WHERE worker.id <> %(worker)s AND worker.trying ?| %(ids)s::text[]
  AND tried.id = locked.id AND tried.attempts::integer = locked.attempts
"""


def lock_ready(kind: Kind, *, worker_id: int) -> list[Claimed]:
    """The most urgent ready jobs of the owners whose turn it is, at most a batch, locked until the transaction ends.
    PostgreSQL ends it when it has been idle for FROZEN_BATCH_SECONDS.

    A job that runs alone is alone in its list. What a process has just died of waits until that is counted, or it
    would kill one process after the other.
    """
    is_limited = admission.is_limited(kind)
    if is_limited and not unblocking.pass_gate(kind.name):
        return []
    left_out: set[str] = set()
    while True:
        held = transaction.savepoint()
        jobs = _admitted(kind, left_out) if is_limited else _next_ready(kind, left_out)
        # Callers do so before their transaction, whose locks would keep others waiting; this is for who did not.
        if not jobs and turns.absorb(kind.name):
            continue
        crashed = _tried_by_others(jobs, worker_id) if jobs else set()
        if not crashed:
            transaction.savepoint_commit(held)
            break
        # Released, so that the process that counts the attempts can lock it.
        transaction.savepoint_rollback(held)
        left_out |= crashed
    if jobs and jobs[0].runs_alone:
        return jobs[:1]
    return [job for job in jobs if not job.runs_alone]


def _next_ready(kind: Kind, left_out: Collection[str]) -> list[Claimed]:
    return read_claimed(
        LIMIT_IDLENESS + IN_ORDER + LOCK, {"kind": kind.name, "limit": kind.batch_size, "left_out": list(left_out)}
    )


def _admitted(kind: Kind, left_out: Collection[str] = (), *, id: str | None = None) -> list[Claimed]:
    """Those for which the kind's limits have room. One batch of the kind runs at a time: it holds the gate."""
    choice = admission.admit(kind, at_most=kind.batch_size, left_out=left_out, id=id)
    jobs = read_claimed(LIMIT_IDLENESS + IN_ORDER + ADMITTED, {"ids": [str(each.id) for each in choice.chosen]})
    if jobs:
        admission.started(kind, choice.chosen, jobs[0].claimed_at)
    return jobs


def lock_one(kind: Kind, id: str, attempt: int, *, worker_id: int) -> list[Claimed]:
    """That job, locked as `lock_ready` does, if it is still as it was found after so many attempts.

    Not if another process has died of it meanwhile.
    """
    if admission.is_limited(kind):
        jobs = _admitted(kind, id=id) if unblocking.pass_gate(kind.name) else []
        jobs = [job for job in jobs if job.attempt == attempt]
    else:
        jobs = read_claimed(LIMIT_IDLENESS + LOCK_ONE, {"id": id, "attempt": attempt})
    return [] if jobs and _tried_by_others(jobs, worker_id) else jobs


def clean_within_batch() -> None:
    """Ends what a job of a batch set on the session that all of them share, before the next one runs."""
    prepared.forget()
    with connection.cursor() as cursor:
        cursor.execute(f"{CLEAN}; {LIMIT_IDLENESS}")


def read_claimed(sql: str, parameters: dict[str, Any]) -> list[Claimed]:
    """The jobs that a statement returns as `CLAIMED`."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return [Claimed(*row) for row in cursor.fetchall()]


def _tried_by_others(jobs: Sequence[Claimed], worker_id: int) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            AS_USUAL + TRIED_BY_OTHERS,
            {
                "worker": worker_id,
                "ids": as_array(texts_of([job.id for job in jobs])),
                "attempts": as_array(str(job.attempt) for job in jobs),
            },
        )
        return {id for (id,) in cursor.fetchall()}


def has_ready(kind: Kind) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(NEXT_READY, [kind.name])
        return cursor.fetchone() is not None


def ring_if_more(kind: Kind) -> None:
    """Wakes the next worker while jobs are waiting: so one bell reaches every free worker."""
    if has_ready(kind):
        bell.ring(kind.name)
