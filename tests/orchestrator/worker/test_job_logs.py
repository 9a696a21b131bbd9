"""What handlers log is kept with their attempts, whatever pool runs them, and costs the attempt nothing."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from django.conf import settings
from django.db import OperationalError
from django.db.models.functions import Now
from django.test import override_settings
from msgspec.structs import replace as with_settings

from orchestrator import queries
from orchestrator.async_running import AsyncRunningJob
from orchestrator.job_log import MAX_LINE_CHARACTERS, KeepLines
from orchestrator.models import AttemptLog, Job
from orchestrator.running import RunningJob
from orchestrator.submission import submit, submit_many
from orchestrator.upkeep import retention
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, run

BOTH = pytest.mark.parametrize("execution", ["leased", "transactional"])


def messages(id: UUID, worker: WorkerProcess) -> list[tuple[int, str]]:
    worker.write_logs()
    return [(line.attempt, line.message) for line in queries.log_lines(id, limit=1_000)]


def with_lines(count: int) -> Any:
    return override_settings(ENV=with_settings(settings.ENV, JOB_LOG_LINES=count))


@BOTH
def test_lines_of_each_attempt_are_kept_with_their_level_logger_and_traceback(
    execution: Any, kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> None:
        running.log.warning("attempt %d", running.attempt)
        logging.getLogger("shop.charges").error("no card", exc_info=KeyError("card"))
        if running.attempt == 1:
            raise ValueError("no")

    logging_kind = kind(handler, execution=execution, backoff_seconds=0)
    job = submit(logging_kind)

    while run(logging_kind, worker):
        pass
    worker.write_logs()

    lines = queries.log_lines(job.id, limit=10)
    assert [(line.attempt, line.number, line.level, line.logger) for line in lines] == [
        (1, 1, "WARNING", logging_kind.name), (1, 2, "ERROR", "shop.charges"),
        (2, 1, "WARNING", logging_kind.name), (2, 2, "ERROR", "shop.charges"),
    ]  # fmt: skip
    assert lines[0].message == "attempt 1"
    assert lines[1].message == "no card\nKeyError: 'card'"


def test_lines_of_an_async_handler_are_its_own(kind: DeclareKind, worker: WorkerProcess) -> None:
    async def handler(running: AsyncRunningJob, payload: str) -> None:
        logging.getLogger("shop").info("begins %s", payload)
        await running.sleep(0.01)
        logging.getLogger("shop").info("ends %s", payload)

    async_kind = kind(handler, payload=str, queue="io")
    jobs = [submit(async_kind, name) for name in "ab"]

    worker.async_jobs.run_ready(async_kind)

    assert messages(jobs[0].id, worker) == [(1, "begins a"), (1, "ends a")]
    assert messages(jobs[1].id, worker) == [(1, "begins b"), (1, "ends b")]


def test_a_batch_keeps_what_each_job_logs(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(batch: list[RunningJob]) -> list[None]:
        logging.getLogger("shop").info("for nobody in particular")
        for running in batch:
            running.log.info("one of %d", len(batch))
        return [None] * len(batch)

    batch_kind = kind(handler, execution="transactional", takes_batch=True)
    jobs = submit_many(batch_kind, [{}, {}, {}])

    run(batch_kind, worker)

    assert [messages(id, worker) for id in jobs] == [[(1, "one of 3")]] * 3


def test_lines_of_a_batch_that_was_rolled_back_are_not_kept_twice(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob, payload: bool) -> None:
        running.log.info("here")
        if payload:
            raise ValueError("no")

    batch_kind = kind(handler, payload=bool, execution="transactional", batch_size=2, max_attempts=1)
    good, bad = submit_many(batch_kind, [False, True])

    run(batch_kind, worker)

    assert messages(good, worker) == messages(bad, worker) == [(1, "here")]


def test_lines_can_be_read_while_the_handler_runs(kind: DeclareKind, worker: WorkerProcess) -> None:
    seen: list[Any] = []

    def handler(running: RunningJob) -> None:
        running.log.info("first")
        seen.append(messages(running.row.id, worker))
        running.log.info("second")

    leased = kind(handler)
    job = submit(leased)

    run(leased, worker)

    assert seen == [[(1, "first")]]
    assert messages(job.id, worker) == [(1, "first"), (1, "second")]


def test_of_many_lines_the_first_and_the_last_are_kept(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob) -> None:
        for number in range(1, 101):
            running.log.info("%d", number)

    leased = kind(handler)
    job = submit(leased)

    with with_lines(4):
        run(leased, worker)

    assert [message for _, message in messages(job.id, worker)] == ["1", "2", "99", "100"]
    assert [line.number for line in queries.log_lines(job.id, limit=9)] == [1, 2, 99, 100]


def test_no_line_is_kept_where_none_is_wanted(kind: DeclareKind, worker: WorkerProcess) -> None:
    leased = kind(lambda running: running.log.info("here"))
    job = submit(leased)

    with with_lines(0):
        run(leased, worker)

    assert messages(job.id, worker) == []


def test_whatever_is_logged_can_be_stored_or_is_left_out(kind: DeclareKind, worker: WorkerProcess) -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def handler(running: RunningJob) -> str:
        running.log.info("nul \x00, half a pair \ud800")
        running.log.info("x" * 10 * MAX_LINE_CHARACTERS)
        logging.raiseExceptions = False
        running.log.info("%s", Mute())
        return "done"

    leased = kind(handler)
    job = submit(leased)

    run(leased, worker)

    logging.raiseExceptions = True
    assert messages(job.id, worker) == [(1, "nul �, half a pair ?"), (1, "x" * MAX_LINE_CHARACTERS)]
    assert Job.objects.get(id=job.id).result == "done"


def test_an_attempt_completes_although_its_lines_cannot_be_written(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased = kind(lambda running: running.log.info("here"))
    job = submit(leased)

    with monkeypatch.context() as broken:
        broken.setattr(worker.logs, "_insert", lambda rows: (_ for _ in ()).throw(_away()))
        run(leased, worker)
        with pytest.raises(OperationalError):
            worker.write_logs()

    assert Job.objects.get(id=job.id).status == "COMPLETED"
    assert messages(job.id, worker) == [(1, "here")]


def _away() -> OperationalError:
    error = OperationalError("away")
    error.__cause__ = psycopg2.OperationalError("away")
    return error


def test_a_job_that_logs_nothing_writes_nothing(kind: DeclareKind, worker: WorkerProcess) -> None:
    leased = kind()
    submit(leased)

    run(leased, worker)
    worker.write_logs()

    assert not AttemptLog.objects.exists()


def test_what_other_code_logs_is_kept_with_no_job(caplog: pytest.LogCaptureFixture) -> None:
    handler = KeepLines()

    handler.handle(logging.makeLogRecord({"msg": "nobody's"}))  # It only must not fail.


def test_the_place_in_the_code_is_the_callers(
    kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    leased = kind(lambda running: running.log.warning("here"))
    submit(leased)

    run(leased, worker)

    [record] = [each for each in caplog.records if each.name == leased.name]
    assert record.pathname == __file__


def test_lines_are_pruned_with_their_job(kind: DeclareKind, worker: WorkerProcess) -> None:
    leased = kind(lambda running: running.log.info("here"), keep_days=1)
    submit(leased)
    run(leased, worker)
    worker.write_logs()
    assert AttemptLog.objects.count() == 1
    Job.objects.update(finished_at=Now() - timedelta(days=2))

    retention.prune()

    assert not Job.objects.exists()
    assert not AttemptLog.objects.exists()
