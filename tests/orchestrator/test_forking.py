"""Pipelines that take over the results of another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator import submission
from orchestrator.composition import NoSuchStep, fork
from orchestrator.diagnostics.queries import names
from orchestrator.doctor.jobs import MISCOUNTED, OVERDUE
from orchestrator.graphs.each import ITS_ITEM
from orchestrator.kinds import Child, Kind
from orchestrator.models import Dependency, Job, Step
from orchestrator.submission import submit
from orchestrator.testing import drain
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def last(kind: DeclareKind) -> Kind:
    return kind(max_attempts=1)


def child(kind: Kind, name: str, payload: Any = None, *, after: Sequence[str] = (), **options: Any) -> Child:
    return Child(name=name, kind=kind.name, payload=payload, after=after, **options)


def ended(parent: Job) -> dict[str, tuple[str, Any]]:
    """What became of the steps, with their results."""
    outcomes = dict(Step.objects.filter(job__parent=parent).values_list("job", "outcome"))
    children = Job.objects.filter(parent=parent).order_by("id")
    return {each.name: (outcomes.get(each.id) or each.status, each.result) for each in children}


def edges(parent: Job) -> set[tuple[str, str]]:
    return set(Dependency.objects.filter(job__parent=parent).values_list("job__name", "depends_on__name"))


def test_only_the_step_and_what_comes_after_it_run_again(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    steps = [child(echo, "a", 1), child(echo, "b", 2), child(echo, "c", {"$from": "b"}), child(echo, "d", after="ac")]
    parent = submit(last, children=steps, owner="ada", priority=2)
    drain(worker=worker)

    new = fork(again(parent), "b")
    begun = ended(new)
    drain(worker=worker)

    assert {name: state for name, (state, _) in begun.items()} == {
        "a": "REUSED", "b": "CREATED", "c": "CREATED", "d": "CREATED"
    }  # fmt: skip
    assert ended(new) == {"a": ("REUSED", 1), "b": ("COMPLETED", 2), "c": ("COMPLETED", 2), "d": ("COMPLETED", {})}
    assert (again(new).status, new.owner, new.priority) == ("COMPLETED", "ada", 2)
    assert edges(new) == edges(parent) == {("c", "b"), ("d", "a"), ("d", "c")}
    assert again(parent).status == "COMPLETED"


def test_what_has_not_completed_runs_again_as_well(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent = submit(last, children=[child(echo, "a", 1), child(echo, "b", "no"), child(echo, "c", after=["a"])])
    drain(worker=worker)
    assert again(parent).status == "FAILED"
    Job.objects.filter(parent=parent, name="b").update(payload=2)

    new = fork(again(parent), "c")
    drain(worker=worker)

    assert ended(new) == {"a": ("REUSED", 1), "b": ("COMPLETED", 2), "c": ("COMPLETED", {})}
    assert again(new).status == "COMPLETED"


def test_conditions_skipped_steps_and_lists_are_taken_over(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    steps = [
        child(echo, "rows", [1, 2]),
        child(echo, "never", when={"$from": "rows.0", "gt": 1}),
        child(echo, "each", ITS_ITEM, each={"$from": "rows"}, max_running=1),
        child(echo, "end", {"$from": "each"}, after=["never"]),
    ]
    parent = submit(last, children=steps)
    drain(worker=worker)

    new = fork(again(parent), "end")
    drain(worker=worker)
    whole = fork(again(new), "rows")
    drain(worker=worker)

    assert ended(new) == {
        "rows": ("REUSED", [1, 2]),
        "never": ("SKIPPED", None),
        "each": ("REUSED", [1, 2]),
        "end": ("COMPLETED", [1, 2]),
    }
    assert {name: state for name, (state, _) in ended(whole).items()} == {
        "rows": "COMPLETED", "never": "SKIPPED", "each[0]": "COMPLETED", "each[1]": "COMPLETED", "each": "COMPLETED",
        "end": "COMPLETED",
    }  # fmt: skip


def test_a_payload_that_looks_like_a_reference_stays_what_it_is(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    literal = {"$literal": {"$from": "x"}}
    parent = submit(last, children=[child(echo, "a", literal), child(echo, "b", after=["a"])])

    new = fork(parent, "a")
    drain(worker=worker)

    assert ended(new)["a"] == ended(parent)["a"] == ("COMPLETED", {"$from": "x"})


def test_counters_stay_right_where_a_reused_step_follows_one_that_runs_again(
    echo: Kind, last: Kind, worker: WorkerProcess
) -> None:
    steps = [child(echo, "a", "no", on_failure="continue"), child(echo, "b", after=["a"]), child(echo, "c", "no")]
    parent = submit(last, children=steps)
    drain(worker=worker)

    new = fork(again(parent), "c")

    assert [state for state, _ in ended(new).values()] == ["CREATED", "REUSED", "CREATED"]
    assert names(MISCOUNTED, overdue=OVERDUE, most=100) == []
    drain(worker=worker)
    assert [state for state, _ in ended(new).values()] == ["PASSED", "REUSED", "FAILED"]


def test_a_fork_is_cancelled_and_retried_like_any_pipeline(echo: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent = submit(last, children=[child(echo, "a", 1), child(echo, "b", after=["a"])])
    drain(worker=worker)
    new = fork(again(parent), "b")

    submission.cancel(new.id)
    submission.retry(new.id)
    drain(worker=worker)

    assert (again(new).status, ended(new)["a"]) == ("COMPLETED", ("REUSED", 1))


def test_a_step_that_there_is_not_is_refused(echo: Kind, last: Kind) -> None:
    parent = submit(last, children=[child(echo, "a", 1)])

    with pytest.raises(NoSuchStep, match=r"no step 'b'; its first ones are: a\."):
        fork(parent, "b")

    assert Job.objects.count() == 2
