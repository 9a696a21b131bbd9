"""Graphs: steps that take earlier results, run only under a condition, or may fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from orchestrator import submission
from orchestrator.kinds import Child, Kind
from orchestrator.models import Attempt, Job, Step
from orchestrator.queue import pipelines
from orchestrator.submission import BadSubmission, submit
from orchestrator.testing import drain
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, run

pytestmark = pytest.mark.django_db(transaction=True)


class Order(msgspec.Struct, forbid_unknown_fields=True):
    amount: int
    note: str = ""


@pytest.fixture
def echo(kind: DeclareKind) -> Kind:
    """Returns its payload; fails if that says so."""

    def handler(running: Any, payload: Any) -> Any:
        if payload == "fail":
            raise ValueError("as asked")
        return payload

    return kind(handler, payload=Any, max_attempts=1, backoff_seconds=0)


def graph(last: Kind, *steps: Child) -> tuple[Job, dict[str, Job]]:
    """Submits a pipeline; returns it and its steps by name."""
    parent = submit(last, children=steps)
    return parent, {child.name: child for child in Job.objects.filter(parent=parent)}


def ended(parent: Job) -> dict[str, tuple[str, Any]]:
    """What became of the steps, with their results."""
    steps = Job.objects.filter(parent=parent).select_related("step")
    outcomes = dict(Step.objects.filter(job__parent=parent).values_list("job", "outcome"))
    return {each.name: (outcomes.get(each.id) or each.status, each.result) for each in steps}


def child(kind: Kind, name: str, payload: Any = None, *, after: Sequence[str] = (), **options: Any) -> Child:
    return Child(name=name, kind=kind.name, payload={} if payload is None else payload, after=after, **options)


def test_a_step_is_given_parts_of_earlier_results(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, steps = graph(
        last,
        child(echo, "rows", {"rows": [{"n": 1}, {"n": 2}]}),
        child(
            echo,
            "load",
            {
                "second": {"$from": "rows.rows.1.n"},
                "all": {"$from": ["rows"]},
                "none": {"$from": "rows.gone", "default": 0},
                "as it is": {"$literal": {"$from": "x"}},
            },
        ),
    )

    drain(worker=worker)

    rows = {"rows": [{"n": 1}, {"n": 2}]}
    given = {"second": 2, "all": rows, "none": 0, "as it is": {"$from": "x"}}
    assert ended(parent)["load"] == ("COMPLETED", given)
    assert again(steps["load"]).payload == given
    assert again(parent).status == "COMPLETED"


def test_a_literal_without_references_is_stored_as_it_is_meant(echo: Kind, last: Kind) -> None:
    _, steps = graph(last, child(echo, "a", {"x": {"$literal": {"$from": "b"}}}))

    assert (steps["a"].payload, steps["a"].ready) == ({"x": {"$from": "b"}}, True)


def test_a_step_whose_value_is_missing_fails_plainly(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, steps = graph(last, child(echo, "a", {"b": 1}), child(echo, "c", {"$from": "a.b.d"}))

    drain(worker=worker)

    error = "It could not start. a.b.d: a.b is 1, which has no 'd'."
    assert (again(steps["c"]).status, again(steps["c"]).error) == ("FAILED", error)
    assert (again(parent).status, again(parent).error) == ("FAILED", f"The child 'c' failed: {error}")
    assert Attempt.objects.get(job=steps["c"]).error == error


def test_a_payload_that_does_not_fit_in_the_end_fails_the_step(
    echo: Kind, last: Kind, kind: DeclareKind, worker: WorkerProcess
) -> None:
    order = kind(payload=Order)
    _parent, steps = graph(last, child(echo, "a", "many"), child(order, "b", {"amount": {"$from": "a"}}))

    drain(worker=worker)

    assert "It could not start. /payload/amount: Expected `int`, got `str`." in again(steps["b"]).error


def test_a_retried_pipeline_resolves_again_what_could_not_start(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, steps = graph(last, child(echo, "a", {"b": 1}), child(echo, "c", {"$from": "a.d"}))
    drain(worker=worker)
    Job.objects.filter(id=steps["a"].id).update(result={"d": 7})

    submission.retry(parent.id)
    drain(worker=worker)

    assert again(parent).status == "COMPLETED"
    assert ended(parent)["c"] == ("COMPLETED", 7)


def test_a_step_runs_when_its_condition_holds(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, _ = graph(
        last,
        child(echo, "a", {"n": 5}),
        child(echo, "runs", when={"$from": "a.n", "gt": 4}),
        child(echo, "does not", when={"step": "a", "is": "failed"}),
    )

    drain(worker=worker)

    assert ended(parent)["runs"] == ("COMPLETED", {})
    assert ended(parent)["does not"] == ("SKIPPED", None)
    assert again(parent).status == "COMPLETED"


def test_a_condition_without_an_answer_fails_the_step(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, _ = graph(last, child(echo, "a", {"n": 5}), child(echo, "b", when={"$from": "a.n", "gt": "x"}))

    drain(worker=worker)

    assert ended(parent)["b"][0] == "FAILED"
    assert again(parent).status == "FAILED"


def test_what_follows_only_skipped_steps_is_skipped_and_a_join_runs(
    echo: Kind, last: Kind, worker: WorkerProcess
) -> None:
    never = {"$from": "a.n", "eq": 0}
    parent, _ = graph(
        last,
        child(echo, "a", {"n": 1}),
        child(echo, "b", when=never),
        child(echo, "c", after=["b"]),
        child(echo, "d", after=["c"]),
        child(echo, "join", after=["a", "d"]),
    )

    drain(worker=worker)

    states = {name: state for name, (state, _) in ended(parent).items()}
    assert states == {"a": "COMPLETED", "b": "SKIPPED", "c": "SKIPPED", "d": "SKIPPED", "join": "COMPLETED"}


def test_a_long_chain_of_skipped_steps_ends(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    steps = [child(echo, "s0", {"n": 1}), child(echo, "s1", when={"$from": "s0.n", "eq": 0})]
    steps += [child(echo, f"s{n}", after=[f"s{n - 1}"]) for n in range(2, 120)]
    parent, _ = graph(last, *steps)

    drain(worker=worker)

    assert again(parent).status == "COMPLETED"
    assert Step.objects.filter(outcome="SKIPPED").count() == 119


def test_what_comes_after_a_step_that_may_fail_goes_on(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, steps = graph(
        last,
        child(echo, "a", "fail", on_failure="continue"),
        child(echo, "b", after=["a"]),
        child(echo, "else", when={"step": "a", "is": "failed"}),
        child(echo, "then", when={"step": "a", "is": "completed"}),
    )

    drain(worker=worker)

    assert again(parent).status == "COMPLETED"
    assert {name: state for name, (state, _) in ended(parent).items()} == {
        "a": "PASSED", "b": "COMPLETED", "else": "COMPLETED", "then": "SKIPPED"
    }  # fmt: skip
    assert again(steps["a"]).status == "FAILED"


def test_a_long_chain_of_steps_that_cannot_start_and_may_fail_ends(
    echo: Kind, last: Kind, worker: WorkerProcess
) -> None:
    steps = [child(echo, "s0", {"n": 1})]
    steps += [child(echo, f"s{n}", {"$from": f"s{n - 1}.x"}, on_failure="continue") for n in range(1, 60)]
    parent, _ = graph(last, *steps)

    drain(worker=worker)

    assert again(parent).status == "COMPLETED"
    assert Step.objects.filter(outcome="PASSED").count() == 59


def test_a_step_that_was_passed_is_not_run_again_by_a_retry(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent, steps = graph(last, child(echo, "a", "fail", on_failure="continue"), child(echo, "b", "fail", after=["a"]))
    drain(worker=worker)
    assert again(parent).status == "FAILED"
    Job.objects.filter(id=steps["b"].id).update(payload="good")

    submission.retry(parent.id)
    drain(worker=worker)

    assert (again(parent).status, again(steps["a"]).attempt) == ("COMPLETED", 1)


def test_a_tick_resolves_and_passes_on_what_a_dead_process_has_left(
    echo: Kind, last: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, steps = graph(
        last,
        child(echo, "a", {"n": 1}),
        child(echo, "b", "fail", on_failure="continue"),
        child(echo, "c", {"$from": "a.n"}, after=["b"]),
    )
    with monkeypatch.context() as dies:
        dies.setattr(pipelines, "in_turn", lambda *work: None)
        run(echo, worker)
        run(echo, worker)
    assert not again(steps["c"]).ready

    tick.run_parts()

    assert (again(steps["c"]).ready, again(steps["c"]).payload) == (True, 1)
    drain(worker=worker)
    assert again(parent).status == "COMPLETED"


def test_a_step_that_may_fail_does_not_hold_up_a_pipeline_that_unwinds(
    echo: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent, _ = graph(last, child(echo, "a", "fail"), child(echo, "b", "fail", on_failure="continue"))

    drain(worker=worker)

    assert again(parent).status == "FAILED"
    assert "'a' failed" in again(parent).error


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"payload": {"x": {"$from": "gone.y"}}}, "/children/1/after"),
        ({"payload": {"x": {"$from": "a", "more": 1}}}, "/children/1/payload/x"),
        ({"payload": {"x": {"$from": 7}}}, "/children/1/payload/x/$from"),
        ({"when": {"eval": "1"}}, "/children/1/when"),
        ({"when": {"step": "a", "is": "gone"}}, "/children/1/when/is"),
        ({"on_failure": "explode"}, "/children/1/on_failure"),
    ],
)
def test_what_cannot_be_resolved_is_refused_and_nothing_is_stored(
    options: Any, pointer: str, echo: Kind, last: Kind
) -> None:
    with pytest.raises(BadSubmission) as refused:
        submit(last, children=[child(echo, "a"), child(echo, "b", options.pop("payload", None), **options)])

    assert refused.value.problems[0].pointer == pointer
    assert not Job.objects.exists()
