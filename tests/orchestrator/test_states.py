"""The life of a job: which moves are legal, which the engine makes, and which rows the database refuses."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from orchestrator import states, submission
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job
from orchestrator.queue import endings, transitions
from orchestrator.queue.endings import Ended
from orchestrator.states import Status
from orchestrator.stops import LeaseLost
from orchestrator.submission import NotCancellable, NotRetryable, submit
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, complete, fail, lease

LEGAL = {
    ("CREATED", "RUNNING"),
    ("CREATED", "CANCELLED"),
    ("RUNNING", "COMPLETED"),
    ("RUNNING", "FAILED"),
    ("RUNNING", "CANCELLED"),
    ("RUNNING", "CREATED"),
    ("FAILED", "CREATED"),
    ("CANCELLED", "CREATED"),
}

# What a worker or a client may try on a job in whatever state.
ACTIONS: dict[str, Callable[[Any], Any]] = {
    "complete": complete,
    "cancel": lambda job: submission.cancel(job.id),
    "retry": lambda job: submission.retry(job.id),
    "fail for good": fail,
    "fail for now": lambda job: fail(job, retryable=True),
    "interrupt": lambda job: endings.end_attempt(job, Ended(Attempt.Outcome.INTERRUPTED)),
    "cancel and notice": lambda job: (submission.cancel(job.id), endings.end_attempt(job, Ended(None))),
}
# A claim within a transaction leaves the job CREATED, so the end of an attempt at one is no move that anybody sees.
NEED_AN_ATTEMPT = ("fail for good", "fail for now", "interrupt", "cancel and notice")


def job_in(status: Status, kind: Kind, worker: WorkerProcess) -> Any:
    """A job in that state, as its last worker knew it."""
    job = submit(kind)
    if status is Status.CREATED:
        return job
    if status is Status.CANCELLED:
        return submission.cancel(job.id)
    leased = lease(kind, worker)
    if status is Status.COMPLETED:
        complete(leased)
    if status is Status.FAILED:
        fail(leased)
    return leased


def test_the_legal_moves_are_these() -> None:
    moves = {(str(before), str(after)) for before, after in states.MOVES}

    assert moves == LEGAL


def test_a_final_state_is_left_only_for_another_try() -> None:
    leaving = {move for move in LEGAL if Status(move[0]) in states.FINAL}

    assert leaving == {("FAILED", "CREATED"), ("CANCELLED", "CREATED")}
    assert set(states.FINAL) | set(states.UNFINISHED) == set(Status)


def test_the_diagram_draws_every_move_once() -> None:
    drawn = [line.strip() for line in states.diagram().splitlines()]

    assert sum("-->" in line for line in drawn) == len(LEGAL) + 1 + len(states.FINAL)
    assert all(any(line.startswith(f"{before} --> {after}:") for line in drawn) for before, after in LEGAL)


def test_the_engine_makes_every_legal_move_and_no_other(kind: DeclareKind, worker: WorkerProcess) -> None:
    seen = set()
    for before in Status:
        for action in ("claim", *ACTIONS):
            if before is Status.CREATED and action in NEED_AN_ATTEMPT:
                continue
            waits = kind(max_attempts=2, backoff_seconds=0)
            job = job_in(before, waits, worker)
            with suppress(LeaseLost, NotCancellable, NotRetryable):
                if action == "claim":
                    transitions.claim(waits, worker_id=worker.row_id, worker_name="")
                else:
                    ACTIONS[action](job)
            seen.add((before.value, again(job).status))

    assert {(before, after) for before, after in seen if before != after} == LEGAL


@pytest.mark.parametrize("status", [Status.CREATED, Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_completing_a_job_that_does_not_run_is_refused(
    status: Status, kind: DeclareKind, worker: WorkerProcess
) -> None:
    job = job_in(status, kind(max_attempts=1), worker)
    before = again(job)

    with pytest.raises(LeaseLost):
        complete(job)

    assert again(job).updated_at == before.updated_at


@pytest.mark.parametrize("status", [Status.CREATED, Status.RUNNING, Status.COMPLETED])
def test_only_failed_and_cancelled_jobs_are_retried(status: Status, kind: DeclareKind, worker: WorkerProcess) -> None:
    job = job_in(status, kind(), worker)

    with pytest.raises(NotRetryable):
        submission.retry(job.id)

    assert again(job).status == status


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_what_ended_another_way_is_not_cancelled(status: Status, kind: DeclareKind, worker: WorkerProcess) -> None:
    job = job_in(status, kind(), worker)

    with pytest.raises(NotCancellable):
        submission.cancel(job.id)

    assert again(job).status == status


BAD_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "an unknown state": ("job_(status_is_known|finished_exactly)", {"status": "PAUSED", "ready": False}),
    "completed at no time": ("job_finished_exactly_in_final_states", {"status": "COMPLETED", "ready": False}),
    "failed at no time": ("job_finished_exactly_in_final_states", {"status": "FAILED", "ready": False}),
    "finished but waiting": ("job_finished_exactly_in_final_states", {"finished_at": timezone.now()}),
    "priority 10": ("job_priority_is_0_to_9", {"priority": 10}),
    "priority -1": ("job_priority_is_0_to_9", {"priority": -1}),
    "attempt -1": ("job_attempts_are_counted", {"attempt": -1}),
    "no attempt allowed": ("job_attempts_are_counted", {"max_attempts": 0}),
    "ready though it waits": ("job_ready_could_start", {"unfinished_dependencies": 1}),
    "ready though leased": ("job_ready_could_start", {"status": "RUNNING", "worker_id": 1}),
    "ready though finished": (
        "job_ready_could_start",
        {"status": "COMPLETED", "finished_at": timezone.now()},
    ),
    "leased while waiting": ("job_leased_only_while_running", {"worker_id": 1, "ready": False}),
    "a deadline without a lease": ("job_deadline_only_while_leased", {"deadline_at": timezone.now()}),
    "a result of what is not done": ("job_result_only_when_completed", {"result": {}}),
    "fewer than no dependencies": (
        "job_dependencies_are_counted",
        {"unfinished_dependencies": -1, "ready": False},
    ),
}


@pytest.mark.django_db
@pytest.mark.parametrize("bad", BAD_ROWS)
def test_the_database_refuses(bad: str, kind: DeclareKind) -> None:
    constraint, columns = BAD_ROWS[bad]
    job = submit(kind())

    with pytest.raises(IntegrityError, match=constraint), transaction.atomic():
        Job.objects.filter(id=job.id).update(**columns)


@pytest.mark.django_db
def test_two_children_of_one_name_are_refused_by_the_database(kind: DeclareKind) -> None:
    step = kind()
    parent = submit(step, children=[submission.Child(name=name, kind=step.name) for name in ("one", "two")])

    with pytest.raises(IntegrityError, match="job_child_name_is_unique"), transaction.atomic():
        Job.objects.filter(parent=parent).update(name="one")
