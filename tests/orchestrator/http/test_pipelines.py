"""Pipelines over HTTP: graphs are checked as wholes, and shown with all of their steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from pytest_django import DjangoAssertNumQueries

from orchestrator.http import examples
from orchestrator.http.pipeline_serializers import PipelineSerializer
from orchestrator.kinds import Kind
from orchestrator.models import Dependency, Job, Step
from orchestrator.states import Status
from orchestrator.testing import drain
from orchestrator.worker.process import WorkerProcess
from tests.api import Api, Response
from tests.factories import make_job
from tests.moves import put
from tests.orchestrator.workbench import DeclareKind

pytestmark = pytest.mark.django_db


class Order(msgspec.Struct, forbid_unknown_fields=True):
    amount: int
    to: str
    note: str = ""


@pytest.fixture
def order(kind: DeclareKind) -> Kind:
    return kind(payload=Order)


def problems(response: Response) -> list[tuple[str, str]]:
    assert response.status_code == 400
    return [(each["pointer"], each["code"]) for each in response.json()["errors"]]


def slices(**options: Any) -> dict[str, Any]:
    return {"kind": "demo.slices", **options}


@pytest.mark.parametrize("body", examples.NEW_PIPELINES.values(), ids=str)
def test_a_graph_becomes_a_job_with_its_steps(body: Any, api: Api) -> None:
    response = api.post("/pipelines", body)

    assert response.status_code == 202
    accepted = response.json()
    assert accepted["steps"] == len(body["steps"]) == Job.objects.filter(parent=accepted["pipeline_id"]).count()
    assert response["Location"].endswith(accepted["status_url"])
    assert Job.objects.get(id=accepted["pipeline_id"]).kind == "pipeline.run"


def test_what_a_step_refers_to_comes_before_it(api: Api) -> None:
    api.post(
        "/pipelines",
        {
            "steps": {
                "c": slices(payload={"slices": {"$from": "b.slices"}}, after=["a"]),
                "b": slices(when={"step": "a", "is": "completed"}),
                "a": slices(),
            }
        },
    )

    needs = set(Dependency.objects.values_list("job__name", "depends_on__name"))
    assert needs == {("c", "b"), ("c", "a"), ("b", "a")}
    assert list(Job.objects.exclude(parent=None).order_by("id").values_list("name", flat=True)) == ["a", "b", "c"]
    assert set(Job.objects.filter(ready=True).values_list("name", flat=True)) == {"a"}


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ({}, ("/steps", "count")),
        ({"a b": slices()}, ("/steps/a b", "name")),
        ({"a": 1}, ("/steps/a", "invalid")),
        ({"a": {}}, ("/steps/a", "invalid")),
        ({"a": slices(more=1)}, ("/steps/a", "invalid")),
        ({"a": slices(priority=10)}, ("/steps/a/priority", "invalid")),
        ({"a": slices(on_failure="explode")}, ("/steps/a/on_failure", "invalid")),
        ({"a": {"kind": "demo.slice"}}, ("/steps/a/kind", "unknown_kind")),
        ({"a": {"kind": "orchestration.draw"}}, ("/steps/a/kind", "internal_kind")),
        (
            {"a": {"pipeline": {"steps": {"b": slices(after=["c"])}}}},
            ("/steps/a/pipeline/steps/b/after/0", "unknown_step"),
        ),
        ({"a": slices(payload={"slices": "many"})}, ("/steps/a/payload/slices", "invalid")),
        ({"a": slices(payload={"slices": {"$literal": "many"}})}, ("/steps/a/payload/slices", "invalid")),
        ({"a": slices(after=["b"])}, ("/steps/a/after/0", "unknown_step")),
        ({"a": slices(payload={"slices": {"$from": "b.n"}})}, ("/steps/a/payload/slices", "unknown_step")),
        ({"a": slices(payload={"slices": {"$from": 1}})}, ("/steps/a/payload/slices/$from", "reference")),
        ({"a": slices(when={"step": "b", "is": "failed"})}, ("/steps/a/when", "unknown_step")),
        ({"a": slices(when={"eval": "1"})}, ("/steps/a/when", "reference")),
        ({"a": slices(after=["a"])}, ("/steps/a/after", "cycle")),
        ({"a": slices(each=["b"])}, ("/steps/a/each", "reference")),
        ({"a": slices(each={"$from": "b"})}, ("/steps/a/each", "unknown_step")),
        ({"a": slices(max_running=1)}, ("/steps/a/max_running", "invalid")),
        ({"a": slices(max_running=0)}, ("/steps/a/max_running", "invalid")),
        (
            {"a": slices(), "b": slices(each={"$from": "a"}, payload={"slices": 0})},
            ("/steps/b/payload/slices", "invalid"),
        ),
        ({"a": slices(payload={"slices": {"$from": "$item"}})}, ("/steps/a/payload/slices", "unknown_step")),
        ({"a" * 95: slices(each={"$from": "a"}), "a": slices()}, (f"/steps/{'a' * 95}", "name")),
        ({"a": slices(compensate={})}, ("/steps/a/compensate", "invalid")),
        ({"a": slices(compensate={"kind": "gone"})}, ("/steps/a/compensate/kind", "unknown_kind")),
        ({"a": slices(compensate=slices(payload={"slices": 0}))}, ("/steps/a/compensate/payload/slices", "invalid")),
        (
            {"a": slices(compensate=slices(payload={"slices": {"$from": "b.n"}}))},
            ("/steps/a/compensate/payload/slices", "unknown_step"),
        ),
        ({"a" * 84: slices(compensate=slices())}, (f"/steps/{'a' * 84}", "name")),
    ],
)
def test_a_graph_that_could_not_run_is_refused_and_nothing_is_stored(
    steps: Any, problem: tuple[str, str], api: Api
) -> None:
    response = api.post("/pipelines", {"steps": steps})

    assert problems(response) == [problem]
    assert not Job.objects.exists()


def test_every_problem_is_told(api: Api) -> None:
    body = {"steps": {"a": slices(payload={"slices": 0}), "b": slices(after=["c"])}, "result": {"$from": "d"}}

    assert problems(api.post("/pipelines", body)) == [
        ("/steps/a/payload/slices", "invalid"), ("/steps/b/after/0", "unknown_step"), ("/result", "unknown_step")
    ]  # fmt: skip


def test_the_steps_of_a_circle_are_named(api: Api) -> None:
    steps = {"a": slices(after=["c"]), "b": slices(after=["a"]), "c": slices(after=["b"]), "d": slices()}

    detail = api.post("/pipelines", {"steps": steps}).json()["errors"][0]["detail"]

    assert detail.count("→") == 3
    assert all(name in detail for name in "abc")


@pytest.mark.parametrize(
    ("payload", "pointers"),
    [
        ({"amount": {"$from": "a.n"}, "to": "ada"}, []),
        ({"amount": {"$from": "a.n"}, "to": 5}, ["/steps/b/payload/to"]),
        ({"amount": {"$from": "a.n"}}, ["/steps/b/payload"]),
        ({"amount": {"$from": "a.n"}, "to": "ada", "from": 1}, ["/steps/b/payload"]),
        ({"$from": "a"}, []),
    ],
)
def test_of_a_payload_with_references_the_rest_is_checked(
    payload: Any, pointers: list[str], order: Kind, api: Api
) -> None:
    response = api.post("/pipelines", {"steps": {"a": slices(), "b": {"kind": order.name, "payload": payload}}})

    assert [each["pointer"] for each in response.json().get("errors", [])] == pointers


def test_a_pipeline_is_shown_as_documented(api: Api) -> None:
    steps = {"a": slices(), "b": slices(after=["a"], when={"$from": "a.slices", "gt": 3})}
    id = api.post("/pipelines", {"name": "two", "steps": steps}).json()["pipeline_id"]
    first = Job.objects.filter(name="a")
    times = {"started_at": "2030-01-31T12:00:00Z", "finished_at": "2030-01-31T12:00:02Z"}
    put(first, status=Status.COMPLETED, result={"slices": 1}, ready=False, attempt=1, **times)

    shown = api.get(f"/pipelines/{id}").json()

    assert list(shown) == list(PipelineSerializer().fields)
    assert (shown["name"], shown["progress"], shown["counts"], shown["critical_path"]) == (
        "two", {"done": 1, "total": 2}, {"completed": 1, "created": 1}, ["a"]
    )  # fmt: skip
    assert [(each["name"], each["after"], each["seconds"]) for each in shown["steps"]] == [
        ("a", [], 2.0), ("b", ["a"], None)
    ]  # fmt: skip


def test_only_what_has_steps_is_a_pipeline(api: Api) -> None:
    job = make_job(Status.FAILED)

    assert api.get(f"/pipelines/{job.id}").status_code == 404
    assert api.post(f"/pipelines/{job.id}/retry").status_code == 404
    assert api.delete(f"/pipelines/{job.id}").status_code == 404


def test_a_pipeline_is_cancelled_and_retried_as_a_whole(api: Api) -> None:
    id = api.post("/pipelines", {"steps": {"a": slices(), "b": slices(after=["a"])}}).json()["pipeline_id"]

    cancelled = api.delete(f"/pipelines/{id}")
    refused = api.delete(f"/pipelines/{id}")
    retried = api.post(f"/pipelines/{id}/retry")

    assert (cancelled.status_code, cancelled.json()["counts"]) == (200, {"cancelled": 2})
    assert refused.status_code == 200
    assert (retried.status_code, retried.json()["counts"]) == (202, {"created": 2})


def test_others_do_not_see_a_pipeline(as_user: Callable[..., Api], asks_for_tokens: None) -> None:
    id = as_user("ada").post("/pipelines", {"steps": {"a": slices()}}).json()["pipeline_id"]

    assert as_user("grace").get(f"/pipelines/{id}").status_code == 404
    assert Job.objects.get(name="a").owner == "ada"


def test_a_key_submits_it_once(api: Api) -> None:
    answers = [api.post("/pipelines", {"steps": {"a": slices()}}, Idempotency_Key="k").json() for _ in range(2)]

    assert answers[0] == answers[1]
    assert Job.objects.count() == 2


def test_a_thousand_steps_are_accepted_by_few_statements(
    api: Api, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    steps = {f"s{n}": slices(payload={"slices": {"$from": f"s{n - 1}.slices"}}) for n in range(1, 1_000)}

    with django_assert_max_num_queries(20):
        response = api.post("/pipelines", {"steps": {"s0": slices(), **steps}})

    assert response.status_code == 202
    assert (Step.objects.count(), Dependency.objects.count()) == (999, 999)


@pytest.mark.django_db(transaction=True)
def test_a_step_that_runs_for_each_value_is_shown_with_the_states_of_its_items(
    api: Api, worker: WorkerProcess
) -> None:
    id = api.post("/pipelines", examples.NEW_PIPELINES["For each value of a list"]).json()["pipeline_id"]
    drain(worker=worker)

    shown = api.get(f"/pipelines/{id}").json()

    assert shown["result"] == [{"slices": 1}, {"slices": 2}, {"slices": 3}]
    assert shown["progress"] == {"done": 6, "total": 6}
    assert [(each["name"], each["kind"], each["after"], each["items"]) for each in shown["steps"]] == [
        ("extract", "pipeline.value", [], None),
        ("load", "demo.slices", ["extract"], {"completed": 3}),
        ("sum", "pipeline.value", ["load"], None),
    ]
    assert [name.split("[")[0] for name in shown["critical_path"]] == ["extract", "load", "load", "sum"]


def test_a_fork_is_a_new_pipeline(api: Api) -> None:
    id = api.post("/pipelines", {"steps": {"a": slices(), "b": slices(after=["a"])}}).json()["pipeline_id"]
    put(Job.objects.filter(name="a"), status=Status.COMPLETED, ready=False, attempt=1, finished_at="2030-01-31T12:00Z")

    forked = api.post(f"/pipelines/{id}/fork?from=b")

    assert (forked.status_code, forked["Location"].rsplit("/", 1)[1]) == (202, forked.json()["pipeline_id"])
    assert [(each["status"], each["outcome"]) for each in forked.json()["steps"]] == [
        ("COMPLETED", "REUSED"), ("CREATED", "")
    ]  # fmt: skip


@pytest.mark.parametrize(("query", "code"), [("", "required"), ("?from=c", "unknown_step"), ("?from=", "blank")])
def test_a_fork_begins_at_a_step_that_there_is(query: str, code: str, api: Api) -> None:
    id = api.post("/pipelines", {"steps": {"a": slices()}}).json()["pipeline_id"]

    refused = api.post(f"/pipelines/{id}/fork{query}")

    assert problems(refused) == [("/from", code)]
    assert Job.objects.count() == 2
