"""What a kind declares for its failures is called once, in the transaction that ends the job or the attempt."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import msgspec
import psycopg2
import pytest
from django.contrib.auth.models import Group, User
from django.db import InterfaceError, OperationalError, connection, transaction

from orchestrator import kinds, submission
from orchestrator.async_running import AsyncRunningJob
from orchestrator.attempt import callbacks
from orchestrator.ended import EndedJob
from orchestrator.kind_problems import BadPayload
from orchestrator.kinds import Child, Kind
from orchestrator.models import Attempt, Job
from orchestrator.queue import endings, pipelines
from orchestrator.queue.endings import Ended
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import RunningJob
from orchestrator.submission import cancel, submit
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.kinds.mischief import HARMFUL, HARMLESS
from tests.moves import put
from tests.orchestrator.attempt.test_sessions import session
from tests.orchestrator.workbench import (
    LONG_OVERDUE,
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    end_own_connection,
    fail,
    lease,
    make_due,
    pipeline,
    raise_sqlstate,
    record_in_flight,
    run,
    threads,
    write,
    written,
)

EXECUTIONS = ("leased", "transactional")
BOTH = pytest.mark.parametrize("execution", EXECUTIONS)

# What changes the whole process is nothing that this test should do.
OF_THE_PROCESS = {"a child's environment", "no time for sockets", "no warnings", "no log"}
# These need a running job.
OF_A_RUNNING_JOB = {"odd progress", "an odd log"}
# It writes the row as it is anyway.
AS_IT_IS = {"end its own row"}
# What was written before it is kept, since PostgreSQL was told so.
COMMITS = {"COMMIT behind a semicolon"}


class Order(msgspec.Struct):
    number: int
    price: Decimal = Decimal(0)


class Calls(list[tuple[EndedJob[Any], str]]):
    """A function for failures that keeps what it was called with, and writes the error."""

    def __call__(self, job: EndedJob[Any], error: str) -> None:
        self.append((job, error))
        write(f"{job.id} {job.status} {job.outcome} {job.attempt}")

    @property
    def told(self) -> list[tuple[str, str, str, int]]:
        return [(job.status, error, job.outcome, job.attempt) for job, error in self]

    def names(self) -> list[str]:
        return [job.name for job, _ in self]


@pytest.fixture
def failures() -> Calls:
    return Calls()


@pytest.fixture
def retries() -> Calls:
    return Calls()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks have little time."""
    monkeypatch.setattr(callbacks, "LIMIT_SECONDS", 0.3)
    monkeypatch.setattr(callbacks, "MARGIN_SECONDS", 0.3)


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """Lets what hangs go on; at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged of callbacks."""
    caplog.set_level(logging.ERROR)
    return lambda: [record.getMessage() for record in caplog.records if record.name == callbacks.__name__]


def raises(job: RunningJob, payload: Any = None) -> None:
    raise LookupError("no such user")


def run_all(kind: Kind, worker: WorkerProcess) -> None:
    while run(kind, worker):
        make_due(*Job.objects.filter(status="CREATED"))
        tick.make_due_ready()


@BOTH
def test_it_is_told_of_the_attempts_and_of_the_end(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls, retries: Calls, execution: Any
) -> None:
    failing = kind(raises, max_attempts=3, execution=execution, on_failure=failures, on_retry=retries, payload=Order)
    job = submit(failing, {"number": 4}, owner="ada")

    run_all(failing, worker)

    error = "LookupError: no such user"
    assert retries.told == [("CREATED", error, "RAISED", 1), ("CREATED", error, "RAISED", 2)]
    assert failures.told == [("FAILED", error, "RAISED", 3)]
    [[ended, _]] = failures
    assert (ended.id, ended.kind, ended.owner) == (str(job.id), failing.name, "ada")
    assert (ended.max_attempts, ended.name, ended.parent_id) == (3, "", None)
    assert isinstance(ended.exception, LookupError)
    assert len(written()) == 3


@pytest.mark.parametrize("writes", [False, True])
def test_it_is_told_of_async_handlers_likewise(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls, retries: Calls, writes: bool
) -> None:
    async def fails(job: AsyncRunningJob) -> None:
        if writes:
            await Group.objects.acreate(name="not kept")
        raise LookupError("no such user")

    failing = kind(fails, queue="io", max_attempts=2, backoff_seconds=0, on_failure=failures, on_retry=retries)
    submit(failing)

    run_all(failing, worker)

    assert retries.told == [("CREATED", "LookupError: no such user", "RAISED", 1)]
    assert failures.told == [("FAILED", "LookupError: no such user", "RAISED", 2)]
    assert "not kept" not in written()


@BOTH
def test_nothing_is_called_for_a_job_that_completes(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls, retries: Calls, execution: Any
) -> None:
    job = submit(good := kind(on_failure=failures, on_retry=retries, execution=execution))

    run(good, worker)

    assert again(job).status == "COMPLETED"
    assert (failures, retries) == ([], [])


def test_the_payload_is_typed_and_as_exact_as_the_handlers(kind: DeclareKind, worker: WorkerProcess) -> None:
    seen: list[Order] = []
    price = Decimal("0.1000000000000000055511151231257827")
    failing = kind(raises, max_attempts=1, payload=Order, on_failure=lambda job, error: seen.append(job.payload))
    submit(failing, Order(4, price))

    run(failing, worker)

    assert seen == [Order(4, price)]


def test_a_payload_that_no_longer_matches_is_told_only_to_who_reads_it(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def reads(job: EndedJob[Order], error: str) -> None:
        with pytest.raises(BadPayload):
            job.payload  # noqa: B018
        write(error.partition(":")[0])

    failing = kind(lambda job, payload: None, max_attempts=1, payload=Order, on_failure=reads)
    job = submit(failing, Order(4))
    Job.objects.filter(id=job.id).update(payload={"number": "four"})

    run(failing, worker)

    assert written() == {"BadPayload"}


@BOTH
def test_what_it_submits_is_kept_and_rung_for(
    kind: DeclareKind, worker: WorkerProcess, rung: list[str], execution: Any
) -> None:
    other = kind()
    failing = kind(
        raises, max_attempts=1, execution=execution, on_failure=lambda job, error: submit(other, {"of": job.id})
    )
    job = submit(failing)
    rung.clear()

    run(failing, worker)

    assert Job.objects.get(kind=other.name).payload == {"of": str(job.id)}
    assert other.name in rung


def test_what_it_wrote_is_kept_only_with_the_end_of_the_job(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(failing := kind(raises, max_attempts=1, on_failure=failures))
    job = lease(failing, worker)
    with monkeypatch.context() as crash:
        crash.setattr(endings, "attempt_ending", end_own_connection)
        with pytest.raises(OperationalError):
            fail(job)
    assert (again(job).status, written()) == ("RUNNING", set())

    fail(job)

    assert again(job).status == "FAILED"
    assert len(written()) == 1
    assert len(failures) == 2


@pytest.mark.parametrize("presumed", [False, True])
def test_it_is_called_for_a_job_whose_worker_has_died(
    kind: DeclareKind, make_worker: MakeWorker, failures: Calls, retries: Calls, presumed: bool
) -> None:
    dying = kind(max_attempts=2, backoff_seconds=0, on_failure=failures, on_retry=retries)
    submit(dying)

    for name in ("first@here", "second@here"):
        worker = make_worker(name)
        lease(dying, worker)
        declare_dead(worker.row_id, presumed=presumed)
        take_back_from_ended()

    if presumed:
        assert [outcome for _, _, outcome, _ in retries.told] == ["UNAVAILABLE", "UNAVAILABLE"]
    else:
        died = "Its worker died while it ran."
        assert retries.told == [("CREATED", died, "LOST", 1)]
        assert failures.told == [("FAILED", died, "LOST", 2)]
        assert failures[0][0].exception is None


def test_it_is_called_for_a_job_of_a_batch_whose_worker_has_died(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls
) -> None:
    dying = kind(max_attempts=1, execution="transactional", on_failure=failures)
    record_in_flight(worker, submit(dying))

    declare_dead(worker.row_id)
    take_back_from_ended()

    assert failures.told == [("FAILED", "Its worker died while it ran.", "LOST", 1)]


def test_it_is_called_for_a_job_that_took_too_long(kind: DeclareKind, worker: WorkerProcess, failures: Calls) -> None:
    submit(slow := kind(max_attempts=1, on_failure=failures))
    job = lease(slow, worker)
    Job.objects.filter(id=job.id).update(deadline_at=again(job).started_at - LONG_OVERDUE)  # type: ignore[operator]

    tick.end_overdue_attempts()

    assert failures.told == [("FAILED", "It took longer than its kind's timeout.", "TIMED_OUT", 1)]


def test_an_interrupted_attempt_is_told_of_as_one_that_is_followed_by_another(
    kind: DeclareKind, worker: WorkerProcess, retries: Calls, failures: Calls
) -> None:
    submit(interrupted := kind(max_attempts=1, on_failure=failures, on_retry=retries))
    job = lease(interrupted, worker)

    endings.end_attempt(job, Ended(Attempt.Outcome.INTERRUPTED, error="The worker was shut down."))

    assert retries.told == [("CREATED", "The worker was shut down.", "INTERRUPTED", 1)]
    assert failures == []


def test_it_is_called_for_a_job_that_is_cancelled_before_it_starts(
    kind: DeclareKind, transactional_db: None, failures: Calls
) -> None:
    job = submit(kind(on_failure=failures))

    cancel(job.id)
    cancel(job.id)

    assert failures.told == [("CANCELLED", "It was cancelled.", "", 0)]


@pytest.mark.parametrize("on_cancel", ["rollback", "keep"])
def test_it_is_called_for_a_job_that_is_cancelled_while_it_runs(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls, retries: Calls, on_cancel: Any
) -> None:
    def is_cancelled(job: RunningJob) -> None:
        write("by the handler")
        with threads(1) as call:
            call(cancel, job.row.id).result(PATIENCE_SECONDS)
        worker.heartbeat.beat()
        job.check()

    submit(running := kind(is_cancelled, on_cancel=on_cancel, on_failure=failures, on_retry=retries))

    run(running, worker)

    assert failures.told == [("CANCELLED", "It was cancelled.", "", 1)]
    assert retries == []
    assert ("by the handler" in written()) == (on_cancel == "keep")


def test_a_pipeline_that_is_cancelled_is_told_of_with_each_of_its_children(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls
) -> None:
    step, last = kind(on_failure=failures), kind(on_failure=failures)
    parent, _ = pipeline(last, step, {"a": (), "b": (), "c": ("a",)})

    cancel(parent.id)

    assert failures.names() == ["a", "b", "c", ""]
    assert {told[:2] for told in failures.told} == {("CANCELLED", "It was cancelled.")}
    assert again(parent).status == "CANCELLED"


def test_a_pipeline_whose_child_failed_is_told_of_with_its_name(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls
) -> None:
    step, last = kind(max_attempts=1, on_failure=failures), kind(on_failure=failures)
    parent, _ = pipeline(last, step, {"a": (), "b": ("a",)})

    fail(lease(step, worker))

    assert failures.told == [
        ("FAILED", "ValueError: no", "RAISED", 1),
        ("CANCELLED", "It was cancelled.", "", 0),
        ("FAILED", "The child 'a' failed: ValueError: no", "", 0),
    ]
    assert [job.parent_id for job, _ in failures] == [str(parent.id), str(parent.id), None]


def test_many_children_are_told_of_a_few_at_a_time(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "FOLLOWED_UP_AT_ONCE", 2)
    monkeypatch.setattr(pipelines, "UNWIND_SECONDS", 0)
    step, last, plain = kind(on_failure=failures), kind(on_failure=failures), kind()
    children = [Child(name=name, kind=step.name) for name in "abcde"] + [Child(name="plain", kind=plain.name)]
    parent = submit(last, children=children)

    cancel(parent.id)
    first = failures.names()
    for _ in range(3):
        tick.unwind_pipelines()

    assert first == ["a", "b"]
    assert failures.names() == ["a", "b", "c", "d", "e", ""]
    assert set(Job.objects.values_list("status", flat=True)) == {"CANCELLED"}


def test_many_children_are_told_of_at_once_if_that_takes_no_time(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "FOLLOWED_UP_AT_ONCE", 2)
    parent, _ = pipeline(kind(on_failure=failures), kind(on_failure=failures), dict.fromkeys("abcde", ()))

    cancel(parent.id)

    assert failures.names() == ["a", "b", "c", "d", "e", ""]


def test_it_is_called_again_when_a_job_that_was_retried_fails_again(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls
) -> None:
    failing = kind(raises, max_attempts=1, on_failure=failures)
    job = submit(failing)
    run(failing, worker)

    submission.retry(job.id)
    run(failing, worker)

    assert [told[3] for told in failures.told] == [1, 2]


@pytest.mark.slow
@BOTH
def test_a_callback_that_fails_in_whatever_way_changes_nothing(
    kind: DeclareKind, worker: WorkerProcess, errors: Callable[[], list[str]], execution: Any
) -> None:
    def handler(job: RunningJob, payload: str) -> None:
        if payload:
            raise LookupError(payload)

    def misbehaves(job: EndedJob[str], error: str) -> None:
        write(f"after {job.payload}")
        HARMFUL[job.payload](job)  # type: ignore[arg-type]

    declared = kind(handler, payload=str, max_attempts=1, execution=execution, on_failure=misbehaves)
    clean = session()

    for act in HARMFUL.keys() - AS_IT_IS:
        first, failed, last = [submit(declared, payload) for payload in ("", act, "")]
        run_all(declared, worker)

        assert [again(job).status for job in (first, failed, last)] == ["COMPLETED", "FAILED", "COMPLETED"], act
        assert (again(failed).error, again(failed).attempt) == (f"LookupError: {act}", 1)
        assert [attempt.error for attempt in failed.attempts.all()] == [f"LookupError: {act}"]
        assert f"on_failure of {failed} failed" in errors()[-1], act
        assert session() == clean, act
    assert written() == {f"after {act}" for act in COMMITS}


@BOTH
def test_what_a_callback_sets_ends_with_it(kind: DeclareKind, worker: WorkerProcess, execution: Any) -> None:
    def sets(job: EndedJob[str], error: str) -> None:
        write(f"before {job.payload}")
        HARMLESS[job.payload](job)  # type: ignore[arg-type]

    failing = kind(raises, payload=str, max_attempts=1, execution=execution, on_failure=sets)
    acts = HARMLESS.keys() - OF_THE_PROCESS - OF_A_RUNNING_JOB
    clean = session()

    for act in acts:
        submit(failing, act)
        run(failing, worker)
        assert session() == clean, act

    assert written() == {f"before {act}" for act in acts}


def test_the_row_of_the_job_is_not_the_callbacks_to_write(
    kind: DeclareKind, worker: WorkerProcess, errors: Callable[[], list[str]]
) -> None:
    failing = kind(raises, max_attempts=1, on_failure=lambda job, error: submission.retry(again_id(job)))
    job = submit(failing)

    run(failing, worker)

    assert again(job).status == "FAILED"
    assert "RowChanged: It deleted or changed the row of its own job" in errors()[0]


def again_id(job: EndedJob[Any]) -> Any:
    return Job.objects.get(id=job.id).id


def test_a_callback_may_cancel_a_job_that_would_be_tried_again(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls, errors: Callable[[], list[str]]
) -> None:
    failing = kind(raises, max_attempts=3, on_failure=failures, on_retry=lambda job, error: cancel(again_id(job)))
    job = submit(failing)

    run_all(failing, worker)

    assert (again(job).status, again(job).attempt) == ("CANCELLED", 1)
    assert failures.told == [("CANCELLED", "It was cancelled.", "", 1)]
    assert errors() == []


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_callback_that_hangs_is_left_behind(
    kind: DeclareKind,
    worker: WorkerProcess,
    hanging: threading.Event,
    errors: Callable[[], list[str]],
    short: None,
    execution: Any,
) -> None:
    calls: list[str] = []
    outcome: list[BaseException] = []
    ended = threading.Event()

    def hangs(job: EndedJob[Any], error: str) -> None:
        calls.append(job.id)
        write("before")
        hanging.wait(PATIENCE_SECONDS)
        try:
            write("after")
        except BaseException as failure:
            outcome.append(failure)
        finally:
            ended.set()

    failing = kind(raises, max_attempts=1, execution=execution, on_failure=hangs)
    jobs = [submit(failing) for _ in range(2)]

    run_all(failing, worker)
    hanging.set()

    assert ended.wait(PATIENCE_SECONDS)
    assert sorted(calls) == [str(job.id) for job in jobs]
    assert [again(job).status for job in jobs] == ["FAILED", "FAILED"]
    assert {again(job).error for job in jobs} == {"LookupError: no such user"}
    assert written() == set()
    assert "hanging.wait(PATIENCE_SECONDS)" in errors()[0]
    assert isinstance(outcome[0], InterfaceError)


def test_a_job_is_cancelled_although_what_follows_hangs(
    kind: DeclareKind, transactional_db: None, hanging: threading.Event, short: None
) -> None:
    def hangs(job: EndedJob[Any], error: str) -> None:
        hanging.wait(PATIENCE_SECONDS)

    job = submit(kind(on_failure=hangs))
    parent, children = pipeline(kind(on_failure=hangs), kind(), {"a": ()})

    cancel(job.id)
    cancel(parent.id)

    assert {again(each).status for each in (job, parent, children["a"])} == {"CANCELLED"}


def test_a_pipeline_fails_although_what_follows_hangs(
    kind: DeclareKind, worker: WorkerProcess, hanging: threading.Event, short: None
) -> None:
    def hangs(job: EndedJob[Any], error: str) -> None:
        hanging.wait(PATIENCE_SECONDS)

    step = kind(max_attempts=1)
    parent, _ = pipeline(kind(on_failure=hangs), step, {"a": ()})

    fail(lease(step, worker))

    assert again(parent).status == "FAILED"


def test_a_statement_that_hangs_fails_the_callback_alone(
    kind: DeclareKind, worker: WorkerProcess, errors: Callable[[], list[str]], short: None
) -> None:
    def waits(job: EndedJob[Any], error: str) -> None:
        write("before")
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")

    job = submit(failing := kind(raises, max_attempts=1, on_failure=waits))

    run(failing, worker)

    assert again(job).status == "FAILED"
    assert written() == set()
    assert len(errors()) == 1


@pytest.mark.parametrize(("times", "kept"), [(2, {"3"}), (99, set())])
def test_a_callback_that_meets_a_deadlock_is_called_a_few_times(
    kind: DeclareKind, worker: WorkerProcess, times: int, kept: set[str]
) -> None:
    calls: list[str] = []

    def conflicts(job: EndedJob[Any], error: str) -> None:
        calls.append(error)
        write(str(len(calls)))
        if len(calls) <= times:
            raise_sqlstate("40P01")

    job = submit(failing := kind(raises, max_attempts=1, on_failure=conflicts))

    run(failing, worker)

    assert again(job).status == "FAILED"
    assert written() == kept
    assert len(calls) == callbacks.MAX_TRIES


def test_a_callback_that_waits_for_a_database_that_does_not_answer_is_called_again(
    kind: DeclareKind, worker: WorkerProcess, short: None
) -> None:
    calls: list[str] = []

    def waits(job: EndedJob[Any], error: str) -> None:
        calls.append(error)
        write(str(len(calls)))
        if len(calls) == 1:
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL statement_timeout = 0; SELECT pg_sleep(2)")

    job = submit(failing := kind(raises, max_attempts=1, on_failure=waits))

    run(failing, worker)

    assert again(job).status == "FAILED"
    assert written() == {"2"}


def test_a_lock_that_a_callback_has_left_before_it_failed_is_released(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def locks(job: EndedJob[Any], error: str) -> None:
        HARMLESS["an advisory lock"](job)  # type: ignore[arg-type]
        raise LookupError

    submit(failing := kind(raises, max_attempts=1, on_failure=locks))
    clean = session()

    run(failing, worker)

    assert session() == clean


def test_what_hangs_in_one_tick_is_left_out_by_the_next(
    kind: DeclareKind, make_worker: MakeWorker, hanging: threading.Event, short: None
) -> None:
    dying = kind(max_attempts=1, on_failure=lambda job, error: hanging.wait(PATIENCE_SECONDS))
    plain = kind(max_attempts=1)
    jobs = [submit(each) for each in (dying, plain)]
    worker = make_worker()
    for each in (dying, plain):
        lease(each, worker)
    Job.objects.update(runs_alone=True)
    declare_dead(worker.row_id)

    tick.run_parts()
    tick.run_parts()

    assert [again(job).status for job in jobs] == ["FAILED", "FAILED"]


@pytest.mark.parametrize(("times", "kept"), [(1, {"2"}), (99, set())])
def test_a_callback_that_loses_the_connection_is_called_a_few_times(
    kind: DeclareKind, worker: WorkerProcess, times: int, kept: set[str]
) -> None:
    calls: list[str] = []

    def loses(job: EndedJob[Any], error: str) -> None:
        calls.append(error)
        write(str(len(calls)))
        if len(calls) <= times:
            end_own_connection()

    job = submit(failing := kind(raises, max_attempts=1, on_failure=loses))

    run(failing, worker)

    assert again(job).status == "FAILED"
    assert written() == kept
    assert len(calls) == min(times + 1, callbacks.MAX_TRIES)


def test_a_callback_that_commits_all_the_same_leaves_nothing_half_done(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    step = kind(raises, max_attempts=1, on_failure=lambda job, error: connection.connection.commit())
    parent, children = pipeline(kind(), step, {"a": (), "b": ("a",)})

    run(step, worker)
    tick.unwind_pipelines()

    assert (again(children["a"]).status, again(children["b"]).status) == ("FAILED", "CANCELLED")
    assert again(children["a"]).attempts.count() == 1
    assert again(parent).status == "FAILED"


def test_its_hooks_run_after_the_commit_and_change_nothing_when_they_fail(
    kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def hooks(job: EndedJob[Any], error: str) -> None:
        transaction.on_commit(lambda: seen.append(Job.objects.get(id=job.id).status))
        transaction.on_commit(lambda: [][0])
        with suppress(ValueError), transaction.atomic():
            transaction.on_commit(lambda: seen.append("rolled back"))
            raise ValueError

    job = submit(failing := kind(raises, max_attempts=1, on_failure=hooks))

    run(failing, worker)

    assert seen == ["FAILED"]
    assert f"An on_commit hook of on_failure of {job} failed" in caplog.text


def test_the_hooks_of_a_callback_that_fails_do_not_run(kind: DeclareKind, worker: WorkerProcess) -> None:
    seen: list[str] = []

    def hooks(job: EndedJob[Any], error: str) -> None:
        transaction.on_commit(lambda: seen.append(error))
        raise LookupError

    submit(failing := kind(raises, max_attempts=1, on_failure=hooks))

    run(failing, worker)

    assert seen == []


def test_a_hook_that_hangs_is_left_behind(
    kind: DeclareKind, worker: WorkerProcess, hanging: threading.Event, errors: Callable[[], list[str]], short: None
) -> None:
    failing = kind(
        raises, max_attempts=1, on_failure=lambda job, error: transaction.on_commit(lambda: hanging.wait(60) and None)
    )
    job = submit(failing)

    run(failing, worker)

    assert again(job).status == "FAILED"
    assert "hangs" in errors()[0]


@BOTH
def test_a_handler_that_cancels_another_job_keeps_its_session(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls, execution: Any
) -> None:
    other = submit(kind(on_failure=failures))

    def cancels(job: RunningJob) -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = '7s'")
        cancel(other.id)
        write("by the handler")
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            return [cursor.fetchone()[0]]

    job = submit(cancelling := kind(cancels, execution=execution))

    run(cancelling, worker)

    assert again(job).result == ["7s"]
    assert (again(other).status, len(failures)) == ("CANCELLED", 1)
    assert "by the handler" in written()


@BOTH
def test_a_handler_whose_cancellation_is_rolled_back_has_called_in_vain(
    kind: DeclareKind, worker: WorkerProcess, failures: Calls, execution: Any
) -> None:
    other = submit(kind(on_failure=failures))

    def cancels(job: RunningJob) -> None:
        cancel(other.id)
        raise LookupError

    submit(cancelling := kind(cancels, execution=execution, max_attempts=1))

    run(cancelling, worker)

    assert again(other).status == "CREATED"
    assert written() == set()


def test_a_process_that_does_not_know_the_kind_says_what_it_did_not_call(
    transactional_db: None, kind: DeclareKind, caplog: pytest.LogCaptureFixture
) -> None:
    job = submit(kind())
    put(Job.objects.filter(id=job.id), kind="next.release")

    cancel(job.id)

    assert again(job).status == "CANCELLED"
    assert f"next.release {job.id} is CANCELLED now. Its kind is not known in this process" in caplog.text


def test_it_runs_where_the_caller_has_a_transaction_of_a_test(kind: DeclareKind, db: None, failures: Calls) -> None:
    job = submit(kind(on_failure=failures))

    cancel(job.id)

    assert len(written()) == 1


def test_it_cannot_be_mistaken_for_another_connection(kind: DeclareKind, db: None) -> None:
    def looks(job: EndedJob[Any], error: str) -> None:
        assert Job.objects.get(id=job.id).status == "CANCELLED"
        User.objects.create_user("by the callback")

    cancel(submit(kind(on_failure=looks)).id)

    assert User.objects.filter(username="by the callback").exists()
    assert isinstance(connection.connection, psycopg2.extensions.connection)


async def awaits(job: Any, error: str) -> None: ...


def yields(job: Any, error: str) -> Iterator[None]:
    yield


@pytest.mark.parametrize("option", ["on_failure", "on_retry"])
@pytest.mark.parametrize("function", ["tell", awaits, yields, lambda job: None, lambda job, error, more: None])
def test_what_could_not_be_called_is_refused(option: str, function: Any) -> None:
    with pytest.raises(ValueError, match=rf"The kind 'test.refused' needs a function f\(job, error\) as {option}"):
        kinds.job("test.refused", **{option: function})(raises)


@pytest.mark.parametrize("function", [print, Calls(), lambda job, error, more=None: None, lambda *all: None])
def test_what_can_be_called_is_taken(kind: DeclareKind, function: Any) -> None:
    assert kind(on_failure=function).on_failure is function
