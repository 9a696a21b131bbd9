"""What the log tells of jobs, for those who read it and for tools such as Sentry."""

from __future__ import annotations

import decimal
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import sentry_sdk
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.db.models.functions import Now
from django.utils import translation
from pytest_django import Settings
from sentry_sdk.integrations.threading import ThreadingIntegration
from sentry_sdk.transport import Transport

from orchestrator import submission
from orchestrator.logs import ConsoleHandler, LineFormatter
from orchestrator.models import Dependency, Job
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import RunningJob
from orchestrator.submission import submit, submit_many
from orchestrator.telemetry.sentry import start as start_sentry
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, MakeWorker, again, lease, pipeline, run, threads

BOTH = pytest.mark.parametrize("execution", ["leased", "transactional"])
EVENTS = "orchestrator.attempts"
# What would wrap each thread that the tests of this process start later.
LASTING = (ThreadingIntegration,)


class Recorder(Transport):
    """Keeps what would be sent to Sentry."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.events += [event for item in envelope.items if (event := item.get_event())]


@pytest.fixture
def sentry() -> Iterator[list[dict[str, Any]]]:
    """The events that Sentry is sent, with the integrations it takes by itself."""
    recorder = Recorder()
    sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", transport=recorder, disabled_integrations=LASTING)
    yield recorder.events
    sentry_sdk.get_client().close()
    sentry_sdk.init(disabled_integrations=LASTING)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == EVENTS]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@BOTH
@pytest.mark.parametrize("error", [ValueError("no"), Mute(), SystemExit(3)])
def test_each_ended_attempt_is_logged_once_and_each_failed_job_is_one_event(
    error: BaseException, execution: Any, kind: DeclareKind, worker: WorkerProcess,
    caplog: pytest.LogCaptureFixture, sentry: list[dict[str, Any]],
) -> None:  # fmt: skip
    def explode(running: RunningJob, payload: bool) -> None:
        if payload:
            raise error

    failing = kind(explode, payload=bool, execution=execution, max_attempts=3, backoff_seconds=0)
    good, bad = submit(failing, False), submit(failing, True)

    while run(failing, worker):
        pass

    job = again(bad)
    assert (again(good).status, job.status) == ("COMPLETED", "FAILED")
    assert lines(caplog) == [
        ("WARNING", f"{failing.name} {job.id} will be retried after attempt 1, RAISED: {job.error}"),
        ("WARNING", f"{failing.name} {job.id} will be retried after attempt 2, RAISED: {job.error}"),
        ("ERROR", f"{failing.name} {job.id} failed for good at attempt 3, RAISED: {job.error}"),
    ]
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    expected = {"job_id": str(job.id), "kind": failing.name, "attempt": 3, "outcome": "RAISED"}
    assert expected.items() <= vars(record).items()
    assert "in explode" in LineFormatter("%(message)s").format(record)
    [event] = sentry
    assert event["exception"]["values"][-1]["type"] == type(error).__name__
    assert event["extra"]["job_id"] == str(job.id)


def test_a_lost_attempt_is_logged_by_whoever_finds_it(
    kind: DeclareKind, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture, sentry: list[dict[str, Any]]
) -> None:
    waiting = kind(max_attempts=2, backoff_seconds=0)
    job = submit(waiting)

    for name in ("one@here", "two@here"):
        dying = make_worker(name)
        lease(waiting, dying)
        declare_dead(dying.row_id)
        take_back_from_ended()
        take_back_from_ended()

    assert [(level, "LOST" in line) for level, line in lines(caplog)] == [("WARNING", True), ("ERROR", True)]
    assert again(job).status == "FAILED"
    assert len(sentry) == 1


def test_an_attempt_past_its_deadline_is_logged_by_the_tick(
    kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture, sentry: list[dict[str, Any]]
) -> None:
    hanging = kind(max_attempts=1)
    submit(hanging)
    lease(hanging, worker)
    Job.objects.update(deadline_at=Now() - timedelta(hours=1))

    tick.end_overdue_attempts()
    tick.end_overdue_attempts()

    assert [(level, "TIMED_OUT" in line) for level, line in lines(caplog)] == [("ERROR", True)]
    assert len(sentry) == 1


def test_a_cancelled_attempt_is_no_failure(
    kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture, sentry: list[dict[str, Any]]
) -> None:
    def handler(running: RunningJob) -> None:
        with threads(1) as call:
            call(submission.cancel, running.row.id).result()
        worker.heartbeat.beat()
        running.check()

    cancelled = kind(handler)
    submit(cancelled)

    with caplog.at_level(logging.INFO):
        run(cancelled, worker)

    assert [(level, "was cancelled at attempt 1" in line) for level, line in lines(caplog)] == [("INFO", True)]
    assert sentry == []


def test_jobs_that_fail_the_commit_of_a_batch_are_one_event_each(
    kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture, sentry: list[dict[str, Any]]
) -> None:
    def handler(running: RunningJob, payload: bool) -> None:
        if payload:
            Dependency.objects.create(job_id=running.id, depends_on_id="00000000-0000-7000-8000-000000000000")

    batching = kind(handler, payload=bool, execution="transactional", max_attempts=1)
    submit_many(batching, [True, False, True])

    while run(batching, worker):
        pass

    assert [level for level, _ in lines(caplog)] == ["ERROR", "ERROR"]
    assert [event["exception"]["values"][-1]["type"] for event in sentry] == ["IntegrityError"] * 2


def test_a_failed_pipeline_is_an_event_as_its_child_is(
    kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture, sentry: list[dict[str, Any]]
) -> None:
    def explode(running: RunningJob) -> None:
        raise ValueError("no")

    step, last = kind(explode, max_attempts=1), kind()
    parent, _ = pipeline(last, step, {"a": []})

    run(step, worker)

    assert again(parent).status == "FAILED"
    assert [line.partition(" failed")[0] for _, line in lines(caplog)] == [
        f"{step.name} {Job.objects.get(name='a').id}",
        f"{last.name} {parent.id}",
    ]
    assert len(sentry) == 2


def test_a_failure_of_the_database_is_logged_as_one(
    kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(running: RunningJob) -> None:
        raise OperationalError("as the handler says")

    own = kind(handler, max_attempts=1)
    job = submit(own)

    run(own, worker)

    assert again(job).attempts.get().outcome == "RAISED"
    assert [level for level, _ in lines(caplog)] == ["ERROR"]


@pytest.fixture
def sentry_by_setting(settings: Settings) -> Iterator[list[dict[str, Any]]]:
    """The events that Sentry is sent by a process with SENTRY_DSN set."""
    settings.ENV = msgspec.structs.replace(settings.ENV, SENTRY_DSN="http://key@127.0.0.1:1/1")
    recorder = Recorder()
    start_sentry(transport=recorder, disabled_integrations=LASTING)
    yield recorder.events
    sentry_sdk.get_client().close()
    sentry_sdk.init(disabled_integrations=LASTING)


@BOTH
def test_sentry_has_each_failed_job_once_with_tags_and_no_retry(
    execution: Any, kind: DeclareKind, worker: WorkerProcess, sentry_by_setting: list[dict[str, Any]]
) -> None:
    def explode(running: RunningJob, payload: str) -> None:
        if payload:
            raise ValueError("no")

    failing = kind(explode, payload=str, execution=execution, max_attempts=3, backoff_seconds=0)
    secret = uuid4().hex
    submit(failing, "")
    bad = [submit(failing, secret) for _ in range(2)]

    while run(failing, worker):
        pass

    tags = [event["tags"] for event in sentry_by_setting]
    assert sorted(each["job_id"] for each in tags) == sorted(str(job.id) for job in bad)
    assert {(each["kind"], each["attempt"], each["outcome"]) for each in tags} == {(failing.name, "3", "RAISED")}
    assert secret not in str(sentry_by_setting)


def test_without_sentry_dsn_nothing_is_sent() -> None:
    before = sentry_sdk.get_client()

    start_sentry()

    assert sentry_sdk.get_client() is before


def test_a_sentry_dsn_that_is_none_is_refused(settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, SENTRY_DSN="hush")

    with pytest.raises(ImproperlyConfigured, match="SENTRY_DSN is not valid"):
        start_sentry()


@BOTH
def test_what_a_handler_logs_names_its_job(
    execution: Any, kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(running: RunningJob) -> None:
        running.log.info("reading %s", "a.txt", extra={"path": "/a.txt"})

    reading = kind(handler, execution=execution)
    job = submit(reading)

    with caplog.at_level(logging.INFO):
        run(reading, worker)

    [record] = [record for record in caplog.records if record.name == reading.name]
    expected = {"job_id": str(job.id), "attempt": 1, "path": "/a.txt"}
    assert expected.items() <= vars(record).items()
    assert LineFormatter("%(levelname)s %(message)s").format(record) == f"INFO reading a.txt [job {job.id}, attempt 1]"


@BOTH
def test_a_handler_that_silences_the_log_is_still_logged(
    execution: Any, kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(running: RunningJob) -> None:
        logging.disable(logging.CRITICAL)
        raise ValueError("no")

    silencing = kind(handler, execution=execution, max_attempts=1)
    submit(silencing)

    run(silencing, worker)

    assert [level for level, _ in lines(caplog)] == ["ERROR"]


@BOTH
def test_what_a_handler_changes_of_its_process_ends_with_its_job(
    execution: Any, kind: DeclareKind, worker: WorkerProcess, tmp_path: Any
) -> None:
    def handler(running: RunningJob) -> None:
        decimal.getcontext().prec = 3
        os.chdir(tmp_path)
        os.environ["CHANGED"] = "yes"
        os.environ.pop("PATH", None)
        socket.setdefaulttimeout(0.001)
        warnings.simplefilter("error")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.alarm(1_000)
        translation.activate("de")

    def state() -> Any:
        return (
            decimal.getcontext().prec, os.getcwd(), dict(os.environ), socket.getdefaulttimeout(),
            list(warnings.filters), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM),
            translation.get_language(),
        )  # fmt: skip

    changing = kind(handler, execution=execution, max_attempts=1)
    job = submit(changing)
    before = state()

    run(changing, worker)

    assert again(job).status == "COMPLETED"
    assert state() == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] < 500


def test_a_child_that_a_handler_forks_does_not_end_the_job_a_second_time(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob) -> str:
        child = os.fork()
        if child:
            return f"the child ended with {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"
        return "the child"

    forking = kind(handler, max_attempts=1)
    job = submit(forking)

    run(forking, worker)

    assert (again(job).status, again(job).result) == ("COMPLETED", "the child ended with 1")


def test_a_line_is_written_although_the_standard_error_was_closed(capfd: pytest.CaptureFixture[str]) -> None:
    handler = ConsoleHandler(open(2, "w", closefd=False))  # noqa: SIM115
    handler.stream.close()

    handler.emit(logging.makeLogRecord({"msg": "It failed."}))
    handler.flush()

    assert "It failed." in capfd.readouterr().err


def test_a_line_that_cannot_be_written_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = open(2, "w", closefd=False)  # noqa: SIM115
    broken.close()
    monkeypatch.setattr(sys, "stderr", broken)
    handler = ConsoleHandler(open(2, "w", closefd=False))  # noqa: SIM115
    handler.setFormatter(logging.Formatter("%(nothing)s"))

    handler.emit(logging.makeLogRecord({"msg": "It failed."}))
