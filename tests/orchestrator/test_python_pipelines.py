"""Pipelines written in Python: steps side by side and one after the other."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.composition import start
from orchestrator.graphs.checks import BadGraph
from orchestrator.jobs import Nothing, Slices, slices, two_batches
from orchestrator.kinds import Kind
from orchestrator.models import Dependency, Job
from orchestrator.pipelines import Pipeline, chain, group, ref, signal_ref, step
from orchestrator.submission import BadSubmission
from orchestrator.testing import drain
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again


def after(pipeline: Pipeline) -> dict[str, list[str]]:
    return {each.name: list(each.after) for each in pipeline}


def test_the_parts_of_a_chain_come_after_each_other() -> None:
    draws = group(step("a", slices), step("b", slices))

    assert after(chain(draws, step("sum", slices), group(step("c", slices), step("d", slices)))) == {
        "a": [], "b": [], "sum": ["a", "b"], "c": ["sum"], "d": ["sum"]
    }  # fmt: skip


def test_chains_and_groups_nest() -> None:
    branches = group(chain(step("a1", slices), step("a2", slices)), chain(step("b1", slices), step("b2", slices)))

    assert after(chain(step("first", slices), branches, step("last", slices))) == {
        "first": [], "a1": ["first"], "a2": ["a1"], "b1": ["first"], "b2": ["b1"], "last": ["a2", "b2"]
    }  # fmt: skip


def test_large_groups_next_to_each_other_are_refused() -> None:
    first, second = (group(*(step(f"{part}{n}", slices) for n in range(400))) for part in "ab")

    with pytest.raises(ValueError, match="put a step between the groups"):
        chain(first, second)


def test_calls_chain() -> None:
    pipeline = Pipeline("p").step("a", slices, Slices(slices=1)).step("b", "demo.slices", after=["a"], priority=0)

    assert after(pipeline) == {"a": [], "b": ["a"]}
    assert (pipeline[0].payload, pipeline[1].priority, len(pipeline)) == (Slices(slices=1), 0, 2)


def test_the_two_batches_are_the_graph_they_were() -> None:
    graph = after(two_batches(Nothing()))

    firsts, seconds = ([f"{batch}_draw_{n}" for n in range(1, 6)] for batch in ("first", "second"))
    assert graph == (
        {name: [] for name in firsts}
        | {"first_sum": firsts, "second_sum": seconds}
        | {name: ["first_sum"] for name in seconds}
    )


@pytest.mark.django_db(transaction=True)
def test_a_pipeline_is_started_with_its_references(kind: DeclareKind, worker: WorkerProcess) -> None:
    def handler(running: Any, payload: Any) -> Any:
        return payload

    echo: Kind[Any, Any, ...] = kind(handler, payload=Any)
    pipeline = (
        Pipeline("p", result={"n": ref("b", "n"), "m": ref("b", "m")})
        .step("b", echo, {"n": ref("a", "n"), "m": ref("a", "gone", default=7)})
        .step("a", echo, {"n": 5})
    )

    job = start(pipeline, owner="ada")
    drain(worker=worker)

    assert (again(job).status, again(job).result) == ("COMPLETED", {"n": 5, "m": 7})
    assert set(Job.objects.values_list("owner", flat=True)) == {"ada"}
    assert Dependency.objects.count() == 1


@pytest.mark.django_db
def test_what_could_not_run_is_refused_and_nothing_is_stored() -> None:
    circle = Pipeline().step("a", slices, after=["b"]).step("b", slices, after=["a"])
    dangling = Pipeline().step("a", slices, after=["gone"])
    twice = group(step("a", slices), step("a", slices))
    no_signal = Pipeline().step("a", slices, {"slices": signal_ref("n")})

    for pipeline, error in [
        (circle, BadGraph), (dangling, BadSubmission), (twice, BadSubmission), (no_signal, BadGraph)
    ]:  # fmt: skip
        with pytest.raises(error):
            start(pipeline)
    assert not Job.objects.exists()
