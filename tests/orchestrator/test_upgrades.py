"""Rows that another release wrote, and tables that the next one has changed. See docs/upgrades.md."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.core.management import call_command
from django.db import connection
from pytest_django import Settings

from orchestrator.kind_problems import BadPayload
from orchestrator.models import Job
from orchestrator.queue.recovery import declare_dead
from orchestrator.submission import submit
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests import next_release
from tests.orchestrator.workbench import DeclareKind, again, lease, run

pytestmark = pytest.mark.django_db(transaction=True)

# The columns of each table as 0.1.0 made them, among which is all that it writes.
RECORDED = Path(__file__).parent.parent / "recorded"
COLUMNS = json.loads((RECORDED / "columns.json").read_text())
# Its INSERT of a job.
JOB = (RECORDED / "job.sql").read_text()

ACTUAL_COLUMNS = """
SELECT table_name, column_name, is_nullable = 'YES' OR column_default IS NOT NULL OR is_identity = 'YES'
FROM information_schema.columns
WHERE table_schema = 'public' AND table_name ~ '^(orchestrator|scheduler|ingestion)_'
"""


def actual_columns() -> dict[tuple[str, str], bool]:
    """Whether each column may be left out of an INSERT."""
    with connection.cursor() as cursor:
        cursor.execute(ACTUAL_COLUMNS)
        return {(table, column): may_be_left_out for table, column, may_be_left_out in cursor.fetchall()}


def recorded_columns() -> set[tuple[str, str]]:
    return {(table, column) for table, columns in COLUMNS.items() for column in columns}


def test_every_column_that_0_1_0_knows_is_still_there() -> None:
    assert recorded_columns() - actual_columns().keys() == set()


def test_an_insert_of_0_1_0_still_works_since_all_it_leaves_out_has_a_default() -> None:
    given = {("orchestrator_job", column) for column in re.findall(r"\w+", JOB[JOB.index("(") : JOB.index(")")])}
    known = {each for each in recorded_columns() if each[0] != "orchestrator_job"} | given

    # It does not write to tables that are newer than it.
    demanded = {
        each for each, may_be_left_out in actual_columns().items() if not may_be_left_out and each[0] in COLUMNS
    }

    assert demanded - known == set()


class Letter(msgspec.Struct, forbid_unknown_fields=True):
    """A payload as this release knows it; `copies` is newer than some jobs."""

    to: str
    copies: int = 1


def test_a_payload_of_an_older_release_lacks_a_new_field(kind: DeclareKind, worker: WorkerProcess) -> None:
    mailing = kind(lambda job, payload: payload.copies, payload=Letter)
    job = submit(mailing, {"to": "ada"})
    Job.objects.filter(id=job.id).update(payload={"to": "ada"})

    run(mailing, worker)

    assert (again(job).status, again(job).result) == ("COMPLETED", 1)


@pytest.mark.parametrize("execution", ["leased", "transactional"])
def test_a_payload_of_a_newer_release_has_a_field_that_is_passed_over(
    execution: Any, kind: DeclareKind, worker: WorkerProcess
) -> None:
    mailing = kind(lambda job, payload: [payload.to, payload.copies], payload=Letter, execution=execution)
    job = submit(mailing, {"to": "ada"})
    Job.objects.filter(id=job.id).update(payload={"to": "ada", "copies": 2, "urgent": True})

    run(mailing, worker)

    assert (again(job).status, again(job).result) == ("COMPLETED", ["ada", 2])


def test_unknown_fields_are_refused_at_submission(kind: DeclareKind) -> None:
    with pytest.raises(BadPayload, match="urgent"):
        submit(kind(payload=Letter), {"to": "ada", "urgent": True})


@pytest.mark.parametrize(
    ("payload_type", "stored"),
    [(Letter, '{"urgent": true}'), (Letter, '{"to": 5, "urgent": true}'), (int, '"x"')],
)
def test_payloads_invalid_in_every_release_are_still_refused(
    payload_type: Any, stored: str, kind: DeclareKind
) -> None:
    with pytest.raises(BadPayload):
        kind(payload=payload_type).decode_payload(stored)


def test_jobs_of_a_kind_that_only_another_release_knows_are_kept_by_the_tick(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    elsewhere = kind(max_attempts=2)
    waiting, running = submit(elsewhere), submit(elsewhere)
    Job.objects.filter(id=running.id).update(priority=0, rank=running.created_at)
    assert lease(elsewhere, worker).id == running.id
    declare_dead(worker.row_id)
    Job.objects.filter(id__in=[waiting.id, running.id]).update(kind="next.release")

    tick.run_parts()

    assert [again(job).status for job in (waiting, running)] == ["CREATED", "CREATED"]
    assert [attempt.outcome for attempt in again(running).attempts.all()] == ["LOST"]


@pytest.fixture
def migrated(settings: Settings) -> Iterator[None]:
    """The tables are the next release's already, while this one works on."""
    settings.MIGRATION_MODULES = {"orchestrator": "tests.next_release"}
    call_command("migrate", verbosity=0)
    yield
    call_command("migrate", "orchestrator", next_release.PRESENT, verbosity=0)


@pytest.mark.parametrize("execution", ["leased", "transactional"])
def test_this_release_works_on_the_tables_of_the_next(
    execution: Any, migrated: None, kind: DeclareKind, worker: WorkerProcess
) -> None:
    working = kind(execution=execution)
    job = submit(working)

    run(working, worker)

    assert again(job).status == "COMPLETED"
