"""The whole life of jobs against a model of it, in whatever order things happen, on real PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
from django.db import connection
from django.db.models import F
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from orchestrator import submission
from orchestrator.claimed import Claimed
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job, Worker
from orchestrator.queue import endings, recovery, transitions
from orchestrator.queue.endings import Ended
from orchestrator.running import RunningJob
from orchestrator.stops import LeaseLost
from orchestrator.submission import Child, NotCancellable, NotRetryable, submit
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.test_states import LEGAL
from tests.orchestrator.workbench import DeclareKind, MakeWorker, complete, run

# Whether a step is transactional, how many of its attempts fail, and what it comes after.
STEP = st.tuples(st.booleans(), st.integers(0, 2), st.sets(st.integers(0, 4)))

FINAL = ("COMPLETED", "FAILED", "CANCELLED")
# A transactional job passes RUNNING within one statement, so it is seen to go from CREATED to its end.
WITHIN_A_TRANSACTION = {("CREATED", "COMPLETED"), ("CREATED", "FAILED")}

# Keeps every move that any statement makes, also those between two looks of the test.
WATCH = """
CREATE TABLE seen_moves (kind text, before text, after text);
CREATE FUNCTION see_move() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO seen_moves VALUES (new.kind, old.status, new.status); RETURN new; END';
CREATE TRIGGER see_moves AFTER UPDATE ON orchestrator_job
    FOR EACH ROW WHEN (old.status <> new.status) EXECUTE FUNCTION see_move();
"""
LOOK_AWAY = "DROP TRIGGER see_moves ON orchestrator_job; DROP FUNCTION see_move; DROP TABLE seen_moves;"


@dataclass
class Expected:
    """What a job should be."""

    id: UUID
    kind: Kind
    max_attempts: int
    due: bool = True
    parent: Expected | None = None
    waits_for: list[Expected] = field(default_factory=list)
    children: list[Expected] = field(default_factory=list)
    status: str = "CREATED"
    attempt: int = 0
    holder: int | None = None
    asked_to_stop: bool = False
    unwinding: bool = False
    runs_alone: bool = False

    @property
    def unfinished_dependencies(self) -> int:
        return sum(job.status != "COMPLETED" for job in self.waits_for)

    @property
    def could_start(self) -> bool:
        waiting = self.status == "CREATED" or (self.status == "RUNNING" and self.holder is None)
        return waiting and not self.unfinished_dependencies and self.due and not self.unwinding

    def start(self, holder: int) -> None:
        self.status, self.holder, self.attempt = "RUNNING", holder, self.attempt + 1
        self.parent_started()

    def parent_started(self) -> None:
        if self.parent and self.parent.status == "CREATED":
            self.parent.status = "RUNNING"

    def completed(self) -> None:
        self.status, self.holder = "COMPLETED", None
        self.parent_started()

    def ended(self, outcome: str, *, again: bool, later: bool, isolate_next_time: bool = False) -> None:
        self.max_attempts += outcome == "INTERRUPTED" or (isolate_next_time and not self.runs_alone)
        self.runs_alone |= isolate_next_time
        self.holder = None
        if self.asked_to_stop:
            self.status = "CANCELLED"
        elif again and self.attempt < self.max_attempts:
            self.status, self.due = "CREATED", not later
        else:
            self.status = "FAILED"
        self.stopped()

    def stopped(self) -> None:
        if self.parent and self.status in ("FAILED", "CANCELLED"):
            self.parent_started()
            self.parent.unwinding = True

    def unwind(self) -> None:
        if not self.unwinding:
            return
        for child in self.children:
            if child.status == "CREATED":
                child.status = "CANCELLED"
            elif child.status == "RUNNING" and self.asked_to_stop:
                child.asked_to_stop = True
        if all(child.status in FINAL for child in self.children):
            self.status, self.unwinding = ("CANCELLED" if self.asked_to_stop else "FAILED"), False


class Life(RuleBasedStateMachine):
    """Clients, workers and the tick do what they may at any moment; the database must follow the model."""

    leased: ClassVar[Kind]
    batched: ClassVar[Kind]
    process: ClassVar[WorkerProcess]

    def __init__(self) -> None:
        super().__init__()
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE orchestrator_job, seen_moves CASCADE")
        self.jobs: list[Expected] = []
        self.workers = [self.make_worker(), self.make_worker()]
        self.held: list[tuple[Expected, Claimed]] = []
        self.stale: list[Claimed] = []

    def make_worker(self) -> int:
        return Worker.objects.create(name="modelled@there", host="elsewhere", pid=1, process_started="0").id

    def kind(self, batched: bool) -> Kind:
        return self.batched if batched else self.leased

    def find(self, id: UUID) -> Expected:
        return next(job for job in self.jobs if job.id == id)

    def unwind_of(self, *jobs: Expected) -> None:
        for job in jobs:
            if job.parent and job.status in FINAL:
                job.parent.unwind()

    @rule(batched=st.booleans(), max_attempts=st.integers(1, 3), future=st.booleans())
    def submit_one(self, batched: bool, max_attempts: int, future: bool) -> None:
        run_at = timezone.now() + timedelta(minutes=30) if future else None
        row = submit(self.kind(batched), {"fails": 0}, max_attempts=max_attempts, run_at=run_at)
        self.jobs.append(Expected(row.id, self.kind(batched), max_attempts, due=not future))

    @rule(steps=st.lists(STEP, min_size=1, max_size=5), future=st.booleans())
    def submit_pipeline(self, steps: list[tuple[bool, int, set[int]]], future: bool) -> None:
        after = [[n for n in sorted(wanted) if n < position] for position, (_, _, wanted) in enumerate(steps)]
        children = [
            Child(name=str(n), kind=self.kind(batched).name, payload={"fails": fails}, after=list(map(str, after[n])))
            for n, (batched, fails, _) in enumerate(steps)
        ]
        run_at = timezone.now() + timedelta(minutes=30) if future else None
        row = submit(self.leased, children=children, run_at=run_at, max_attempts=2)
        parent = Expected(row.id, self.leased, 2, due=not future)
        for child in Job.objects.filter(parent=row).order_by("id"):
            kind = self.kind(child.kind == self.batched.name)
            waits_for = [parent.children[n] for n in after[int(child.name)]]
            parent.children.append(Expected(child.id, kind, 2, not future, parent, waits_for))
        parent.waits_for = parent.children
        self.jobs += [*parent.children, parent]

    @rule(which=st.integers(0, 1))
    def claim(self, which: int) -> None:
        ready = [job.id for job in self.jobs if job.could_start and job.kind is self.leased]
        first = Job.objects.filter(id__in=ready).order_by("rank", "id").values_list("id", flat=True).first()

        claim = transitions.claim(self.leased, worker_id=self.workers[which], worker_name=f"worker {which}")
        row = next(iter(claim.jobs), None)

        assert (row and row.id) == first
        if row:
            self.find(row.id).start(self.workers[which])
            self.held.append((self.find(row.id), row))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def complete(self, data: Any) -> None:
        job, row = self.let_go(data)
        complete(row, "done")
        job.completed()
        self.unwind_of(job)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), retryable=st.booleans(), interrupted=st.booleans())
    def end_attempt(self, data: Any, retryable: bool, interrupted: bool) -> None:
        job, row = self.let_go(data)
        outcome = Attempt.Outcome.INTERRUPTED if interrupted else Attempt.Outcome.RAISED
        again = retryable or interrupted

        endings.end_attempt(row, Ended(outcome, error="no", retryable=again))

        job.ended(outcome.value, again=again, later=not interrupted)
        self.unwind_of(job)
        if interrupted:
            # Its worker drains and claims nothing more: the next attempt has the same number, but another worker.
            self.workers = [self.make_worker() if worker == row.worker_id else worker for worker in self.workers]

    def let_go(self, data: Any) -> tuple[Expected, Claimed]:
        one: tuple[Expected, Claimed] = data.draw(st.sampled_from(self.held))
        self.held.remove(one)
        self.stale.append(one[1])
        return one

    @rule()
    def run_batch(self) -> None:
        claimed = [job for job in self.jobs if job.could_start and job.kind is self.batched]
        fails = dict(Job.objects.values_list("id", "payload__fails"))
        # Its jobs are locked in order, but what one makes ready is not among them.
        ran = run(self.batched, self.process)
        assert ran == len(claimed)
        for job in claimed:
            if job.attempt < fails[job.id]:
                job.attempt += 1
                job.ended("RAISED", again=True, later=True)
            else:
                job.attempt += 1
                job.completed()
        self.unwind_of(*claimed)

    @rule(which=st.integers(0, 1))
    def lose_a_worker(self, which: int) -> None:
        lost = self.workers[which]
        recovery.declare_dead(lost)
        recovery.take_back_from_ended()

        touched = [(job, row) for job, row in self.held if job.holder == lost]
        self.held = [(job, row) for job, row in self.held if job.holder != lost]
        for job, row in touched:
            self.stale.append(row)
            job.ended("LOST", again=True, later=True, isolate_next_time=len(touched) > 1)
        self.unwind_of(*(job for job, _ in touched))
        self.workers[which] = self.make_worker()

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def finish_what_was_lost(self, data: Any) -> None:
        row = data.draw(st.sampled_from(self.stale))
        with pytest.raises(LeaseLost):
            complete(row, "too late")
        assert endings.end_attempt(row, Ended(Attempt.Outcome.RAISED, error="too late")) is None

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        if job.status in ("COMPLETED", "FAILED"):
            with pytest.raises(NotCancellable):
                submission.cancel(job.id)
            return

        answer = submission.cancel(job.id)

        if job.status != "CANCELLED":
            job.asked_to_stop = True
            if job.holder is None and job.children:
                job.unwinding = True
                job.unwind()
            elif job.holder is None:
                job.status = "CANCELLED"
                job.stopped()
                self.unwind_of(job)
        assert answer.status == job.status

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        if job.parent or job.status not in ("FAILED", "CANCELLED"):
            with pytest.raises(NotRetryable):
                submission.retry(job.id)
            return

        submission.retry(job.id)

        for each in (job, *job.children):
            if each.status != "COMPLETED":
                each.status, each.due, each.asked_to_stop = "CREATED", True, False
                each.max_attempts = max(each.max_attempts, each.attempt + 1)

    @rule()
    def an_hour_passes(self) -> None:
        Job.objects.update(run_at=F("run_at") - timedelta(hours=1), rank=F("rank") - timedelta(hours=1))
        tick.make_due_ready()
        for job in self.jobs:
            job.due = True

    @rule()
    def tick(self) -> None:
        tick.run_parts()
        for job in self.jobs:
            job.unwind()

    @invariant()
    def the_database_is_as_expected(self) -> None:
        rows = Job.objects.in_bulk()
        assert rows.keys() == {job.id for job in self.jobs}, "nothing is lost and nothing is made up"
        for job in self.jobs:
            row = rows[job.id]
            expected = {
                "status": job.status,
                "attempt": job.attempt,
                "max_attempts": job.max_attempts,
                "worker_id": job.holder,
                "unfinished_dependencies": job.unfinished_dependencies,
                "ready": job.could_start,
                "unwinding": job.unwinding,
                "runs_alone": job.runs_alone,
            }
            assert {name: getattr(row, name) for name in expected} == expected

        self.rules_of_life_hold(rows)

    def rules_of_life_hold(self, rows: dict[UUID, Job]) -> None:
        for row in rows.values():
            assert row.attempt <= row.max_attempts
            children = [child for child in rows.values() if child.parent_id == row.id]
            if row.status in FINAL:
                assert all(child.status in FINAL for child in children)
            elif children and all(child.status in FINAL for child in children):
                assert all(child.status == "COMPLETED" for child in children), "only its own step is left"
            assert (row.status == "RUNNING") <= (row.worker_id is not None or bool(children))
            assert row.status != "COMPLETED" or all(child.status == "COMPLETED" for child in children)

    def teardown(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT DISTINCT kind, before, after FROM seen_moves")
            seen = cursor.fetchall()
        for kind, before, after in seen:
            legal = LEGAL | WITHIN_A_TRANSACTION if kind == self.batched.name else LEGAL
            assert (before, after) in legal


def fails_at_first(running: RunningJob, payload: dict[str, int]) -> None:
    """Fails as many attempts as its payload says."""
    if running.attempt <= payload["fails"]:
        raise ValueError(f"attempt {running.attempt}")


def test_jobs_behave_as_the_model_says_whatever_happens(
    kind: DeclareKind, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "retry_delay", lambda within: timedelta(minutes=30))
    Life.leased = kind(max_attempts=2)
    Life.batched = kind(fails_at_first, execution="transactional", payload=dict[str, int], max_attempts=2)
    Life.process = make_worker()
    with connection.cursor() as cursor:
        cursor.execute(WATCH)

    try:
        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=25,
                stateful_step_count=30,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        with connection.cursor() as cursor:
            cursor.execute(LOOK_AWAY)
