"""Compensations: what completed steps have done is undone, once and the last first, when their pipeline fails."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.db.models.functions import Now
from pytest_django import DjangoAssertNumQueries

from orchestrator import submission
from orchestrator.composition import fork, pipeline_detail, start
from orchestrator.diagnostics.queries import names
from orchestrator.doctor.jobs import MISCOUNTED, OVERDUE
from orchestrator.graphs.each import ITS_ITEM
from orchestrator.kinds import Child, Kind
from orchestrator.models import Job, Step
from orchestrator.pipelines import Pipeline, index_ref, item_ref, ref, undo
from orchestrator.queue import pipelines
from orchestrator.queue.compensations import begin
from orchestrator.submission import BadSubmission, Compensated, NotRetryable, submit
from orchestrator.testing import drain
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.moves import put
from tests.orchestrator.workbench import DeclareKind, again, claim, complete, fail, lease, run

pytestmark = pytest.mark.django_db(transaction=True)

Undone = list[Any]


@pytest.fixture
def undone() -> Undone:
    """The payloads of compensations that have run, in their order."""
    return []


@pytest.fixture
def refund(kind: DeclareKind, undone: Undone) -> Kind:
    """Notes its payload; fails if that says so, once."""

    def handler(running: Any, payload: Any) -> None:
        undone.append(payload)
        if payload == "no" and undone.count("no") == 1:
            raise ValueError("as asked")

    return kind(handler, payload=Any, max_attempts=1, backoff_seconds=0)


def child(kind: Kind, name: str, payload: Any, by: Kind | None = None, undo_with: Any = None, **options: Any) -> Child:
    """A step; `by` undoes it, with its result if nothing else is said."""
    if by:
        undo_with = ref(name) if undo_with is None else undo_with
        options["compensate"] = {"kind": by.name, "payload": undo_with}
    return Child(name=name, kind=kind.name, payload=payload, **options)


def booking(echo: Kind, refund: Kind, *more: Child) -> list[Child]:
    """Two steps that are undone, one after the other, and one that fails."""
    steps = [child(echo, "a", 1, refund), child(echo, "b", 2, refund, after=["a"]), *more]
    return [*steps, child(echo, "c", "fails", after=["b"])]


def compensations(parent: Job) -> list[tuple[str, str]]:
    return [(each["step"], each["status"]) for each in pipeline_detail(again(parent))["compensations"]]


def states(parent: Job) -> dict[str, str]:
    return dict(Job.objects.filter(parent=parent).values_list("name", "status"))


def test_what_was_done_is_undone_the_last_first_before_the_pipeline_has_failed(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    parent = submit(last, children=booking(echo, refund))
    for _ in "abc":
        run(echo, worker)
    assert (again(parent).status, compensations(parent)) == ("RUNNING", [("b", "CREATED"), ("a", "CREATED")])
    first = lease(refund, worker)
    assert claim(refund, worker) is None
    complete(first)

    drain(worker=worker)

    assert (again(first).payload, undone) == (2, [1])
    assert again(parent).status == "FAILED"
    assert again(parent).error == "The child 'c' failed: ValueError: fails"
    assert compensations(parent) == [("b", "COMPLETED"), ("a", "COMPLETED")]


def test_what_runs_ends_first_and_is_undone_as_well(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    parent = submit(last, children=[child(echo, "a", 1, refund), child(echo, "b", "fails"), child(echo, "z", 1)])
    running, failing = lease(echo, worker), lease(echo, worker)
    fail(failing)
    assert compensations(parent) == []

    complete(running, 7)
    drain(worker=worker)

    assert undone == [7]
    assert states(parent)["z"] == "CANCELLED"


def test_a_cancelled_pipeline_is_undone_and_then_cancelled(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    parent = submit(last, children=booking(echo, refund))
    run(echo, worker)

    submission.cancel(parent.id)
    assert again(parent).status == "RUNNING"
    submission.cancel(parent.id)
    drain(worker=worker)

    assert (again(parent).status, again(parent).error, undone) == ("CANCELLED", "", [1])


def test_a_pipeline_whose_own_function_fails_is_undone(
    kind: DeclareKind, echo: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    def handler(running: Any) -> None:
        raise ValueError("no")

    parent = submit(kind(handler, max_attempts=1), children=[child(echo, "a", 1, refund)])

    drain(worker=worker)

    assert (again(parent).status, again(parent).error, undone) == ("FAILED", "ValueError: no", [1])
    assert again(parent).attempt == 1


def test_a_pipeline_that_is_cancelled_while_its_own_function_runs_is_undone(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    parent = submit(last, children=[child(echo, "a", 1, refund)])
    run(echo, worker)
    running = lease(last, worker)

    submission.cancel(parent.id)
    fail(running)
    drain(worker=worker)

    assert (again(parent).status, undone) == ("CANCELLED", [1])


def test_a_pipeline_that_completes_is_not_undone(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    parent = submit(last, children=[child(echo, "a", 1, refund), child(echo, "b", "x", on_failure="continue")])

    drain(worker=worker)

    assert (again(parent).status, compensations(parent), undone) == ("COMPLETED", [], [])


def test_a_step_that_says_fail_leaves_the_pipeline_as_it_is_for_a_retry(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    steps = [child(echo, "a", 1, refund), child(echo, "b", "fails", after=["a"], on_failure="fail")]
    parent = submit(last, children=steps)
    drain(worker=worker)
    assert (again(parent).status, undone) == ("FAILED", [])

    Job.objects.filter(parent=parent, name="b").update(payload=2)
    submission.retry(parent.id)
    drain(worker=worker)

    assert (again(parent).status, undone) == ("COMPLETED", [])


def test_what_a_step_says_is_not_taken_for_what_another_one_says_whose_name_is_longer(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    steps = [child(echo, "a", 1, refund, on_failure="fail"), child(echo, "ab", "fails", after=["a"])]
    parent = submit(last, children=steps)

    drain(worker=worker)

    assert (again(parent).status, undone) == ("FAILED", [1])


def test_only_what_has_completed_is_undone(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    never = {"$from": "a", "gt": 5}
    skipped = child(echo, "s", 3, refund, when=never)
    passed = child(echo, "p", "x", refund, on_failure="continue")
    parent = submit(last, children=booking(echo, refund, skipped, passed))

    drain(worker=worker)

    assert (undone, again(parent).status) == ([2, 1], "FAILED")


def test_the_other_compensations_run_although_one_fails_and_the_pipeline_says_so(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    steps = booking(echo, refund)
    steps[1].compensate["payload"] = "no"
    parent = submit(last, children=steps)

    drain(worker=worker)

    assert undone == ["no", 1]
    assert again(parent).error == "The child 'c' failed: ValueError: fails Not compensated: 'b'."
    assert compensations(parent) == [("b", "FAILED"), ("a", "COMPLETED")]


def test_a_retry_runs_the_compensations_that_failed_and_nothing_else(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    steps = booking(echo, refund)
    steps[1].compensate["payload"] = "no"
    parent = submit(last, children=steps)
    drain(worker=worker)

    submission.retry(parent.id)
    assert names(MISCOUNTED, overdue=OVERDUE, most=100) == []
    drain(worker=worker)

    assert undone == ["no", 1, "no"]
    assert (again(parent).status, again(parent).error) == ("FAILED", "The child 'c' failed: ValueError: fails")
    assert states(parent)["c"] == "FAILED"


def test_compensations_that_are_retried_run_one_after_the_other(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess
) -> None:
    parent = submit(last, children=booking(echo, refund))
    for _ in "abc":
        run(echo, worker)
    fail(lease(refund, worker))
    fail(lease(refund, worker))
    assert again(parent).error.endswith("Not compensated: 'b', 'a'.")

    submission.retry(parent.id)
    first = lease(refund, worker)
    assert (again(first).payload, claim(refund, worker)) == (2, None)
    complete(first)
    complete(lease(refund, worker))

    assert again(parent).status == "FAILED"
    assert compensations(parent) == [("b", "COMPLETED"), ("a", "COMPLETED")]


def test_a_pipeline_that_was_undone_is_not_retried_but_its_fork_does_all_of_it_again(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    kept = child(echo, "kept", 5)
    parent = submit(last, children=booking(echo, refund, kept))
    drain(worker=worker)

    with pytest.raises(NotRetryable) as refused:
        submission.retry(parent.id)
    assert isinstance(refused.value, Compensated)
    Job.objects.filter(parent=parent, name="c").update(payload=3)
    new = fork(again(parent), "c")
    begun = Step.objects.filter(job__parent=new, outcome="REUSED").values_list("job__name", flat=True)

    assert set(begun) == {"kept"}
    drain(worker=worker)
    assert again(new).status == "COMPLETED"
    assert undone == [2, 1]


def test_what_a_fork_took_over_is_not_undone_by_it(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    steps = [child(echo, "a", 1, refund), child(echo, "b", "fails", after=["a"], on_failure="fail")]
    parent = submit(last, children=[*steps, child(echo, "c", 2, refund, after=["a"])])
    drain(worker=worker)

    new = fork(again(parent), "c")
    submission.cancel(new.id)
    drain(worker=worker)

    assert (again(new).status, undone) == ("CANCELLED", [])


def test_of_a_list_each_item_that_was_done_is_undone(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    payload = {"n": item_ref("n"), "place": index_ref(), "result": ref("each")}
    rows = [{"n": "one"}, {"n": "two"}, "fails"]
    each = child(echo, "each", ITS_ITEM, refund, payload, each=ref("rows"), max_running=1)
    parent = submit(last, children=[child(echo, "rows", rows), each])

    drain(worker=worker)

    assert undone == [
        {"n": "two", "place": 1, "result": {"n": "two"}},
        {"n": "one", "place": 0, "result": {"n": "one"}},
    ]
    assert compensations(parent) == [("each[1]", "COMPLETED"), ("each[0]", "COMPLETED")]


def test_the_payload_takes_results_of_earlier_steps_and_one_that_is_missing_fails_it(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    steps = booking(echo, refund)
    steps[0].compensate["payload"] = ref("a", "gone")
    steps[1].compensate["payload"] = {"a": ref("a"), "b": ref("b")}
    parent = submit(last, children=steps)

    drain(worker=worker)

    assert undone == [{"a": 1, "b": 2}]
    assert compensations(parent) == [("b", "COMPLETED"), ("a", "FAILED")]
    assert again(parent).error.endswith("Not compensated: 'a'.")


def test_a_compensation_that_is_cancelled_lets_the_others_go_on(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone
) -> None:
    parent = submit(last, children=booking(echo, refund))
    for _ in "abc":
        run(echo, worker)

    submission.cancel(Job.objects.get(parent=parent, name="compensate:b").id)
    drain(worker=worker)

    assert undone == [1]
    assert again(parent).error.endswith("Not compensated: 'b'.")


def test_compensations_are_added_once_however_often_it_is_unwound_and_a_tick_goes_on_for_a_dead_process(
    echo: Kind, last: Kind, refund: Kind, worker: WorkerProcess, undone: Undone, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = submit(last, children=booking(echo, refund))
    with monkeypatch.context() as dies:
        dies.setattr(pipelines, "in_turn", lambda work, *args: None)
        for _ in "abc":
            run(echo, worker)
    assert claim(refund, worker) is None

    for _ in range(3):
        tick.run_parts()
        pipelines.unwind(parent.id)
    assert names(MISCOUNTED, overdue=OVERDUE, most=100) == []
    drain(worker=worker)

    assert undone == [2, 1]
    assert again(parent).status == "FAILED"


def test_it_is_written_in_python(echo: Kind, refund: Kind, worker: WorkerProcess, undone: Undone) -> None:
    pipeline = (
        Pipeline("book")
        .step("seat", echo, {"id": 7}, compensate=undo(refund, {"seat": ref("seat", "id")}))
        .step("pay", "pipeline.value", "fails", after=["seat"], when={"$from": "seat.id", "gt": "x"})
    )
    parent = start(pipeline)

    drain(worker=worker)

    assert (again(parent).status, undone) == ("FAILED", [{"seat": 7}])


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"compensate": {"kind": "gone"}}, "/children/0/compensate/kind"),
        ({"compensate": {}}, "/children/0/compensate"),
        ({"compensate": {"kind": "pipeline.value", "payload": ref("z")}}, "/children/0/after"),
        ({"compensate": {"kind": "pipeline.value", "payload": item_ref()}}, "/children/0/compensate/payload"),
        ({"compensate": {"kind": "orchestration.two_batches"}}, "/children/0/compensate/kind"),
        ({"name": "compensate:x"}, "/children/0/name"),
        ({"name": "x" * 84, "compensate": {"kind": "pipeline.value"}}, "/children/0/name"),
    ],
)
def test_what_could_not_be_undone_is_refused(options: dict[str, Any], pointer: str, echo: Kind, last: Kind) -> None:
    with pytest.raises(BadSubmission) as refused:
        submit(last, children=[Child(**({"name": "a", "kind": echo.name} | options))])

    assert refused.value.problems[0].pointer == pointer
    assert not Job.objects.exists()


def test_many_compensations_take_no_more_statements_to_begin_with_than_a_few(
    echo: Kind, last: Kind, refund: Kind, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    few, many = (submit(last, children=[child(echo, str(n), n, refund) for n in range(count)]) for count in (2, 200))
    for parent in (few, many):
        done = Job.objects.filter(parent=parent)
        put(done, status="COMPLETED", ready=False, finished_at=Now(), result=1)
        put(Job.objects.filter(id=parent.id), status="RUNNING", unfinished_dependencies=0)

    for parent in (few, many):
        with transaction.atomic(), django_assert_num_queries(2):
            assert begin(parent, always=True)

    assert Step.objects.filter(compensates__isnull=False).count() == 202
