"""Statements that a session plans once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction

from orchestrator.attempt import prepared, session
from orchestrator.models import Job, Worker
from orchestrator.queue import transitions
from orchestrator.queue.transitions import completing, starting
from orchestrator.running import RunningJob
from orchestrator.states import Status
from orchestrator.submission import submit
from orchestrator.worker.process import WorkerProcess
from tests.factories import make_job
from tests.orchestrator.workbench import DeclareKind, again, pipeline, run

pytestmark = pytest.mark.django_db(transaction=True)

ADD = "SELECT %(a)s::integer + %(b)s::integer + %(a)s::integer, '100 %%'"
# What this session has prepared, and how often each was planned for the values that it had.
PREPARED = """
SELECT name, generic_plans, custom_plans, prepare_time FROM pg_prepared_statements WHERE starts_with(name, 'muster_')
"""


@pytest.fixture(autouse=True)
def new_session() -> Iterator[None]:
    connection.close()
    yield
    connection.close()


def add(a: int, b: int, *, sql: str = ADD) -> Any:
    with connection.cursor() as cursor:
        prepared.execute(cursor, [sql], {"a": a, "b": b})
        return cursor.fetchone()


def in_session() -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(PREPARED)
        return list(cursor.fetchall())


def test_a_statement_that_a_session_runs_again_and_again_is_planned_once() -> None:
    results = [add(a, 10) for a in range(6)]

    assert results == [(10 + 2 * a, "100 %") for a in range(6)]
    [(_, generic, custom, _)] = in_session()
    assert (generic, custom) == (6 - prepared.USES_BEFORE, 0)


def test_a_statement_without_parameters_is_prepared_as_well() -> None:
    for _ in range(prepared.USES_BEFORE + 1):
        with connection.cursor() as cursor:
            prepared.execute(cursor, [ADD, "SELECT 7"], {"a": 1, "b": 2})
            result = cursor.fetchone()

    assert result == (7,)
    assert len(in_session()) == 2


def test_a_statement_that_a_session_runs_seldom_is_not_prepared() -> None:
    for _ in range(prepared.USES_BEFORE):
        add(1, 2)

    assert in_session() == []


def test_a_plan_is_made_anew_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        add(1, 2)
    [(*_, before)] = in_session()
    monkeypatch.setattr(prepared, "PLAN_SECONDS", -1)

    add(1, 2)

    [(*_, after)] = in_session()
    assert after > before


def test_within_a_transaction_a_statement_is_sent_as_it_is() -> None:
    with transaction.atomic():
        for _ in range(4):
            assert add(1, 2) == (4, "100 %")

    assert in_session() == []


def test_a_session_that_has_lost_its_statements_goes_on_without_any() -> None:
    for _ in range(3):
        add(1, 2)
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")

    assert [add(1, 2) for _ in range(4)] == [(4, "100 %")] * 4
    assert in_session() == []


def test_a_session_that_is_cleaned_prepares_statements_again() -> None:
    for _ in range(3):
        add(1, 2)

    session.clean()

    assert in_session() == []
    assert [add(1, 2) for _ in range(3)] == [(4, "100 %")] * 3
    assert len(in_session()) == 1


def test_a_table_that_has_changed_is_read_as_it_is_now() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE changing AS SELECT 1 AS one")
    sql = "SELECT * FROM changing WHERE %(a)s::integer < %(b)s::integer"
    assert [add(1, 2, sql=sql) for _ in range(3)] == [(1,)] * 3
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE changing ADD COLUMN two integer DEFAULT 2")

    assert add(1, 2, sql=sql) == (1, 2)


def test_an_error_of_the_statement_itself_is_raised() -> None:
    sql = "SELECT %(a)s::integer / %(b)s::integer"
    for _ in range(3):
        add(1, 1, sql=sql)

    with pytest.raises(Exception, match="division by zero"):
        add(1, 0, sql=sql)

    assert add(4, 2, sql=sql) == (2,)


def test_claims_of_a_share_below_one_are_right_when_they_are_prepared(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(prepared, "USES_BEFORE", 0)
    declared = kind()
    Worker.objects.update(slots=4)
    for _ in range(4):
        submit(declared, owner="ada")

    claims = [transitions.claim(declared, worker_id=worker.row_id, worker_name="w").jobs for _ in range(3)]

    assert [len(jobs) for jobs in claims] == [1, 1, 0]
    assert in_session()


@pytest.mark.parametrize("progress", [None, 1])
def test_jobs_are_completed_and_counted_down_when_that_is_prepared(
    progress: int | None, kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler(running: RunningJob) -> None:
        if progress:
            running.progress(progress, progress, "done")

    monkeypatch.setattr(prepared, "USES_BEFORE", 0)
    step, last = kind(handler), kind(lambda running: sorted(running.inputs))
    parent, children = pipeline(last, step, {"a": [], "b": ["a"]})

    ran = [run(step, worker), run(step, worker), run(last, worker)]

    assert ran == [1, 1, 1]
    assert [(again(each).status, again(each).progress_done) for each in children.values()] == [
        ("COMPLETED", progress)
    ] * 2
    assert (again(parent).status, again(parent).result) == ("COMPLETED", ["a", "b"])
    assert in_session()


def plan_of(sql: str) -> str:
    """How a session would run a statement that it has prepared while all jobs had ended, as statistics say, too."""
    statement = prepared.Statement(sql)
    names = dict.fromkeys(re.findall(r"%\((\w+)\)s", sql))
    with transaction.atomic(), connection.cursor() as cursor:
        for _ in range(300):
            make_job(Status.COMPLETED)
        cursor.execute("ANALYZE orchestrator_job")
        cursor.execute(f"{prepared.ONE_PLAN} SET LOCAL muster.completed = '{{}}'; {statement.prepare}")
        cursor.execute(f"EXPLAIN {statement.execute}", names)
        return "\n".join(line for (line,) in cursor.fetchall())


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        (completing.COMPLETE_TOGETHER, "Tid Scan"),
        (completing.COMPLETE_MOVED, "orchestrator_job_pkey"),
        (completing.COUNT_DOWN_COMPLETED, "orchestrator_job_pkey"),
    ],
)
def test_a_completion_reads_no_other_jobs_with_a_plan_from_a_quiet_time(sql: str, found: str) -> None:
    plan = plan_of(sql)

    assert found in plan
    assert not re.findall(r"job_by_\w+|job_leased_\w+|Seq Scan|hashed SubPlan", plan), plan


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        (completing.COMPLETE_TOGETHER, "TID Cond: (ctid = ANY ("),
        (completing.COMPLETE_MOVED, "Index Cond: (id = ANY ("),
        (starting.LEASE.format(found=starting.BY_ID), "TID Cond: (ctid = ANY ("),
    ],
)
def test_the_jobs_of_a_group_are_looked_up_and_not_compared_each_with_each(sql: str, found: str) -> None:
    plan = plan_of(sql)

    assert found in plan
    assert "Join Filter" not in plan, plan


def pages_of_a_completion(id: UUID) -> int:
    """Those that PostgreSQL looks at for it, in a transaction that is rolled back."""
    job: dict[str, Any] = {"id": id, "attempt": 1, "result": "1", "began_at": None}
    progress = {"progress_done": None, "progress_total": None, "progress_message": ""}
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT {completing.COMPLETE}", job | progress)
        [[[answer]]] = cursor.fetchall()
        transaction.set_rollback(True)
    return int(answer["Plan"]["Shared Hit Blocks"] + answer["Plan"]["Shared Read Blocks"])


def test_the_completion_of_one_job_keeps_its_plan_and_reads_no_other_jobs(worker: WorkerProcess) -> None:
    first = make_job(Status.RUNNING, worker_id=worker.row_id)
    before = [pages_of_a_completion(first.id) for _ in range(10)]
    session.clean()
    again_at_once = pages_of_a_completion(first.id)
    running = [make_job(Status.RUNNING, worker_id=worker.row_id) for _ in range(1_000)]

    assert before[0] > before[-1] + 50  # The first is planned.
    assert again_at_once <= before[-1]
    assert pages_of_a_completion(running[500].id) < before[-1] + 50


def sends(*statements: str) -> Callable[[RunningJob], None]:
    def handler(running: RunningJob) -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return handler


def sends_unseen(*statements: str) -> Callable[[RunningJob], None]:
    """By psycopg2's own connection."""

    def handler(running: RunningJob) -> None:
        with connection.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return handler


@pytest.mark.parametrize("handler", [sends("SELECT 1"), sends_unseen("PREPARE theirs AS SELECT 1")])
def test_what_a_session_has_prepared_is_kept_when_it_is_cleaned_after_a_job(
    handler: Callable[[RunningJob], None], kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "USES_BEFORE", 0)
    declared = kind(handler)
    seen = []
    for _ in range(3):
        submit(declared)
        run(declared, worker)
        seen.append(in_session())

    # Each time the same, prepared at the same time.
    assert seen[0]
    assert [{(name, at) for name, *_, at in each} for each in seen] == [{(name, at) for name, *_, at in seen[0]}] * 3
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE NOT starts_with(name, 'muster_')")
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("handler", [sends("DEALLOCATE ALL"), sends("SELECT 1", "/* of all */ DEALLOCATE ALL")])
def test_a_session_whose_handler_throws_its_statements_away_prepares_them_again(
    handler: Callable[[RunningJob], None], kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "USES_BEFORE", 0)
    declared = kind(handler)
    for _ in range(2):
        submit(declared)
        run(declared, worker)

    assert Job.objects.filter(status="COMPLETED").count() == 2
    for _ in range(2):
        add(1, 2)
    assert in_session()


@pytest.mark.parametrize("atomic", [True, False])
def test_a_session_whose_handler_throws_its_statements_away_unseen_goes_on_without_any(
    atomic: bool, kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "USES_BEFORE", 0)
    declared = kind(sends_unseen("DEALLOCATE ALL"), atomic=atomic)
    for _ in range(3):
        submit(declared)
        run(declared, worker)

    assert list(Job.objects.values_list("status", "attempt")) == [("COMPLETED", 1)] * 3
