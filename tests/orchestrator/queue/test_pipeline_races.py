"""Races within a pipeline: children that end at the same moment, and clients who change their minds meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from django.db import connection, transaction

from orchestrator import submission
from orchestrator.claimed import Claimed
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.queue import endings, pipelines, turns
from orchestrator.queue.endings import Ended
from orchestrator.submission import NotCancellable, NotRetryable
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.concurrency import at_once, held_open, waiting
from tests.orchestrator.workbench import (
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    claim,
    complete,
    fail,
    lease,
    pipeline,
    run,
)

pytestmark = pytest.mark.django_db(transaction=True)

TWO = {"a": (), "b": ()}


def test_of_two_last_children_exactly_one_makes_the_parent_ready(
    step: Kind, last: Kind, worker: WorkerProcess, rung: list[str]
) -> None:
    parent, _ = pipeline(last, step, TWO)
    one, two = lease(step, worker), lease(step, worker)

    with held_open(lambda: complete(one)):
        second = waiting(lambda: complete(two))

    second.result(PATIENCE_SECONDS)
    assert (again(parent).ready, again(parent).unfinished_dependencies) == (True, 0)
    assert rung.count(last.name) == 1


@pytest.mark.parametrize("method", ["enable_seqscan", "enable_indexscan", "enable_hashjoin", "enable_nestloop"])
def test_of_two_children_that_end_at_once_both_are_counted_however_the_statement_is_planned(
    step: Kind, last: Kind, worker: WorkerProcess, rung: list[str], method: str
) -> None:
    parent, children = pipeline(last, step, {"a": (), "b": (), "c": (), "join": ("a", "b", "c")})
    one, two = lease(step, worker), lease(step, worker)

    def complete_without() -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET {method} = off")
        complete(two)

    with held_open(lambda: complete(one)):
        second = waiting(complete_without)

    second.result(PATIENCE_SECONDS)
    assert again(parent).unfinished_dependencies == 2
    assert again(children["join"]).unfinished_dependencies == 1


def test_a_step_that_two_wait_to_start_is_made_ready_once(
    step: Kind, kind: DeclareKind, worker: WorkerProcess, rung: list[str]
) -> None:
    joining = kind()
    children = [
        submission.Child(name="a", kind=step.name),
        submission.Child(name="b", kind=step.name),
        submission.Child(name="join", kind=joining.name, after=["a", "b"]),
    ]
    submission.submit(kind(), children=children)
    one, two = lease(step, worker), lease(step, worker)

    with held_open(lambda: complete(one)):
        second = waiting(lambda: complete(two))

    second.result(PATIENCE_SECONDS)
    assert Job.objects.get(name="join").ready
    assert rung.count(joining.name) == 1


def test_what_waits_is_locked_in_the_order_of_ids(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    names = [f"n{n}" for n in range(20)]
    _, children = pipeline(last, step, {"first": (), **dict.fromkeys(names, ("first",))})
    held = lease(step, worker)
    lowest, *others = sorted(children[name].id for name in names)
    # Else its place in the table might come first by itself.
    Job.objects.filter(id=lowest).update(progress_message="moved")

    def complete_by_another_plan() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET enable_sort = off; SET enable_mergejoin = off; SET enable_nestloop = off")
        complete(held)

    with held_open(lambda: Job.objects.select_for_update().get(id=lowest)):
        completing = waiting(complete_by_another_plan)
        with transaction.atomic():
            unlocked = list(Job.objects.select_for_update(skip_locked=True).filter(id__in=others))

    completing.result(PATIENCE_SECONDS)
    assert len(unlocked) == len(others), "none of the others was locked before the lowest"


def test_children_that_complete_in_a_crowd_count_down_exactly(step: Kind, last: Kind, make_worker: MakeWorker) -> None:
    parent, _ = pipeline(last, step, {str(n): () for n in range(8)} | {"join": [str(n) for n in range(8)]})
    held = [lease(step, make_worker(f"{n}@here")) for n in range(8)]

    answers = at_once(*(lambda job=job: complete(job) for job in held))

    assert answers == [None] * 8
    assert (again(parent).unfinished_dependencies, again(parent).ready) == (1, False)
    assert Job.objects.get(name="join").ready


def test_batches_that_share_what_waits_for_them_do_not_deadlock(
    kind: DeclareKind, last: Kind, make_worker: MakeWorker
) -> None:
    step = kind(execution="transactional", batch_size=3)
    firsts = [f"first{n}" for n in range(12)]
    parent, _ = pipeline(last, step, dict.fromkeys(firsts, ()) | {f"join{n}": firsts for n in range(12)})
    workers = [make_worker(f"{n}@here") for n in range(4)]
    turns.absorb(step.name)

    at_once(*(lambda worker=worker: run(step, worker) for worker in workers))

    assert Job.objects.filter(status="COMPLETED").count() == 12
    assert Job.objects.filter(name__startswith="join", ready=True).count() == 12
    assert again(parent).unfinished_dependencies == 12


def test_two_children_start_at_once_without_waiting_for_the_parent(
    step: Kind, last: Kind, make_worker: MakeWorker
) -> None:
    parent, _ = pipeline(last, step, TWO)
    one, two = make_worker("one@here"), make_worker("two@here")
    turns.absorb(step.name)

    with held_open(lambda: lease(step, one)):
        second = lease(step, two)

    assert second.attempt == 1
    assert again(parent).status == "RUNNING"


def test_cancelling_a_pipeline_while_its_last_child_completes_cancels_its_own_step(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, {"a": ()})
    held = lease(step, worker)

    with held_open(lambda: complete(held)):
        cancelling = waiting(lambda: submission.cancel(parent.id))

    assert cancelling.result(PATIENCE_SECONDS).status == "CANCELLED"
    assert (again(children["a"]).status, again(parent).ready) == ("COMPLETED", False)


def test_a_last_child_that_completes_while_its_pipeline_is_cancelled_ends_it(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, {"a": ()})
    held = lease(step, worker)

    with held_open(lambda: submission.cancel(parent.id)):
        completing = waiting(lambda: complete(held))

    completing.result(PATIENCE_SECONDS)
    assert (again(children["a"]).status, again(parent).status) == ("COMPLETED", "CANCELLED")
    assert not again(parent).ready


def test_cancelling_a_pipeline_while_its_first_child_is_claimed_asks_the_child(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, TWO)

    with held_open(lambda: lease(step, worker)):
        cancelling = waiting(lambda: submission.cancel(parent.id))

    assert cancelling.result(PATIENCE_SECONDS).status == "RUNNING"
    assert again(children["a"]).cancel_requested_at is not None
    assert again(children["b"]).status == "CANCELLED"


def test_a_later_child_that_is_claimed_while_its_pipeline_is_cancelled_is_asked_by_the_tick(
    step: Kind, last: Kind, make_worker: MakeWorker
) -> None:
    parent, children = pipeline(last, step, TWO)
    held = lease(step, make_worker("one@here"))

    with held_open(lambda: lease(step, make_worker("two@here"))) as claimed:
        submission.cancel(parent.id)
    tick.unwind_pipelines()
    asked = again(children["b"]).cancel_requested_at
    for job in (held, claimed.result(PATIENCE_SECONDS)):
        endings.end_attempt(job, Ended(None))

    assert asked is not None
    assert [again(job).status for job in (*children.values(), parent)] == ["CANCELLED"] * 3


def test_a_pipeline_is_cancelled_without_waiting_for_a_child_that_is_just_being_asked(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, TWO)
    lease(step, worker)

    with held_open(lambda: submission.cancel(children["a"].id)):
        answered = submission.cancel(parent.id)

    assert answered.status == "RUNNING"
    assert again(children["a"]).cancel_requested_at is not None


def test_a_child_is_not_claimed_while_its_pipeline_is_being_cancelled(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, _ = pipeline(last, step, TWO)

    with held_open(lambda: submission.cancel(parent.id)):
        claimed = claim(step, worker)

    assert claimed is None
    assert again(parent).status == "CANCELLED"


def test_two_children_that_fail_at_once_fail_the_parent_once(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, _ = pipeline(last, step, {"a": (), "b": (), "c": ("a", "b")})
    one, two = lease(step, worker), lease(step, worker)

    with held_open(lambda: fail(one, "ValueError: first")):
        second = waiting(lambda: fail(two, "ValueError: second"))

    assert second.result(PATIENCE_SECONDS).status == "FAILED"
    assert (again(parent).status, again(parent).error) == ("FAILED", "The child 'a' failed: ValueError: first")
    assert Job.objects.get(name="c").status == "CANCELLED"


@pytest.mark.parametrize(("end_first", "end_second"), [(fail, complete), (complete, fail)])
def test_two_children_that_end_at_once_end_the_pipeline_if_one_has_failed(
    end_first: Callable[[Claimed], object],
    end_second: Callable[[Claimed], object],
    step: Kind,
    last: Kind,
    worker: WorkerProcess,
) -> None:
    parent, _ = pipeline(last, step, TWO)
    one, two = lease(step, worker), lease(step, worker)

    with held_open(lambda: end_first(one)):
        ending = waiting(lambda: end_second(two))

    ending.result(PATIENCE_SECONDS)
    assert (again(parent).status, again(parent).ready) == ("FAILED", False)


def test_a_child_that_is_cancelled_while_its_sibling_fails_does_not_deadlock(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, TWO)
    held = lease(step, worker)

    with held_open(lambda: submission.cancel(children["b"].id)):
        failing = waiting(lambda: fail(held))

    failing.result(PATIENCE_SECONDS)
    assert [again(job).status for job in (*children.values(), parent)] == ["FAILED", "CANCELLED", "FAILED"]


def test_unwinding_leaves_a_child_that_is_just_claimed_to_its_end(
    step: Kind, last: Kind, make_worker: MakeWorker
) -> None:
    parent, children = pipeline(last, step, TWO)
    held = lease(step, make_worker("one@here"))

    with held_open(lambda: lease(step, make_worker("two@here"))) as claimed:
        fail(held)
        meanwhile = again(parent).status
    complete(claimed.result())

    assert meanwhile == "RUNNING"
    assert (again(children["b"]).status, again(parent).status) == ("COMPLETED", "FAILED")


def test_two_who_unwind_one_pipeline_end_it_once(
    step: Kind, last: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, children = pipeline(last, step, TWO)
    with monkeypatch.context() as crash:
        crash.setattr(pipelines, "unwind", lambda parent_id: None)
        fail(lease(step, worker))

    with held_open(lambda: pipelines.unwind(parent.id)):
        second = waiting(lambda: pipelines.unwind(parent.id))

    second.result(PATIENCE_SECONDS)
    assert (again(parent).status, again(children["b"]).status) == ("FAILED", "CANCELLED")


def test_of_two_who_retry_a_pipeline_one_is_refused(step: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, _ = pipeline(last, step, TWO)
    fail(lease(step, worker))

    with held_open(lambda: submission.retry(parent.id)):
        second = waiting(lambda: submission.retry(parent.id))

    with pytest.raises(NotRetryable):
        second.result(PATIENCE_SECONDS)
    assert Job.objects.filter(parent=parent, status="CREATED", ready=True).count() == 2


def test_cancelling_a_child_while_its_pipeline_is_retried_cancels_the_new_attempt(
    step: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, children = pipeline(last, step, TWO)
    submission.cancel(parent.id)

    with held_open(lambda: submission.retry(parent.id)):
        cancelling = waiting(lambda: submission.cancel(children["a"].id))

    assert cancelling.result(PATIENCE_SECONDS).status == "CANCELLED"
    assert again(parent).status == "FAILED"


def test_every_pipeline_ends_whatever_is_done_to_it_at_once(
    kind: DeclareKind, last: Kind, make_worker: MakeWorker
) -> None:
    step = kind(max_attempts=2, backoff_seconds=0)
    shape = {"a": (), "b": (), "c": ("a", "b"), "d": ("a",), "e": ("c", "d")}
    parents = [pipeline(last, step, shape)[0] for _ in range(8)]
    workers = [make_worker(f"{n}@here") for n in range(4)]

    def work(worker: WorkerProcess, seed: int) -> None:
        chance = random.Random(seed)
        while unfinished(parents):
            for each in (step, last):
                if job := claim(each, worker):
                    end_somehow(job, chance)

    def meddle(seed: int) -> None:
        chance = random.Random(seed)
        while unfinished(parents):
            children = list(Job.objects.filter(parent__in=parents, status="CREATED")[:5])
            target = chance.choice(parents if chance.random() < 0.2 else children or parents)
            try:
                chance.choice([submission.cancel, submission.retry, pipelines.unwind])(target.id)
            except (NotCancellable, NotRetryable):
                tick.unwind_pipelines()

    answers = at_once(
        *(lambda worker=worker, seed=seed: work(worker, seed) for seed, worker in enumerate(workers)),
        *(lambda seed=seed: meddle(seed) for seed in (10, 11)),
    )

    assert answers == [None] * 6
    for parent in parents:
        children = Job.objects.filter(parent=parent)
        assert not children.filter(status__in=("CREATED", "RUNNING")).exists()
        assert again(parent).unfinished_dependencies == children.exclude(status="COMPLETED").count()


def unfinished(parents: list[Job]) -> bool:
    return Job.objects.filter(id__in=[parent.id for parent in parents], status__in=("CREATED", "RUNNING")).exists()


def end_somehow(job: Claimed, chance: random.Random) -> None:
    lot = chance.random()
    if lot < 0.8:
        complete(job)
    else:
        fail(job, retryable=lot < 0.9)
