"""Pipelines that fail if they take too long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from orchestrator import submission
from orchestrator.composition import deadline_of, fork, start
from orchestrator.kinds import Kind, kind_named
from orchestrator.models import Job, Step
from orchestrator.pipelines import Pipeline
from orchestrator.submission import BadSubmission
from orchestrator.testing import drain
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, complete, fail, lease, run

pytestmark = pytest.mark.django_db(transaction=True)

LATE = "It did not end within its deadline of 60 s."


def started(step: Kind, **options: Any) -> tuple[Job, Job, Job]:
    """A pipeline with a deadline of a minute, and its two steps, one after the other."""
    parent = start(Pipeline().step("a", step).step("b", step, after=["a"]), deadline_seconds=60, **options)
    first, second = Job.objects.filter(parent=parent).order_by("id")
    return parent, first, second


def let_deadline_pass(parent: Job) -> None:
    assert Step.objects.filter(job=parent).update(deadline_at=Now() - timedelta(milliseconds=1))
    tick.run_parts()


def states(*jobs: Job) -> list[str]:
    return [again(job).status for job in jobs]


def test_a_pipeline_fails_at_its_deadline_and_what_has_not_started_is_cancelled(step: Kind) -> None:
    parent, *steps = started(step)

    let_deadline_pass(parent)

    assert states(parent, *steps) == ["FAILED", "CANCELLED", "CANCELLED"]
    assert again(parent).error == LATE


def test_what_runs_at_the_deadline_is_asked_to_stop_and_then_the_pipeline_fails(
    step: Kind, worker: WorkerProcess
) -> None:
    parent, *steps = started(step)
    running = lease(step, worker)

    let_deadline_pass(parent)

    assert states(parent, *steps) == ["RUNNING", "RUNNING", "CANCELLED"]
    assert again(running).cancel_requested_at
    fail(running)
    assert states(parent, *steps) == ["FAILED", "CANCELLED", "CANCELLED"]
    assert again(parent).error == LATE


def test_a_step_that_completes_in_spite_of_it_is_kept(step: Kind, worker: WorkerProcess) -> None:
    parent, *steps = started(step)
    running = lease(step, worker)
    let_deadline_pass(parent)

    complete(running)

    assert states(parent, *steps) == ["FAILED", "COMPLETED", "CANCELLED"]


def test_a_pipeline_that_ends_in_time_is_left_alone(step: Kind, worker: WorkerProcess) -> None:
    parent, *_ = started(step)
    drain(worker=worker)

    let_deadline_pass(parent)

    assert (again(parent).status, Step.objects.get(job=parent).deadline_at) == ("COMPLETED", None)


def test_a_pipeline_whose_own_last_step_runs_is_left_to_end(step: Kind, worker: WorkerProcess) -> None:
    parent, *_ = started(step)
    run(step, worker)
    run(step, worker)
    last = lease(kind_named("pipeline.run"), worker)

    let_deadline_pass(parent)
    complete(last)

    assert again(parent).status == "COMPLETED"


def test_the_deadline_stops_what_still_runs_of_a_pipeline_that_has_failed(step: Kind, worker: WorkerProcess) -> None:
    parent = start(Pipeline().step("a", step).step("b", step), deadline_seconds=60)
    failing, running = lease(step, worker), lease(step, worker)
    fail(failing)
    assert not again(running).cancel_requested_at

    let_deadline_pass(parent)

    assert again(running).cancel_requested_at
    fail(running)
    assert again(parent).status == "FAILED"
    assert "ValueError" in again(parent).error


def test_a_retried_pipeline_has_as_long_again(step: Kind, worker: WorkerProcess) -> None:
    parent, *steps = started(step)
    let_deadline_pass(parent)

    submission.retry(parent.id)
    tick.run_parts()

    assert deadline_of(again(parent)) is not None
    drain(worker=worker)
    assert states(parent, *steps) == ["COMPLETED", "COMPLETED", "COMPLETED"]


def test_a_fork_has_as_long_as_what_it_is_forked_from(step: Kind) -> None:
    parent, *_ = started(step)

    new = fork(parent, "a")

    assert Step.objects.get(job=new).deadline_seconds == 60
    assert deadline_of(new) is not None


def test_it_counts_from_the_earliest_start(step: Kind) -> None:
    tomorrow = Job.objects.get(id=started(step)[0].id).created_at + timedelta(days=1)

    parent, *_ = started(step, run_at=tomorrow)

    assert deadline_of(parent) == tomorrow + timedelta(seconds=60)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 1e12])
def test_a_deadline_that_cannot_be_is_refused(seconds: float, kind: DeclareKind) -> None:
    with pytest.raises(BadSubmission) as refused:
        start(Pipeline().step("a", kind()), deadline_seconds=seconds)

    assert refused.value.problems[0].pointer == "/deadline_seconds"
    assert not Job.objects.exists()
