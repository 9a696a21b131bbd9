"""Pipelines: jobs that wait for other jobs, and what their end means for one another."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from orchestrator import submission
from orchestrator.kinds import Kind
from orchestrator.models import Attempt, Job
from orchestrator.queue import endings, pipelines, transitions
from orchestrator.queue.endings import Ended
from orchestrator.submission import NotRetryable
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, claim, complete, fail, lease, make_due, pipeline, run

FAN = {"a": (), "b": (), "c": ("a", "b")}


def states(children: dict[str, Job]) -> dict[str, str]:
    return {name: again(child).status for name, child in children.items()}


def test_only_what_waits_for_nothing_is_ready_at_first(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, children = pipeline(last, step, FAN)

    assert {name for name, child in children.items() if child.ready} == {"a", "b"}
    assert (children["c"].unfinished_dependencies, parent.unfinished_dependencies) == (2, 3)


def test_a_parent_runs_from_its_first_childs_start(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, _ = pipeline(last, step, FAN)

    lease(step, worker)

    assert again(parent).status == "RUNNING"
    assert again(parent).started_at is not None
    assert not again(parent).ready


def test_a_step_is_ready_when_all_it_waits_for_has_completed(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    _, children = pipeline(last, step, FAN)
    one, two = lease(step, worker), lease(step, worker)

    complete(one)
    after_one = again(children["c"])
    complete(two)
    after_two = again(children["c"])

    assert (after_one.unfinished_dependencies, after_one.ready) == (1, False)
    assert (after_two.unfinished_dependencies, after_two.ready) == (0, True)


def test_a_parent_is_its_own_last_step(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, _ = pipeline(last, step, FAN)
    for _ in FAN:
        complete(lease(step, worker))

    waiting = again(parent)
    complete(lease(last, worker), "the end")

    assert (waiting.status, waiting.ready) == ("RUNNING", True)
    assert (again(parent).status, again(parent).result) == ("COMPLETED", "the end")
    assert again(parent).started_at == waiting.started_at


def test_a_failed_child_cancels_what_has_not_started_and_fails_the_parent(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, {"a": (), "b": (), "c": ("a",), "d": ("b",)})

    fail(lease(step, worker), "ValueError: no luck")

    assert states(children) == {"a": "FAILED", "b": "CANCELLED", "c": "CANCELLED", "d": "CANCELLED"}
    assert (again(parent).status, again(parent).error) == ("FAILED", "The child 'a' failed: ValueError: no luck")
    assert not again(parent).unwinding


def test_a_child_that_runs_when_its_sibling_fails_may_finish_first(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, FAN)
    one, two = lease(step, worker), lease(step, worker)

    fail(one)
    meanwhile = again(parent).status
    complete(two, "kept")

    assert meanwhile == "RUNNING"
    assert states(children) == {"a": "FAILED", "b": "COMPLETED", "c": "CANCELLED"}
    assert again(parent).status == "FAILED"


def test_a_cancelled_step_is_not_made_ready_by_what_it_waited_for(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, {"a": (), "b": (), "c": ("b",)})
    one, two = lease(step, worker), lease(step, worker)
    fail(one)

    complete(two)

    assert states(children) == {"a": "FAILED", "b": "COMPLETED", "c": "CANCELLED"}
    assert (again(children["c"]).ready, again(children["c"]).unfinished_dependencies) == (False, 0)
    assert again(parent).status == "FAILED"


def test_the_first_child_that_failed_is_named(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, _ = pipeline(last, step, FAN)
    one, two = lease(step, worker), lease(step, worker)

    fail(two, "ValueError: first")
    fail(one, "ValueError: second")

    assert again(parent).error == "The child 'b' failed: ValueError: first"


def test_a_child_that_may_try_again_does_not_fail_its_parent(kind: DeclareKind, worker: WorkerProcess) -> None:
    patient = kind(max_attempts=2, backoff_seconds=0)
    parent, children = pipeline(patient, patient, {"a": ()})

    fail(lease(patient, worker), retryable=True)

    assert (again(parent).status, again(parent).error) == ("RUNNING", "")
    assert again(children["a"]).ready


def test_a_retried_parent_runs_only_what_did_not_complete(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, children = pipeline(last, step, {"a": (), "b": (), "c": ("a", "b"), "d": ("c",)})
    complete(lease(step, worker), "kept")
    fail(lease(step, worker))

    submission.retry(parent.id)
    retried = states(children)
    rerun = []
    while job := claim(step, worker):
        rerun.append(job.name)
        complete(job)
    complete(lease(last, worker))

    assert retried == {"a": "COMPLETED", "b": "CREATED", "c": "CREATED", "d": "CREATED"}
    assert rerun == ["b", "c", "d"]
    assert (again(parent).status, again(parent).error) == ("COMPLETED", "")
    assert again(children["a"]).result == "kept"


def test_a_parent_whose_own_step_failed_is_retried_without_its_children(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, {"a": ()})
    complete(lease(step, worker))
    fail(lease(last, worker))

    submission.retry(parent.id)
    complete(lease(last, worker))

    assert again(parent).status == "COMPLETED"
    assert again(children["a"]).attempt == 1


def test_a_child_is_retried_only_with_its_parent(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    _, children = pipeline(last, step, FAN)
    fail(lease(step, worker))

    with pytest.raises(NotRetryable):
        submission.retry(children["a"].id)


def test_a_cancelled_pipeline_of_which_nothing_runs_ends_at_once(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, FAN)
    complete(lease(step, worker))

    cancelled = submission.cancel(parent.id)

    assert (cancelled.status, cancelled.error) == ("CANCELLED", "")
    assert states(children) == {"a": "COMPLETED", "b": "CANCELLED", "c": "CANCELLED"}


def test_a_cancellation_reaches_running_children_and_then_ends_the_parent(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, FAN)
    held = lease(step, worker)

    answered = submission.cancel(parent.id)
    meanwhile = states(children)
    asked = again(children["a"]).cancel_requested_at
    endings.end_attempt(held, Ended(None))

    assert (answered.status, asked is not None) == ("RUNNING", True)
    assert meanwhile == {"a": "RUNNING", "b": "CANCELLED", "c": "CANCELLED"}
    assert states(children)["a"] == "CANCELLED"
    assert (again(parent).status, again(parent).error) == ("CANCELLED", "")


def test_a_pipeline_is_cancelled_though_its_running_child_completes(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, FAN)
    held = lease(step, worker)
    submission.cancel(parent.id)

    complete(held)

    assert states(children) == {"a": "COMPLETED", "b": "CANCELLED", "c": "CANCELLED"}
    assert again(parent).status == "CANCELLED"


def test_the_own_step_of_a_cancelled_pipeline_cannot_start_before_it_is_unwound(
    step: Kind, last: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, _ = pipeline(last, step, {"a": ()})
    held = lease(step, worker)
    submission.cancel(parent.id)

    with monkeypatch.context() as crash:
        crash.setattr(pipelines, "unwind", lambda parent_id: None)
        complete(held)
    left = again(parent)
    tick.unwind_pipelines()

    assert (left.status, left.ready, left.unfinished_dependencies) == ("RUNNING", False, 0)
    assert again(parent).status == "CANCELLED"


def test_a_parent_at_its_own_step_is_cancelled_like_any_running_job(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, {"a": ()})
    complete(lease(step, worker))
    held = lease(last, worker)

    answered = submission.cancel(parent.id)
    endings.end_attempt(held, Ended(None))

    assert answered.status == "RUNNING"
    assert (again(parent).status, states(children)) == ("CANCELLED", {"a": "COMPLETED"})


def test_a_parent_that_waits_for_its_own_next_attempt_is_cancelled_at_once(
    kind: DeclareKind, step: Kind, worker: WorkerProcess
) -> None:
    patient = kind(max_attempts=2, backoff_seconds=1_000)
    parent, _ = pipeline(patient, step, {"a": ()})
    complete(lease(step, worker))
    fail(lease(patient, worker), retryable=True)

    cancelled = submission.cancel(parent.id)

    assert cancelled.status == "CANCELLED"


def test_a_cancelled_child_fails_its_parent_by_name(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, children = pipeline(last, step, FAN)

    submission.cancel(children["b"].id)

    assert states(children) == {"a": "CANCELLED", "b": "CANCELLED", "c": "CANCELLED"}
    assert (again(parent).status, again(parent).error) == ("FAILED", "The child 'b' was cancelled.")


def test_a_retried_cancelled_pipeline_runs_to_its_end(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, _ = pipeline(last, step, FAN)
    complete(lease(step, worker))
    submission.cancel(parent.id)
    submission.retry(parent.id)

    while run(step, worker):
        pass
    run(last, worker)

    assert again(parent).status == "COMPLETED"


def test_what_nobody_unwound_is_unwound_by_the_tick(
    step: Kind, last: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, children = pipeline(last, step, FAN)
    with monkeypatch.context() as crash:
        crash.setattr(pipelines, "unwind", lambda parent_id: None)
        fail(lease(step, worker))
    left = states(children)

    tick.unwind_pipelines()

    assert left == {"a": "FAILED", "b": "CREATED", "c": "CREATED"}
    assert states(children) == {"a": "FAILED", "b": "CANCELLED", "c": "CANCELLED"}
    assert again(parent).status == "FAILED"


def test_a_child_handed_back_to_a_failed_pipeline_is_cancelled_by_the_tick(
    kind: DeclareKind, last: Kind, worker: WorkerProcess
) -> None:
    patient = kind(max_attempts=3)
    parent, children = pipeline(last, patient, {"a": (), "b": ()})
    one, two = lease(patient, worker), lease(patient, worker)
    fail(one)
    endings.end_attempt(two, Ended(Attempt.Outcome.INTERRUPTED))

    tick.unwind_pipelines()

    assert states(children) == {"a": "FAILED", "b": "CANCELLED"}
    assert again(parent).status == "FAILED"


def test_a_future_pipeline_starts_as_a_whole(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, children = pipeline(last, step, FAN, run_at=timezone.now() + timedelta(hours=1))
    ready_early = Job.objects.filter(ready=True).exists()

    make_due(parent, *children.values())
    tick.make_due_ready()
    while run(step, worker):
        pass
    run(last, worker)

    assert not ready_early
    assert again(parent).status == "COMPLETED"


def test_a_parent_whose_children_are_done_is_due_whatever_the_clock_says_now(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, _ = pipeline(last, step, {"a": ()})
    # PostgreSQL's clock was set back since the submission.
    Job.objects.filter(id=parent.id).update(run_at=Now() + timedelta(hours=1))

    complete(lease(step, worker))

    assert again(parent).ready


def test_steps_of_steps_wait_their_turn(kind: DeclareKind, last: Kind, worker: WorkerProcess) -> None:
    order: list[str] = []
    step = kind(lambda running: order.append(running.row.name))
    pipeline(last, step, {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")})

    while run(step, worker):
        pass

    assert order == ["a", "b", "c", "d"]


def test_ten_thousand_children_fan_in_without_a_statement_for_each(
    kind: DeclareKind, last: Kind, worker: WorkerProcess
) -> None:
    step = kind(execution="transactional", batch_size=5_000)
    parent, _ = pipeline(last, step, {str(n): () for n in range(10_000)})

    with CaptureQueriesContext(connection) as statements:
        while run(step, worker):
            pass

    assert (again(parent).ready, again(parent).unfinished_dependencies) == (True, 0)
    assert len(statements) < 40


def test_one_child_that_fails_cancels_thousands_set_wise(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, _ = pipeline(last, step, {str(n): () for n in range(5_000)})
    held = lease(step, worker)

    with CaptureQueriesContext(connection) as statements:
        fail(held)

    assert again(parent).status == "FAILED"
    assert Job.objects.filter(parent=parent, status="CANCELLED").count() == 4_999
    assert len(statements) < 30


def test_counting_down_is_rolled_back_with_the_completion(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, _ = pipeline(last, step, {"a": ()})
    held = lease(step, worker)

    with transaction.atomic():
        transitions.complete(held, "null")
        transaction.set_rollback(True)

    assert again(held).status == "RUNNING"
    assert again(parent).unfinished_dependencies == 1
