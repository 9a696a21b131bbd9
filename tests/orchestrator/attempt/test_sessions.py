"""What a handler does to its database connection ends with its job, and costs no other job anything."""

from __future__ import annotations

import asyncio
import decimal
import io
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import django.db
import psycopg2
import psycopg2.extensions as pg
import pytest
from django.contrib.auth.models import Group
from django.core.signals import request_started
from django.db import connection, connections, transaction
from django.utils import translation
from psycopg2.extras import RealDictCursor

from orchestrator import submission
from orchestrator.attempt.session import transaction_began_at
from orchestrator.kinds import Kind
from orchestrator.models import Dependency, Job
from orchestrator.running import RunningJob
from orchestrator.stops import LeaseLost
from orchestrator.submission import submit, submit_many
from orchestrator.worker.process import WorkerProcess
from tests.moves import put
from tests.orchestrator.workbench import DeclareKind, again, end_own_connection, run, threads, write, written

EXECUTIONS = ("leased", "transactional")
BOTH = pytest.mark.parametrize("execution", EXECUTIONS)


def send(*statements: Any) -> Callable[[], None]:
    def send_them() -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return send_them


def raw(method: str, *arguments: Any) -> Callable[[], None]:
    return lambda: getattr(connection.connection, method)(*arguments)


def raw_send(*statements: str) -> Callable[[], None]:
    def send_them() -> None:
        with connection.connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    return send_them


def in_turn(*steps: Callable[[], Any]) -> Callable[[], None]:
    def all_of_them() -> None:
        for step in steps:
            step()

    return all_of_them


def swallowing(step: Callable[[], Any]) -> Callable[[], None]:
    def try_it() -> None:
        try:
            step()
        except Exception:
            return

    return try_it


def fail_in_atomic() -> None:
    with transaction.atomic(savepoint=False):
        raise ValueError("swallowed")


def replace_connection() -> None:
    connections["default"] = connections.create_connection("default")


def reconnect() -> None:
    connection.connect()


def read_rows_as_dictionaries() -> None:
    connection.connection.cursor_factory = RealDictCursor


def read_numbers_otherwise() -> None:
    pg.register_type(pg.new_type((20, 23, 25), "ODD", lambda value, cursor: "odd"), connection.connection)


def lose_account() -> None:
    connection.savepoint_ids = connection.run_on_commit = connection.execute_wrappers = None  # type: ignore[assignment]


def send_by_another_class(*statements: str) -> Callable[[], None]:
    def send_them() -> None:
        with connection.connection.cursor(cursor_factory=RealDictCursor) as cursor:
            for statement in statements:
                cursor.execute(statement)

    return send_them


def copy() -> None:
    with connection.connection.cursor() as cursor:
        cursor.copy_to(io.StringIO(), "auth_group")


def copy_and_begin_another() -> None:
    with connection.connection.cursor() as cursor:
        with suppress(psycopg2.ProgrammingError):  # After it was sent.
            cursor.copy_expert("COMMIT", io.StringIO())
        cursor.execute("BEGIN")


def call_a_function() -> None:
    with connection.connection.cursor() as cursor:
        cursor.callproc("now")


def replace_statement() -> None:
    def others(execute: Any, sql: Any, *arguments: Any) -> Any:
        return execute("SELECT 1; COMMIT; BEGIN", *arguments)

    with connection.execute_wrapper(others):
        send("SELECT 1")()


# What a handler can do so that its transaction is not what it was, and what is said of it.
MISUSES: dict[str, tuple[Callable[[], Any], str]] = {
    "close": (lambda: connection.close(), "closed its database connection"),
    "close_old_connections": (django.db.close_old_connections, "closed its database connection"),
    "a close that goes round": (connection.close, "closed its database connection"),
    "close_all": (connections.close_all, "closed its database connection"),
    "request_started": (lambda: request_started.send(sender=None), "closed its database connection"),
    "raw close": (raw("close"), "closed its database connection"),
    "raw close, then a query": (in_turn(raw("close"), send("SELECT 1")), "closed its database connection"),
    "connect anew": (reconnect, "replaced its database connection"),
    "another connection": (replace_connection, "replaced its database connection"),
    "no connection": (lambda: setattr(connection, "connection", None), "replaced its database connection"),
    "COMMIT": (send("COMMIT"), "sent 'COMMIT'"),
    "commit, with a comment": (send("/* now */ -- really\n commit"), "sent "),
    "ROLLBACK": (send("ROLLBACK"), "sent 'ROLLBACK'"),
    "ABORT": (send("ABORT"), "sent 'ABORT'"),
    "END": (send("end;"), "sent 'end;'"),
    "BEGIN": (send("BEGIN"), "sent 'BEGIN'"),
    "commit of Django": (connection.commit, "TransactionManagementError"),
    "rollback of Django": (connection.rollback, "TransactionManagementError"),
    "set_autocommit": (lambda: connection.set_autocommit(True), "TransactionManagementError"),
    "raw commit": (raw("commit"), "ended its transaction"),
    "raw rollback": (raw("rollback"), "ended its transaction"),
    "raw COMMIT": (raw_send("COMMIT"), "ended its transaction"),
    "COMMIT behind a semicolon": (send("SELECT 1; COMMIT"), "ended its transaction"),
    "raw commit, then a query": (in_turn(raw("commit"), send("SELECT 1")), "ended its transaction"),
    "raw commit, then a raw query": (in_turn(raw("commit"), raw_send("SELECT 1")), "ended its transaction"),
    "raw commit, then COPY": (in_turn(raw("commit"), copy), "ended its transaction"),
    "raw commit, then a function": (in_turn(raw("commit"), call_a_function), "ended its transaction"),
    "raw commit, then a large object": (in_turn(raw("commit"), raw("lobject")), "ended its transaction"),
    "raw COMMIT and BEGIN": (raw_send("COMMIT", "BEGIN"), "ended its transaction"),
    "COMMIT and BEGIN behind a semicolon": (send("SELECT 1; COMMIT; BEGIN"), "ended its transaction"),
    "COMMIT and BEGIN by COPY": (copy_and_begin_another, "ended its transaction"),
    "COMMIT and BEGIN by a cursor of another class": (
        send_by_another_class("COMMIT", "BEGIN"),
        "ended its transaction",
    ),
    "COMMIT and BEGIN in place of Django's": (replace_statement, "ended its transaction"),
    "raw autocommit": (in_turn(raw("commit"), raw("set_session", None, None, None, True)), "ended its transaction"),
    "an atomic left open": (lambda: transaction.atomic().__enter__(), "left a transaction.atomic() open"),
    "atomics left open": (
        in_turn(*[lambda: transaction.atomic().__enter__()] * 3),
        "left a transaction.atomic() open",
    ),
    "one atomic too many ended": (lambda: transaction.atomic().__exit__(None, None, None), ""),
    "set_rollback": (lambda: transaction.set_rollback(True), "marked for a rollback"),
    "an error swallowed": (swallowing(send("SELECT 1/0")), "continued after a database error"),
    "an atomic failed": (swallowing(fail_in_atomic), "marked for a rollback"),
    "COMMIT in bytes": (send(b"COMMIT"), "sent 'COMMIT'"),
    "Django's account lost": (lose_account, "left a transaction.atomic() open"),
}


def run_all(kind: Kind, worker: WorkerProcess, *payloads: str) -> list[Job]:
    """The jobs with these payloads, once none of the kind is ready any more."""
    jobs = [submit(kind, payload) for payload in payloads]
    while run(kind, worker):
        pass
    return [again(job) for job in jobs]


@pytest.mark.parametrize("misuse", MISUSES)
def test_a_handler_that_ends_its_transaction_fails_alone_with_the_reason(
    misuse: str, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: str) -> str:
        # Not once only: psycopg2's own commit also commits what the batch has written so far.
        Group.objects.get_or_create(name=f"{payload} {running.id}")
        if payload == "bad":
            act()
        return payload

    act, told = MISUSES[misuse]
    for execution in EXECUTIONS:
        both = kind(handler, payload=str, execution=execution, max_attempts=1)

        before, bad, after = run_all(both, worker, "good", "bad", "good")

        assert [(job.status, job.attempt) for job in (before, bad, after)] == [
            ("COMPLETED", 1), ("FAILED", 1), ("COMPLETED", 1),
        ], execution  # fmt: skip
        [attempt] = again(bad).attempts.all()
        assert (attempt.outcome, again(bad).celery_task_id) == ("RAISED", str(bad.id))
        assert told in attempt.error
        assert attempt.traceback
        assert not again(before).attempts.exists()
        assert not again(after).attempts.exists()
        assert {f"good {before.id}", f"good {after.id}"} <= written()


@pytest.mark.parametrize(
    ("sends", "asks"),
    [
        (lambda: write("a row"), 0),
        (lambda: list(Group.objects.iterator()), 0),
        (raw_send("SELECT 1"), 0),
        (in_turn(raw_send("SELECT 1"), send("SELECT 1", "SELECT 1")), 1),
        (send("SELECT 1", "SELECT 1; SELECT 2", "SELECT 1; SELECT 2"), 1),
        (in_turn(send("SELECT 1"), send_by_another_class("SELECT 1")), 1),
    ],
)
def test_a_transaction_that_cannot_end_unseen_is_not_asked_when_it_began(
    sends: Callable[[], Any], asks: int, kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def began_at(wrapper: Any) -> int:
        asked.append(wrapper)
        return transaction_began_at(wrapper)

    monkeypatch.setattr("orchestrator.attempt.session.transaction_began_at", began_at)
    leased = kind(lambda running: sends() and None, max_attempts=1)
    job = submit(leased)

    run(leased, worker)

    assert (again(job).status, len(asked)) == ("COMPLETED", asks)


SESSIONS: dict[str, Callable[[], Any]] = {
    "statement_timeout": send("SET statement_timeout = '1h'", "SET LOCAL work_mem = '64kB'"),
    "set_config": send("SELECT set_config('statement_timeout', '1h', false)"),
    "raw": raw_send("SET statement_timeout = '1h'"),
    "temporary table": send("CREATE TEMP TABLE t (a int)"),
    "temporary view": send("CREATE TEMPORARY VIEW t AS SELECT 1 AS a"),
    "advisory lock": send("SELECT pg_advisory_lock(4711)"),
    "shared advisory lock": send("SELECT pg_try_advisory_lock_shared(4711)"),
    "listen": send("LISTEN t"),
    "prepared statement": send("PREPARE t AS SELECT 1"),
    "raw prepared statement": raw_send('PREPARE "T t" AS SELECT 1', "PREPARE t AS SELECT 2"),
    "cursor": send("DECLARE t CURSOR WITH HOLD FOR SELECT 1"),
    "time zone": send("SET TIME ZONE 'America/New_York'"),
    "date style": send("SET DateStyle = 'German'"),
    "interval style": send("SET IntervalStyle = 'sql_standard'"),
    "search_path": send("SET search_path = pg_temp"),
    "replication role": send("SET session_replication_role = 'replica'"),
    "isolation": send("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
    "read only": send("SET default_transaction_read_only = on"),
    "encoding": send("SET client_encoding = 'LATIN1'"),
    "backslashes": send("SET standard_conforming_strings = off"),
    "bytes": send("SET bytea_output = 'escape'"),
    "a statement in bytes": send(b"SET statement_timeout = '1h'"),
    "rows of psycopg2": read_rows_as_dictionaries,
    "types of psycopg2": read_numbers_otherwise,
}
SESSION = """
SELECT (SELECT array_agg(name || '=' || setting ORDER BY name) FROM pg_settings WHERE name = ANY(%s)),
       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
       (SELECT count(*) FROM pg_listening_channels()),
       (SELECT count(*) FROM pg_prepared_statements WHERE NOT starts_with(name, 'muster_')),
       (SELECT count(*) FROM pg_cursors WHERE is_holdable),
       (SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relnamespace = pg_my_temp_schema()),
       (SELECT count(*) FROM pg_views WHERE viewname = 't'),
       current_user, session_user
"""
WATCHED = [
    "statement_timeout", "work_mem", "TimeZone", "DateStyle", "IntervalStyle", "search_path",
    "session_replication_role", "default_transaction_isolation", "default_transaction_read_only", "client_encoding",
    "standard_conforming_strings", "bytea_output", "enable_sort", "idle_in_transaction_session_timeout",
]  # fmt: skip


def session() -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(SESSION, [WATCHED])
        return tuple(cursor.fetchone())


@pytest.mark.parametrize("change", SESSIONS)
def test_what_a_handler_sets_on_its_session_ends_with_its_job(
    change: str, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: str) -> list[str]:
        if payload != "good":
            SESSIONS[change]()
        if payload == "fails":
            raise ValueError("as it was meant to")
        return [str(each) for each in session()]

    for execution in EXECUTIONS:
        both = kind(handler, payload=str, execution=execution, max_attempts=1)
        reference = submit(both, "good")
        run(both, worker)
        jobs = [submit(both, payload) for payload in ("good", "sets", "sets", "fails", "fails", "good")]
        outside = session()

        while run(both, worker):
            pass

        assert [again(job).status for job in jobs] == ["COMPLETED"] * 3 + ["FAILED"] * 2 + ["COMPLETED"], [
            again(job).error for job in jobs
        ]
        assert {again(job).attempt for job in jobs} == {1}
        assert [again(job).result for job in (jobs[0], jobs[-1])] == [again(reference).result] * 2
        assert session() == outside


@pytest.mark.parametrize(
    "change",
    [
        raw("set_client_encoding", "LATIN1"),
        raw("set_session", "SERIALIZABLE"),
        raw("set_session", None, True),
    ],
)
def test_a_handler_that_sets_psycopg2s_own_connection_fails_alone(
    change: Callable[[], None], kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: str) -> str:
        if payload == "sets":
            change()
        return "Zo\u00eb"

    leased = kind(handler, payload=str, max_attempts=1)
    jobs = [submit(leased, payload) for payload in ("sets", "good", "good")]

    while run(leased, worker):
        pass

    assert [(again(job).status, again(job).attempt, again(job).result) for job in jobs] == [
        ("FAILED", 1, None), ("COMPLETED", 1, "Zo\u00eb"), ("COMPLETED", 1, "Zo\u00eb"),
    ]  # fmt: skip
    assert "The handler set the encoding or isolation of psycopg2's own connection" in again(jobs[0]).error


def test_a_thread_may_use_the_connection_that_a_handler_shares_with_it(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> None:
        shared = connections["default"]
        shared.inc_thread_sharing()

        def write() -> None:
            with shared.cursor() as cursor:
                cursor.execute("INSERT INTO auth_group (name) VALUES ('by a thread')")

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        shared.dec_thread_sharing()

    shares = submit(leased := kind(handler, max_attempts=1))

    run(leased, worker)

    assert (again(shares).status, again(shares).error) == ("COMPLETED", "")
    assert "by a thread" in written()


@BOTH
def test_a_role_that_a_handler_sets_is_reset(execution: Any, kind: DeclareKind, worker: WorkerProcess) -> None:
    send("DROP ROLE IF EXISTS nobody_much", "CREATE ROLE nobody_much", "GRANT nobody_much TO current_user")()
    taking = kind(lambda running: send("SET ROLE nobody_much")(), execution=execution, max_attempts=1)
    jobs = [submit(taking) for _ in range(2)]

    while run(taking, worker):
        pass

    assert [again(job).status for job in jobs] == ["COMPLETED"] * 2
    assert session()[-2] == session()[-1]
    send("DROP ROLE nobody_much")()


def test_a_session_that_steps_have_committed_is_cleaned_though_the_job_fails(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> None:
        with running.step():
            send("SET statement_timeout = '1h'", "CREATE TEMP TABLE t (a int)", "SELECT pg_advisory_lock(4711)")()
        raise ValueError("no")

    stepping = kind(handler, max_attempts=1)
    job = submit(stepping)
    before = session()

    run(stepping, worker)

    assert again(job).status == "FAILED"
    assert session() == before


def test_a_handler_may_use_savepoints_and_choose_its_isolation(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> str:
        send("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")()
        with transaction.atomic():
            write("kept")
        swallowing(in_atomic)()
        send("SAVEPOINT mine", "ROLLBACK TO SAVEPOINT mine", "rollback work to mine", "RELEASE SAVEPOINT mine")()
        return "done"

    def in_atomic() -> None:
        with transaction.atomic():
            write("not kept")
            raise ValueError("no")

    careful = kind(handler, max_attempts=1)
    job = submit(careful)

    run(careful, worker)

    assert (again(job).status, again(job).error, written()) == ("COMPLETED", "", {"kept"})


@BOTH
@pytest.mark.parametrize("survives", [False, True])
def test_a_connection_that_the_database_ends_costs_nobody_an_attempt(
    survives: bool, execution: Any, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: str) -> None:
        if payload == "bad":
            (swallowing(end_own_connection) if survives else end_own_connection)()

    both = kind(handler, payload=str, execution=execution, max_attempts=1, backoff_seconds=1_000)

    before, bad, after = run_all(both, worker, "good", "bad", "good")

    assert [job.status for job in (before, bad, after)] == ["COMPLETED", "CREATED", "COMPLETED"]
    assert [job.attempt for job in (before, after)] == [1, 1]
    assert again(bad).attempts.get().outcome == "UNAVAILABLE"


def reach_nobody() -> None:
    psycopg2.connect("host=127.0.0.1 port=1 dbname=nothing")


def use_a_closed_cursor() -> None:
    with connection.cursor() as cursor:
        pass
    cursor.execute("SELECT 1")


@BOTH
@pytest.mark.parametrize("fail", [reach_nobody, use_a_closed_cursor])
def test_a_job_that_reaches_no_other_database_is_charged(
    fail: Callable[[], None], execution: Any, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: str) -> None:
        if payload == "bad":
            fail()

    both = kind(handler, payload=str, execution=execution, max_attempts=1)
    good, bad = submit(both, "good"), submit(both, "bad")

    while run(both, worker):
        pass

    assert (again(good).status, again(good).attempt) == ("COMPLETED", 1)
    assert (again(bad).status, again(bad).attempts.get().outcome) == ("FAILED", "RAISED")


@pytest.mark.parametrize(("swallows", "ends"), [(False, ("CREATED", "UNAVAILABLE")), (True, ("FAILED", "RAISED"))])
def test_a_job_that_sleeps_when_the_database_goes_away_is_not_charged_unless_it_goes_on(
    swallows: bool, ends: tuple[str, str], kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        monkeypatch.undo()
        raise django.db.OperationalError from psycopg2.OperationalError("the database is away")

    def handler(running: RunningJob) -> None:
        if running.attempt == 1:
            monkeypatch.setattr(connections["default"], "connect", refuse)
        with suppress(django.db.OperationalError if swallows else KeyError):
            running.sleep(0.01)

    monkeypatch.setattr("orchestrator.running.LONG_SLEEP_SECONDS", 0.01)
    sleeping = submit(leased := kind(handler, max_attempts=1))

    run(leased, worker)

    assert (again(sleeping).status, again(sleeping).attempts.get().outcome) == ends


def delete_row(running: RunningJob) -> None:
    Job.objects.filter(id=running.id).delete()


def complete_row(running: RunningJob) -> None:
    own = Job.objects.filter(id=running.id)
    put(own, status="COMPLETED", ready=False, worker=None, deadline_at=None, finished_at="2030-01-01T00:00:00Z")


def raise_attempt(running: RunningJob) -> None:
    Job.objects.filter(id=running.id).update(attempt=running.attempt + 5)


def take_ready(running: RunningJob) -> None:
    if running.kind.execution == "transactional":
        Job.objects.filter(id=running.id).update(ready=False)
    else:
        Job.objects.filter(id=running.id).update(status="CREATED", worker=None, deadline_at=None)


@BOTH
@pytest.mark.parametrize("change", [delete_row, complete_row, raise_attempt, take_ready])
def test_a_handler_that_changes_the_row_of_its_own_job_fails_alone(
    change: Callable[[RunningJob], None], execution: Any, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: str) -> None:
        write(f"{payload} {running.id}")
        if payload == "bad":
            change(running)

    both = kind(handler, payload=str, execution=execution, max_attempts=1)

    before, bad, after = run_all(both, worker, "good", "bad", "good")

    assert [(job.status, job.attempt) for job in (before, bad, after)] == [
        ("COMPLETED", 1), ("FAILED", 1), ("COMPLETED", 1),
    ]  # fmt: skip
    assert again(bad).attempts.get().error.startswith("OwnRowChanged: The handler deleted or changed the row")
    assert written() == {f"good {before.id}", f"good {after.id}"}


def test_a_step_after_a_handler_deleted_its_own_row_fails_the_attempt(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> None:
        with running.step():
            delete_row(running)

    deleting = kind(handler, max_attempts=1)
    job = submit(deleting)

    run(deleting, worker)

    assert again(job).attempts.get().outcome == "RAISED"


def test_a_handler_may_cancel_its_own_job(kind: DeclareKind, worker: WorkerProcess) -> None:
    cancelling = kind(lambda running: submission.cancel(running.row.id).status, execution="transactional")
    jobs = [submit(cancelling) for _ in range(2)]

    run(cancelling, worker)

    assert [again(job).status for job in jobs] == ["CANCELLED"] * 2


@BOTH
def test_a_handler_that_ends_itself_as_if_it_had_been_asked_to_has_failed(
    execution: Any, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> None:
        raise LeaseLost("I would rather not")

    moody = kind(handler, execution=execution, max_attempts=1)
    job = submit(moody)

    run(moody, worker)

    assert (again(job).status, again(job).error) == ("FAILED", "LeaseLost: I would rather not")


def break_at_commit(running: RunningJob) -> None:
    """Its foreign keys are checked when the transaction commits."""
    Dependency.objects.create(job_id=running.id, depends_on_id="00000000-0000-7000-8000-000000000000")


@pytest.mark.parametrize("takes_batch", [False, True])
def test_a_job_that_fails_the_commit_of_its_batch_fails_alone_and_quotes_nobody(
    takes_batch: bool, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: str) -> str:
        write(running.id)
        if payload == "bad":
            break_at_commit(running)
        return payload

    def all_at_once(jobs: list[RunningJob]) -> list[str]:
        return [handler(job, job.payload) for job in jobs]

    both = kind(
        all_at_once if takes_batch else handler,
        takes_batch=takes_batch, payload=str, execution="transactional", max_attempts=1,
    )  # fmt: skip
    ids = submit_many(both, ["good", "bad"] * 20)

    while run(both, worker):
        pass

    jobs = Job.objects.in_bulk(ids)
    assert [(jobs[id].status, jobs[id].attempt, jobs[id].runs_alone) for id in ids] == [
        ("COMPLETED", 1, False), ("FAILED", 1, True),
    ] * 20  # fmt: skip
    assert written() == {str(id) for id in ids[::2]}
    failed = jobs[ids[1]]
    assert failed.error.startswith("IntegrityError: insert or update on table")
    assert "00000000-0000-7000-8000-000000000000" not in failed.error
    assert "00000000-0000-7000-8000-000000000000" in failed.attempts.get().traceback


@BOTH
@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize(
    "breaks",
    [None, raw("close"), connection.close, lambda: transaction.atomic().__enter__(), send("SET work_mem = 64")],
)
def test_what_a_hook_after_the_commit_raises_is_logged_and_the_job_stays_completed(
    breaks: Any,
    robust: bool,
    execution: Any,
    kind: DeclareKind,
    worker: WorkerProcess,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran: list[str] = []

    def handler(running: RunningJob, payload: str) -> None:
        def lost() -> None:
            if breaks:
                breaks()
            raise SystemExit("lost")

        if payload == "bad":
            transaction.on_commit(lost, robust=robust)
        transaction.on_commit(lambda: ran.append(running.id))

    both = kind(handler, payload=str, execution=execution, max_attempts=1)
    jobs = [submit(both, payload) for payload in ("bad", "good")]
    before = session()

    with caplog.at_level(logging.ERROR):
        while run(both, worker):
            pass

    assert [(again(job).status, again(job).attempt) for job in jobs] == [("COMPLETED", 1)] * 2
    assert ran == [str(job.id) for job in jobs]
    [record] = caplog.records
    assert str(jobs[0].id) in record.getMessage()
    assert record.exc_info
    assert record.exc_info[0] is SystemExit
    assert session() == before


@BOTH
def test_what_a_hook_changes_of_its_thread_ends_with_it(
    execution: Any, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def change() -> None:
        decimal.getcontext().prec = 2
        translation.activate("de")
        logging.disable(logging.CRITICAL)
        asyncio._set_running_loop(asyncio.new_event_loop())

    def handler(running: RunningJob) -> list[Any]:
        found = [decimal.getcontext().prec, translation.get_language(), logging.root.manager.disable]
        transaction.on_commit(change)
        return found

    both = kind(handler, execution=execution, max_attempts=1)
    for _ in range(2):
        job = submit(both)
        run(both, worker)
        assert (again(job).status, again(job).result) == ("COMPLETED", [28, "en", 0])


@BOTH
def test_hooks_of_what_failed_are_forgotten(execution: Any, kind: DeclareKind, worker: WorkerProcess) -> None:
    ran: list[str] = []

    def handler(running: RunningJob) -> None:
        transaction.on_commit(lambda: ran.append(running.id))
        raise ValueError("no")

    failing = kind(handler, execution=execution, max_attempts=1)
    jobs = [submit(failing) for _ in range(2)]

    while run(failing, worker):
        pass

    assert [again(job).status for job in jobs] == ["FAILED"] * 2
    assert ran == []


def test_a_step_runs_its_hooks_when_it_is_committed(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> list[str]:
        ran: list[str] = []
        with running.step(1):
            write("kept")
            transaction.on_commit(lambda: ran.append(str(threads_see())))
            transaction.on_commit(lambda: 1 / 0)
        with running.step(2):
            transaction.on_commit(lambda: ran.append("second"))
        return ran

    def threads_see() -> set[str]:
        with threads(1) as call:
            return set(call(written).result())

    stepping = kind(handler, max_attempts=1)
    job = submit(stepping)

    run(stepping, worker)

    assert again(job).result == ["{'kept'}", "second"]


def test_a_handler_goes_on_in_a_transaction_after_a_step_that_failed(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        try:
            with running.step(1):
                break_at_commit(running)
        except django.db.IntegrityError:
            write("not kept")
            raise ValueError("as it was meant to") from None

    stepping = kind(handler, max_attempts=1)
    job = submit(stepping)

    run(stepping, worker)

    assert again(job).error == "ValueError: as it was meant to"
    assert written() == set()


@pytest.mark.parametrize("change", ["statement_timeout", "set_config", "advisory lock"])
def test_a_job_of_a_batch_does_not_see_what_another_sets(
    change: str, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: str) -> list[str]:
        if payload == "sets":
            SESSIONS[change]()
        return [str(each) for each in session()]

    both = kind(handler, payload=str, execution="transactional")
    jobs = [submit(both, payload) for payload in ("good", "sets", "good")]

    run(both, worker)

    results = [again(job).result for job in jobs]
    assert results[0] == results[2] != results[1]
