"""What a handler that leaves its transaction, or changes its connection, writes is not kept; others lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, connections, transaction

from orchestrator.running import RunningJob
from orchestrator.submission import submit
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, run, write, written


def switch_to_autocommit() -> None:
    connection.connection.set_isolation_level(0)


def forget_connection() -> None:
    connection.connection = None


def replace_wrapper() -> None:
    connections["default"] = connections.create_connection("default")


def send(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


# Each does something with the savepoint that the worker has set.
OTHERS_SAVEPOINT: dict[str, Callable[[str], object]] = {
    "Django's rollback": transaction.savepoint_rollback,
    "Django's commit": transaction.savepoint_commit,
    "ROLLBACK TO": lambda name: send(f"rollback work to {name}"),
    "ROLLBACK TO SAVEPOINT": lambda name: send(f'/* now */ ROLLBACK TO SAVEPOINT "{name}"'),
    "RELEASE": lambda name: send(f"RELEASE {name}"),
}


@pytest.mark.parametrize("leave", [switch_to_autocommit, forget_connection, replace_wrapper])
def test_the_next_job_of_a_batch_writes_nothing_outside_its_transaction(
    leave: Callable[[], None], kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: str) -> None:
        write(payload)
        if payload == "bad":
            leave()

    batch = kind(handler, payload=str, execution="transactional", max_attempts=1)
    before, bad, after = (submit(batch, name) for name in ("before", "bad", "after"))

    run(batch, worker)

    assert [again(job).status for job in (before, bad, after)] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert written() == {"before", "after"}


@pytest.mark.parametrize("leave", [switch_to_autocommit, forget_connection])
@pytest.mark.parametrize("options", [{"execution": "leased"}, {"execution": "transactional"}])
def test_what_a_handler_writes_after_it_has_left_its_transaction_is_not_kept(
    leave: Callable[[], None], options: dict[str, Any], kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> None:
        write("before")
        leave()
        write("after")

    leaving = kind(handler, max_attempts=1, **options)
    job = submit(leaving)

    run(leaving, worker)

    assert again(job).status == "FAILED"
    assert "A job's transaction is ended by its worker" in again(job).error
    assert written() == set()


@pytest.mark.parametrize("act", OTHERS_SAVEPOINT)
def test_a_handler_does_not_take_back_what_others_of_its_batch_wrote(
    act: str, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: str) -> None:
        write(payload)
        if payload == "bad":
            for name in filter(None, list(connection.savepoint_ids)):
                OTHERS_SAVEPOINT[act](name)

    batch = kind(handler, payload=str, execution="transactional", max_attempts=1)
    before, bad, after = (submit(batch, name) for name in ("before", "bad", "after"))

    run(batch, worker)

    assert [again(job).status for job in (before, bad, after)] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "a savepoint that is not its own" in again(bad).error
    assert written() == {"before", "after"}


def test_a_handler_rolls_back_to_savepoints_of_its_own(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        write("kept")
        savepoint = transaction.savepoint()
        write("not kept")
        transaction.savepoint_rollback(savepoint)
        send("SAVEPOINT mine")
        send("RELEASE mine")

    both = [kind(handler, execution=execution) for execution in ("leased", "transactional")]
    for each in both:
        job = submit(each)
        run(each, worker)

        assert (again(job).status, written()) == ("COMPLETED", {"kept"})
        connection.cursor().execute("DELETE FROM auth_group WHERE name = 'kept'")


def connect_elsewhere() -> None:
    connection.settings_dict["HOST"] = "192.0.2.1"


def connect_as_someone_else() -> None:
    connection.settings_dict["OPTIONS"]["user"] = "nobody"


def forget_how_to_connect() -> None:
    connection.settings_dict = {}


@pytest.mark.parametrize("execution", ["leased", "transactional"])
@pytest.mark.parametrize("change", [connect_elsewhere, connect_as_someone_else, forget_how_to_connect])
def test_the_next_job_is_run_by_a_new_connection_to_the_same_database(
    change: Callable[[], None], execution: Any, kind: DeclareKind, worker: WorkerProcess
) -> None:
    changing = kind(lambda running: change(), execution=execution, max_attempts=1)
    first, second = submit(changing), submit(changing)

    for _ in (first, second):
        run(changing, worker)
        connection.close()

    assert [again(job).status for job in (first, second)] == ["COMPLETED", "COMPLETED"]
