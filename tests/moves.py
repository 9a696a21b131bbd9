"""A trigger that lets no job move otherwise than `states.MOVES` says, in the databases of tests and their stacks."""

from __future__ import annotations

from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet

from orchestrator.models import Job
from orchestrator.states import MOVES, Status

# It comes after the constraints, which refuse a bad row whatever its move.
TRIGGER = """
CREATE OR REPLACE FUNCTION refuse_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('tests.arranging', true), '') <> 'on' THEN
        RAISE EXCEPTION 'No job moves from % to %, as % % would.', old.status, new.status, old.kind, old.id;
    END IF;
    RETURN new;
END $$;
CREATE OR REPLACE TRIGGER job_moves_are_legal AFTER UPDATE ON orchestrator_job
FOR EACH ROW WHEN (
    old.status <> new.status
    AND (old.status, new.status) NOT IN ({moves})
    AND NOT (old.ready AND new.attempt = old.attempt + 1 AND (old.status, new.status) IN ({at_once}))
)
EXECUTE FUNCTION refuse_move();
"""


def watch_moves() -> None:
    """Installs the trigger. A transactional job is claimed and ended at once, which must count the attempt."""
    at_once = [(Status.CREATED, after) for before, after in MOVES if before is Status.RUNNING]
    with connection.cursor() as cursor:
        cursor.execute(TRIGGER.format(moves=_listed(MOVES), at_once=_listed(at_once)))


def _listed(moves: Any) -> str:
    return ", ".join(f"('{before}', '{after}')" for before, after in moves)


def put(jobs: QuerySet[Job], **columns: Any) -> None:
    """Puts jobs into a state in which a test wants them, however they would have come there."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL tests.arranging = 'on'")
        jobs.update(**columns)
        cursor.execute("SET LOCAL tests.arranging = 'off'")
