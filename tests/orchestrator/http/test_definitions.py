"""Pipelines that code defines by a name: started by clients and schedules, and what runs keeps its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from orchestrator import kinds
from orchestrator.composition import fork, pipeline_detail
from orchestrator.graphs.checks import BadGraph
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.pipelines import Pipeline, pipeline, ref
from orchestrator.submission import submit
from orchestrator.testing import drain
from orchestrator.worker.process import WorkerProcess
from tests.api import Api
from tests.orchestrator.workbench import again

pytestmark = pytest.mark.django_db(transaction=True)


class Order(msgspec.Struct, forbid_unknown_fields=True):
    amount: int


Define = Callable[..., Kind]


@pytest.fixture
def define() -> Iterator[Define]:
    """Defines a pipeline anew, as another release does, under a name that is forgotten after the test."""
    name = f"test.definition_{uuid4().hex}"

    def declare(function: Callable[[Any], Pipeline], **options: Any) -> Kind:
        forget()
        return pipeline(name, payload=Order, **options)(function)

    def forget() -> None:
        if kinds.known_kind(name):
            kinds.forget_kind(name)

    yield declare
    forget()


def doubled(order: Order) -> Pipeline:
    """Doubles an amount."""
    return (
        Pipeline(result={"sum": ref("second")})
        .step("second", "pipeline.value", {"$from": "first.amount"})
        .step("first", "pipeline.value", {"amount": 2 * order.amount})
    )


def step_names(job: Job) -> list[str]:
    return list(Job.objects.filter(parent=job).order_by("id").values_list("name", flat=True))


def test_it_is_planned_from_its_payload_and_returns_what_it_says(define: Define, worker: WorkerProcess) -> None:
    job = submit(define(doubled), Order(4))

    drain(worker=worker)

    assert (again(job).status, again(job).result) == ("COMPLETED", {"sum": 8})
    assert (step_names(job), pipeline_detail(again(job))["version"]) == (["first", "second"], 1)


def test_without_a_result_it_returns_what_its_last_step_does(define: Define, worker: WorkerProcess) -> None:
    job = submit(define(lambda order: Pipeline().step("a", "pipeline.value", order.amount)), Order(4))

    drain(worker=worker)

    assert again(job).result == 4


def test_one_that_runs_keeps_its_graph_and_its_version_when_the_code_changes(
    define: Define, worker: WorkerProcess
) -> None:
    job = submit(define(doubled), Order(4))
    changed = define(lambda order: Pipeline(result="new").step("other", "pipeline.value"), version=2)

    drain(worker=worker)
    new = submit(changed, Order(4))
    drain(worker=worker)

    assert (step_names(job), again(job).result) == (["first", "second"], {"sum": 8})
    assert (step_names(new), again(new).result) == (["other"], "new")
    assert [pipeline_detail(again(each))["version"] for each in (job, new)] == [1, 2]


def test_a_fork_has_the_graph_of_what_it_is_forked_from(define: Define, worker: WorkerProcess) -> None:
    job = submit(define(doubled), Order(4))
    drain(worker=worker)
    define(lambda order: Pipeline(result="new").step("other", "pipeline.value"), version=2)

    new = fork(again(job), "second")
    drain(worker=worker)

    assert (again(new).result, pipeline_detail(again(new))["version"]) == ({"sum": 8}, 1)


def test_one_that_could_not_run_is_refused(define: Define) -> None:
    def circle(order: Order) -> Pipeline:
        return Pipeline().step("a", "pipeline.value", after=["b"]).step("b", "pipeline.value", after=["a"])

    with pytest.raises(BadGraph, match="wait for each other"):
        submit(define(circle), Order(1))

    assert not Job.objects.exists()


def test_a_client_starts_one_by_its_name(define: Define, api: Api, worker: WorkerProcess) -> None:
    name = define(doubled).name

    response = api.post(
        "/pipelines", {"definition": name, "input": {"amount": 3}, "priority": 1, "deadline_seconds": 9}
    )
    drain(worker=worker)

    assert (response.status_code, response.json()["steps"]) == (202, 2)
    shown = api.get(response.json()["status_url"]).json()
    assert (shown["kind"], shown["version"], shown["result"]) == (name, 1, {"sum": 6})


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"input": {"amount": "x"}}, ("/input/amount", "invalid")),
        ({}, ("/input", "invalid")),
        ({"input": {"amount": 1}, "name": "mine"}, ("/name", "not_allowed")),
        ({"input": {"amount": 1}, "steps": {}}, ("/steps", "not_allowed")),
        ({"definition": "gone"}, ("/definition", "unknown_kind")),
        ({"definition": "demo.slices"}, ("/definition", "no_pipeline")),
        ({"definition": "orchestration.draw"}, ("/definition", "internal_kind")),
    ],
)
def test_what_cannot_be_started_is_refused(body: Any, problem: tuple[str, str], define: Define, api: Api) -> None:
    response = api.post("/pipelines", {"definition": define(doubled).name} | body)

    assert response.status_code == 400
    assert [(each["pointer"], each["code"]) for each in response.json()["errors"]] == [problem]
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("body", "pointer"), [({}, "/steps"), ({"steps": {"a": {"kind": "demo.slices"}}, "input": 1}, "/input")]
)
def test_steps_or_a_definition_are_needed(body: Any, pointer: str, api: Api) -> None:
    response = api.post("/pipelines", body)

    assert response.status_code == 400
    assert [each["pointer"] for each in response.json()["errors"]] == [pointer]
