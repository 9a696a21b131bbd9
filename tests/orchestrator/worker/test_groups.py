"""Groups of leased jobs: claimed by one statement, run in turn, and completed by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from orchestrator import submission
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.queue import endings, kind_limits, transitions
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import RunningJob
from orchestrator.submission import submit, submit_many
from orchestrator.worker import groups
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import (
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    pipeline,
    run,
    threads,
    write,
    written,
)


def known_to_be_short(kind: Kind, worker: WorkerProcess) -> Kind:
    """As if the process had run many of its jobs, so that it claims as many at once as it may."""
    for _ in range(64):
        worker.pace.measured(kind.name, 0)
    return kind


def submitted(kind: Kind, count: int) -> list[Job]:
    """So many jobs, in the order in which they are to run."""
    submit_many(kind, [{"n": n} for n in range(count)])
    return list(Job.objects.filter(kind=kind.name, parent=None).order_by("rank", "id"))


def states(jobs: Sequence[Job]) -> list[tuple[str, int]]:
    return [(now.status, now.attempt) for now in map(again, jobs)]


def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    with threads(1) as call:
        return call(function, *args).result(PATIENCE_SECONDS)


class Blocking:
    """A handler of which the job with that number waits until it is released."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.waits, self.released = threading.Event(), threading.Event()
        self.ran: list[int] = []

    def __call__(self, running: RunningJob, payload: dict[str, int]) -> int:
        self.ran.append(payload["n"])
        if payload["n"] == self.number:
            self.waits.set()
            assert self.released.wait(PATIENCE_SECONDS)
        return payload["n"]

    def handler(self) -> Callable[[RunningJob, dict[str, int]], int]:
        def call(running: RunningJob, payload: dict[str, int]) -> int:
            return self(running, payload)

        return call


@pytest.fixture(autouse=True)
def in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No group takes longer than it should, however busy the machine is."""
    monkeypatch.setattr(groups, "WAIT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(groups, "GATHER_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def late(in_time: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every group takes longer than it should."""
    monkeypatch.setattr(groups, "WAIT_SECONDS", 0)


def sent(statements: CaptureQueriesContext) -> list[str]:
    """The statements without the beginnings and ends of transactions, which Django notes even if they are empty, and
    without what a process reads only now and then.
    """
    now_and_then = (
        'SELECT MAX("orchestrator_notification"',
        'SELECT "orchestrator_notification"',
        kind_limits.READ.strip(),
    )
    asked = [query["sql"] for query in statements.captured_queries]
    return [sql for sql in asked if sql not in ("BEGIN", "COMMIT") and not sql.strip().startswith(now_and_then)]


# Claiming and completing


def test_short_jobs_are_claimed_together_run_in_order_and_completed(kind: DeclareKind, worker: WorkerProcess) -> None:
    ran: list[int] = []
    short = known_to_be_short(kind(lambda running, payload: ran.append(payload["n"])), worker)
    jobs = submitted(short, 10)

    claimed = run(short, worker)

    assert (claimed, ran) == (10, list(range(10)))
    assert states(jobs) == [("COMPLETED", 1)] * 10
    finished = [again(job).finished_at for job in jobs]
    assert finished == sorted(finished, key=str)


def test_a_group_of_jobs_that_use_no_database_takes_five_statements(kind: DeclareKind, worker: WorkerProcess) -> None:
    short = known_to_be_short(kind(lambda running: running.progress(1, 1, "done")), worker)
    jobs = submitted(short, 10)

    with CaptureQueriesContext(connection) as statements:
        run(short, worker)

    # Two for those who have new jobs, the claim, the charge to their owner, and the completion.
    assert len(sent(statements)) == 5
    assert {again(job).progress_message for job in jobs} == {"done"}


def test_a_single_job_takes_five_statements_beside_its_own(kind: DeclareKind, worker: WorkerProcess) -> None:
    def ask(running: RunningJob) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    silent, asking = kind(), kind(ask)
    submit(silent), submit(asking)

    with CaptureQueriesContext(connection) as of_silent:
        run(silent, worker)
    with CaptureQueriesContext(connection) as of_asking:
        run(asking, worker)

    assert (len(sent(of_silent)), len(sent(of_asking))) == (5, 6)


def test_one_bell_wakes_another_worker_for_all_that_is_left(
    kind: DeclareKind, worker: WorkerProcess, rung: list[str]
) -> None:
    short = known_to_be_short(kind(), worker)
    submitted(short, 70)
    rung.clear()

    run(short, worker)
    rung_for_the_rest = list(rung)
    run(short, worker)

    assert rung_for_the_rest == [short.name]
    assert rung == [short.name], "nothing is left after the second group"


def test_children_are_counted_down_together(kind: DeclareKind, worker: WorkerProcess) -> None:
    step, last = known_to_be_short(kind(), worker), kind(lambda running: sorted(running.inputs))
    parent, _ = pipeline(last, step, {"a": [], "b": [], "c": ["a", "b"]})

    ran = [run(step, worker), run(step, worker), run(last, worker)]

    assert ran == [2, 1, 1]
    assert again(parent).result == ["a", "b", "c"]


def test_a_child_that_is_another_workers_by_now_is_not_counted_down_with_its_group(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    step, last = known_to_be_short(kind(), worker), kind()
    parent, children = pipeline(last, step, {"a": [], "b": []})
    jobs = transitions.claim(step, worker_id=worker.row_id, worker_name="w", at_most=2).jobs
    # As if it had been taken back, claimed again and completed elsewhere.
    elsewhere = {"attempt": 2, "status": "COMPLETED", "worker": None, "deadline_at": None, "result": 1}
    Job.objects.filter(id=children["b"].id).update(**elsewhere, finished_at=Now())

    completed = endings.complete_together(jobs, ["1", "1"])

    assert completed == {children["a"].id}
    assert again(parent).unfinished_dependencies == 1


def test_a_job_whose_row_was_written_meanwhile_is_completed_and_counted_down_with_its_group(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    step, last = known_to_be_short(kind(), worker), kind()
    parent, children = pipeline(last, step, {"a": [], "b": []})
    jobs = transitions.claim(step, worker_id=worker.row_id, worker_name="w", at_most=2).jobs
    # As the heartbeat does, which writes progress.
    Job.objects.filter(id=children["b"].id).update(progress_done=1)

    completed = endings.complete_together(jobs, ['"one"', '"two"'])

    assert completed == {job.id for job in jobs}
    assert {again(job).result for job in children.values()} == {"one", "two"}
    assert (again(parent).unfinished_dependencies, again(parent).ready) == (0, True)


def test_a_job_that_wrote_completes_by_itself_beside_those_that_did_not(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: dict[str, int]) -> int:
        if payload["n"] % 2:
            write(f"row {payload['n']}")
        return payload["n"]

    mixed = known_to_be_short(kind(handler), worker)
    jobs = submitted(mixed, 6)

    run(mixed, worker)

    assert [(again(job).status, again(job).result) for job in jobs] == [("COMPLETED", n) for n in range(6)]
    assert written() == {"row 1", "row 3", "row 5"}


def test_a_job_that_raises_fails_alone_in_its_group(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob, payload: dict[str, int]) -> None:
        if payload["n"] == 2:
            write("not kept")
            raise ValueError("two")

    mixed = known_to_be_short(kind(handler, max_attempts=1), worker)
    jobs = submitted(mixed, 5)

    run(mixed, worker)

    assert [again(job).status for job in jobs] == ["COMPLETED", "COMPLETED", "FAILED", "COMPLETED", "COMPLETED"]
    assert written() == set()


def test_what_a_job_sets_on_its_session_does_not_reach_the_next_of_its_group(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def handler(running: RunningJob, payload: dict[str, int]) -> str:
        if payload["n"] == 1:
            # psycopg2's own connection, which Django sees nothing of.
            with connection.connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = '5s'")
            connection.connection.commit()
            return ""
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            return str(cursor.fetchone()[0])

    setting = known_to_be_short(kind(handler), worker)
    jobs = submitted(setting, 3)

    run(setting, worker)

    assert [again(job).result for job in jobs] == ["0", "", "0"]


def test_the_clock_of_a_jobs_time_limit_begins_with_its_handler(kind: DeclareKind, worker: WorkerProcess) -> None:
    began, ended = [], []

    def handler(running: RunningJob, payload: dict[str, int]) -> None:
        began.append(running.began_at)
        ended.append(time.monotonic())

    short = known_to_be_short(kind(handler), worker)
    submitted(short, 2)

    run(short, worker)

    assert began[1] >= ended[0]


# Handing back what has not started


@pytest.mark.parametrize("reason", ["late", "draining"])
def test_what_waits_behind_a_long_job_or_in_a_draining_process_is_handed_back_uncharged(
    reason: str, kind: DeclareKind, worker: WorkerProcess, rung: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "late":
        monkeypatch.setattr(groups, "WAIT_SECONDS", 0)
    blocking = Blocking()
    turned_long = known_to_be_short(kind(blocking.handler()), worker)
    jobs = submitted(turned_long, 3)
    ranks = [job.rank for job in jobs]

    with threads(1) as call:
        ran = call(run, turned_long, worker)
        assert blocking.waits.wait(PATIENCE_SECONDS)
        if reason == "draining":
            worker.drain()
        rung.clear()
        worker.heartbeat.beat()
        while_it_runs = states(jobs)
        blocking.released.set()
        ran.result(PATIENCE_SECONDS)

    assert while_it_runs == [("RUNNING", 1), ("CREATED", 0), ("CREATED", 0)]
    assert states(jobs) == [("COMPLETED", 1), ("CREATED", 0), ("CREATED", 0)]
    assert blocking.ran == [0]
    assert [(again(job).ready, again(job).max_attempts, again(job).attempts.count()) for job in jobs[1:]] == [
        (True, 3, 0)
    ] * 2
    assert [again(job).rank for job in jobs] == ranks
    assert rung == [turned_long.name]


def test_a_slot_hands_back_the_rest_when_its_jobs_take_longer_than_they_should(
    kind: DeclareKind, worker: WorkerProcess, late: None
) -> None:
    ran: list[int] = []
    slow = known_to_be_short(kind(lambda running, payload: ran.append(payload["n"])), worker)
    jobs = submitted(slow, 3)

    run(slow, worker)

    assert (ran, states(jobs)) == ([0], [("COMPLETED", 1), ("CREATED", 0), ("CREATED", 0)])


def test_a_group_that_is_in_time_is_left_alone_by_the_heartbeat(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: RunningJob, payload: dict[str, int]) -> None:
        if payload["n"] == 0:
            in_thread(worker.groups.release_late)

    short = known_to_be_short(kind(handler), worker)
    jobs = submitted(short, 3)

    run(short, worker)

    assert states(jobs) == [("COMPLETED", 1)] * 3


def test_a_job_that_was_handed_back_runs_at_its_first_attempt_later(
    kind: DeclareKind, worker: WorkerProcess, late: None
) -> None:
    slow = known_to_be_short(kind(lambda running: running.attempt), worker)
    jobs = submitted(slow, 4)

    while run(slow, worker):
        pass

    assert [again(job).result for job in jobs] == [1, 1, 1, 1]


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_job_cancelled_before_its_turn_is_not_started(
    is_noticed: bool, kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    def handler(running: RunningJob, payload: dict[str, int]) -> None:
        ran.append(payload["n"])
        if payload["n"] == 0:
            in_thread(submission.cancel, jobs[1].id)
            if is_noticed:
                in_thread(worker.heartbeat.beat)
            else:
                monkeypatch.setattr(groups, "WAIT_SECONDS", 0)

    short = known_to_be_short(kind(handler), worker)
    jobs = submitted(short, 2)

    run(short, worker)

    assert (ran, [again(job).status for job in jobs]) == ([0], ["COMPLETED", "CANCELLED"])
    assert not again(jobs[1]).attempts.exists()


def test_what_waits_in_a_process_that_lost_its_lease_is_not_started(kind: DeclareKind, worker: WorkerProcess) -> None:
    ran: list[int] = []

    def handler(running: RunningJob, payload: dict[str, int]) -> None:
        ran.append(payload["n"])
        in_thread(declare_dead, worker.row_id)
        in_thread(take_back_from_ended)
        worker.lease.renewed_at = 0
        in_thread(worker.heartbeat.beat)

    short = known_to_be_short(kind(handler, backoff_seconds=0), worker)
    jobs = submitted(short, 3)

    run(short, worker)

    assert (ran, states(jobs)) == ([0], [("CREATED", 1)] * 3)


def test_what_could_not_be_handed_back_is_taken_back_by_the_heartbeat(
    kind: DeclareKind, worker: WorkerProcess, late: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(*_: Any) -> None:
        raise OperationalError("away")

    short = known_to_be_short(kind(), worker)
    jobs = submitted(short, 2)
    with monkeypatch.context() as patch:
        patch.setattr(endings, "hand_back_unstarted", is_away)
        with pytest.raises(OperationalError):
            run(short, worker)

    for _ in range(3):
        worker.heartbeat.beat()

    assert states(jobs) == [("COMPLETED", 1), ("CREATED", 1)]
    assert again(jobs[1]).attempts.get().outcome == "UNAVAILABLE"
    assert worker.running.all() == []


# Completing together


def test_what_has_returned_is_completed_while_a_later_job_of_the_group_runs(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocking = Blocking(number=1)
    turned_long = known_to_be_short(kind(blocking.handler()), worker)
    jobs = submitted(turned_long, 2)

    with threads(1) as call:
        ran = call(run, turned_long, worker)
        assert blocking.waits.wait(PATIENCE_SECONDS)
        monkeypatch.setattr(groups, "WAIT_SECONDS", 0)
        worker.heartbeat.beat()
        while_it_runs = states(jobs)
        blocking.released.set()
        ran.result(PATIENCE_SECONDS)

    assert while_it_runs == [("COMPLETED", 1), ("RUNNING", 1)]
    assert states(jobs) == [("COMPLETED", 1)] * 2
    assert worker.running.all() == []


@pytest.fixture
def refused(transactional_db: None) -> Iterator[Callable[[Job], None]]:
    """Has PostgreSQL refuse to complete a job."""

    def refuse(job: Job) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '22000'; END $$"
            )
            cursor.execute(
                "CREATE TRIGGER refuse BEFORE UPDATE ON orchestrator_job FOR EACH ROW"
                f" WHEN (new.status = 'COMPLETED' AND new.id = '{job.id}') EXECUTE FUNCTION refuse()"
            )

    yield refuse
    with connection.cursor() as cursor:
        cursor.execute("DROP FUNCTION IF EXISTS refuse CASCADE")


def test_a_job_that_cannot_be_completed_fails_alone(
    kind: DeclareKind, worker: WorkerProcess, refused: Callable[[Job], None]
) -> None:
    short = known_to_be_short(kind(max_attempts=1), worker)
    jobs = submitted(short, 3)
    refused(jobs[1])

    run(short, worker)

    assert [again(job).status for job in jobs] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "refused" in again(jobs[1]).error


def test_jobs_whose_connection_is_lost_before_they_are_completed_run_again_uncharged(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    def end_backend(pid: int) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    def handler(running: RunningJob, payload: dict[str, int]) -> int:
        if payload["n"] == 1 and running.attempt == 1:
            in_thread(end_backend, connection.connection.info.backend_pid)
        return running.attempt

    unlucky = known_to_be_short(kind(handler, max_attempts=1, backoff_seconds=0), worker)
    jobs = submitted(unlucky, 2)

    run(unlucky, worker)
    outcomes = [again(job).attempts.get().outcome for job in jobs]
    while run(unlucky, worker):
        pass

    assert outcomes == ["UNAVAILABLE", "UNAVAILABLE"]
    assert [(again(job).status, again(job).result) for job in jobs] == [("COMPLETED", 2)] * 2


def test_a_job_that_was_taken_away_is_not_completed_with_its_group(
    kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(running: RunningJob, payload: dict[str, int]) -> None:
        if payload["n"] == 0:
            in_thread(lambda: Job.objects.filter(id=running.id).update(attempt=5))

    lost = known_to_be_short(kind(handler, backoff_seconds=0), worker)
    jobs = submitted(lost, 2)

    run(lost, worker)

    assert [again(job).status for job in jobs] == ["RUNNING", "COMPLETED"]
    assert "no longer belongs to this worker" in caplog.text


# Dying


def claim_group(kind: Kind, worker: WorkerProcess) -> None:
    assert transitions.claim(kind, worker_id=worker.row_id, worker_name=worker.name, at_most=64).jobs


def test_nobody_of_a_group_is_charged_when_its_process_dies_and_each_runs_alone(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    dying = kind(max_attempts=1, backoff_seconds=0)
    jobs = submitted(dying, 3)
    dead = make_worker("dead@here")
    claim_group(dying, dead)

    declare_dead(dead.row_id)
    take_back_from_ended()
    other = make_worker("other@here")
    known_to_be_short(dying, other)

    assert {(again(job).status, again(job).max_attempts, again(job).runs_alone) for job in jobs} == {
        ("CREATED", 2, True)
    }
    assert [run(dying, other) for _ in jobs] == [1, 1, 1]
    assert {again(job).status for job in jobs} == {"COMPLETED"}


def test_of_a_group_past_its_deadline_when_its_process_ended_nobody_is_charged_the_first_time(
    kind: DeclareKind, make_worker: MakeWorker
) -> None:
    hanging = kind(max_attempts=1, backoff_seconds=0)
    jobs = submitted(hanging, 2)
    for name in ("first@here", "second@here"):
        dead = make_worker(name)
        claim_group(hanging, dead)
        Job.objects.filter(worker=dead.row_id).update(deadline_at=Now() - timedelta(seconds=1))
        declare_dead(dead.row_id)
        take_back_from_ended()

    assert states(jobs) == [("FAILED", 2), ("CREATED", 1)]
    assert [attempt.outcome for attempt in again(jobs[0]).attempts.all()] == ["TIMED_OUT", "TIMED_OUT"]


# What a slot leaves when it fails


def test_the_heartbeat_sees_to_what_a_slot_has_left_once_the_database_is_back(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(*_: Any, **__: Any) -> None:
        raise OperationalError("away")

    def handler(running: RunningJob, payload: dict[str, int]) -> None:
        if payload["n"] == 1:
            raise ValueError("Its end cannot be recorded.")

    short = known_to_be_short(kind(handler, backoff_seconds=0), worker)
    jobs = submitted(short, 4)
    with monkeypatch.context() as away:
        away.setattr(endings, "end_attempt", is_away)
        with pytest.raises(OperationalError):
            run(short, worker)
        away.setattr(connection, "ensure_connection", is_away)
        worker.heartbeat.beat()
    meanwhile = states(jobs)

    worker.heartbeat.beat()
    worker.heartbeat.beat()

    assert meanwhile == [("RUNNING", 1)] * 4
    assert states(jobs) == [("COMPLETED", 1), ("CREATED", 1), ("CREATED", 0), ("CREATED", 0)]
    assert again(jobs[1]).attempts.get().outcome == "UNAVAILABLE"


def test_a_group_whose_completion_keeps_failing_does_not_hold_up_the_others(
    kind: DeclareKind, worker: WorkerProcess, refused: Callable[[Job], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing, fine = Blocking(number=1), Blocking(number=1)
    one, other = (known_to_be_short(kind(each.handler(), max_attempts=1), worker) for each in (refusing, fine))
    refused_jobs, jobs = submitted(one, 3), submitted(other, 3)
    refused(refused_jobs[0])

    with threads(2) as call:
        ran = [call(run, each, worker) for each in (one, other)]
        assert all(each.waits.wait(PATIENCE_SECONDS) for each in (refusing, fine))
        monkeypatch.setattr(groups, "WAIT_SECONDS", 0)
        worker.heartbeat.beat()
        while_they_run = states([*refused_jobs, *jobs])
        for each in (refusing, fine):
            each.released.set()
        for end in ran:
            end.result(PATIENCE_SECONDS)

    assert [state for state, _ in while_they_run[:3]] == ["RUNNING", "RUNNING", "CREATED"]
    assert [state for state, _ in while_they_run[3:]] == ["COMPLETED", "RUNNING", "CREATED"]
    assert [again(job).status for job in refused_jobs] == ["FAILED", "COMPLETED", "CREATED"]
