"""Steps that are pipelines themselves: written out, or planned by their kinds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from orchestrator import submission
from orchestrator.admin.pipelines import boxes_of, drawn, steps_of
from orchestrator.composition import fork, pipeline_detail, start, submit_pipeline
from orchestrator.diagnostics.queries import names
from orchestrator.doctor.jobs import MISCOUNTED, OVERDUE
from orchestrator.graphs.checks import BadGraph
from orchestrator.kinds import Child, Kind, forget_kind, kind_named
from orchestrator.models import Job, Step
from orchestrator.pipelines import Pipeline, input_ref, item_ref, pipeline, ref, undo
from orchestrator.queue import pipelines
from orchestrator.queue.generations import family
from orchestrator.steering.changing import Change, change
from orchestrator.submission import BadSubmission, Compensated, submit
from orchestrator.testing import drain
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, complete, is_in_order, lease, run

pytestmark = pytest.mark.django_db(transaction=True)

VALUE = "pipeline.value"


def child(parent: Job, *names: str) -> Job:
    """The job that is reached by the names of children."""
    for name in names:
        parent = Job.objects.get(parent=parent, name=name)
    return parent


def statuses(parent: Job) -> dict[str, str]:
    return dict(Job.objects.filter(parent=parent).order_by("id").values_list("name", "status"))


def counters_are_right() -> bool:
    return names(MISCOUNTED, overdue=OVERDUE, most=100) == []


def nested(*steps: tuple[str, Kind, Any], **options: Any) -> Pipeline:
    """One step after the other."""
    made = Pipeline(**options)
    for number, (name, kind, payload) in enumerate(steps):
        made.step(name, kind, payload, after=[steps[number - 1][0]] if number else [])
    return made


@pytest.fixture
def mended(kind: DeclareKind) -> Kind:
    """Fails as long as its payload's name is in `broken`, and returns it."""

    def handler(running: Any, payload: Any) -> Any:
        if isinstance(payload, str | int) and payload in broken:
            raise ValueError(payload)
        return payload

    broken.clear()
    return kind(handler, payload=Any, max_attempts=1, backoff_seconds=0)


broken: set[Any] = set()


def test_pipelines_are_nested_three_deep(echo: Kind, worker: WorkerProcess) -> None:
    third = Pipeline(result={"third": ref("c")}).step("c", echo, input_ref("n"))
    second = Pipeline(result=ref("b", "third")).step("b", third, {"n": input_ref("n")})
    first = Pipeline().step("start", echo, {"n": 7}).step("a", second, {"n": ref("start", "n")})

    parent = start(first.step("end", echo, {"is": ref("a")}))
    drain(worker=worker)

    assert (again(parent).status, again(parent).result) == ("COMPLETED", {"is": 7})
    assert child(parent, "a", "b", "c").result == 7
    assert counters_are_right()


def test_steps_take_parts_of_the_payload_and_so_do_conditions_lists_and_the_result(
    echo: Kind, worker: WorkerProcess
) -> None:
    inner = (
        Pipeline(result={"rows": ref("rows"), "n": input_ref("n"), "none": input_ref("x", default=0)})
        .each("rows", echo, input_ref("rows"), [item_ref(), input_ref("n")])
        .step("many", echo, {}, when=input_ref("n") | {"gt": 5})
        .step("few", echo, {}, when=input_ref("n") | {"lte": 5})
    )

    parent = start(Pipeline().step("one", inner, {"n": 3, "rows": [1, 2]}))
    drain(worker=worker)

    assert child(parent, "one").result == {"rows": [[1, 3], [2, 3]], "n": 3, "none": 0}
    assert dict(Step.objects.filter(job__parent=child(parent, "one")).values_list("job__name", "outcome")) == {
        "rows": "", "many": "SKIPPED", "few": ""
    }  # fmt: skip


def test_its_steps_are_added_when_its_turn_has_come_and_then_all_pipelines_run(
    echo: Kind, worker: WorkerProcess
) -> None:
    inner = Pipeline().step("inner", Pipeline().step("work", echo, 1))
    parent = start(Pipeline().step("first", VALUE, 1).step("outer", inner, after=["first"]))
    assert statuses(child(parent, "outer")) == {}

    complete(lease(kind_named(VALUE), worker))
    lease(echo, worker)

    assert statuses(parent) == {"first": "COMPLETED", "outer": "RUNNING"}
    assert statuses(child(parent, "outer")) == {"inner": "RUNNING"}
    assert counters_are_right()


def test_a_failure_is_that_of_every_pipeline_around_and_a_retry_runs_what_did_not_complete(
    mended: Kind, worker: WorkerProcess
) -> None:
    broken.add("b")
    deep = nested(("a", mended, "a"), ("b", mended, "b"), ("c", mended, "c"))
    parent = start(Pipeline().step("x", Pipeline().step("y", deep)).step("z", mended, "z", after=["x"]))
    drain(worker=worker)
    pipelines.unwind_left()

    assert again(parent).status == "FAILED"
    assert "The child 'x' failed: The child 'y' failed: The child 'b' failed: ValueError: b" in again(parent).error
    assert statuses(child(parent, "x", "y")) == {"a": "COMPLETED", "b": "FAILED", "c": "CANCELLED"}

    broken.clear()
    submission.retry(parent.id)
    drain(worker=worker)

    assert again(parent).status == "COMPLETED"
    assert [each.attempt for each in Job.objects.filter(parent=child(parent, "x", "y")).order_by("id")] == [1, 2, 1]
    assert counters_are_right()


def test_a_step_that_could_not_start_is_resolved_again_by_a_retry_of_the_outermost(
    mended: Kind, worker: WorkerProcess
) -> None:
    inner = Pipeline().step("a", mended, "a").step("b", mended, ref("a", "no"))
    parent = start(Pipeline().step("x", inner))
    drain(worker=worker)
    assert child(parent, "x", "b").status == "FAILED"
    Job.objects.filter(id=child(parent, "x", "a").id).update(result={"no": 5})

    submission.retry(parent.id)
    drain(worker=worker)

    assert (again(parent).status, child(parent, "x", "b").result) == ("COMPLETED", 5)


def test_a_nested_pipeline_may_fail_without_failing_the_one_around(mended: Kind, worker: WorkerProcess) -> None:
    broken.add("a")
    parent = start(
        Pipeline()
        .step("x", Pipeline().step("a", mended, "a"), on_failure="continue")
        .step("then", mended, "then", when={"step": "x", "is": "failed"})
    )
    drain(worker=worker)

    assert (again(parent).status, child(parent, "then").result) == ("COMPLETED", "then")


def test_a_cancellation_goes_through_all_generations(echo: Kind, kind: DeclareKind, worker: WorkerProcess) -> None:
    other = kind()
    deep = nested(("a", other, None), ("b", echo, 1))
    parent = start(
        Pipeline().step("x", Pipeline().step("y", deep)).step("later", Pipeline().step("a", echo, 1), after=["x"])
    )
    job = lease(other, worker)

    submission.cancel(parent.id)
    pipelines.unwind_left()

    assert again(job).cancel_requested_at is not None
    assert child(parent, "x", "y", "b").status == "CANCELLED"
    assert child(parent, "later").status == "CANCELLED"
    complete(job)
    drain(worker=worker)
    assert set(family([parent.id]).values_list("status", flat=True)) == {"CANCELLED", "COMPLETED"}
    assert again(parent).status == "CANCELLED"


def test_nothing_is_added_to_a_step_of_a_pipeline_that_unwinds(echo: Kind, worker: WorkerProcess) -> None:
    parent = start(Pipeline().step("x", Pipeline().step("a", echo, 1), wait_for="go"))
    step = child(parent, "x")
    Job.objects.filter(id=parent.id).update(unwinding=True, status="RUNNING", started_at=step.created_at)
    Job.objects.filter(id=step.id).update(unfinished_dependencies=0)

    pipelines.resolve(parent.id)
    pipelines.unwind_left()

    assert (again(parent).status, child(parent, "x").status) == ("FAILED", "CANCELLED")
    assert not Job.objects.filter(parent=step).exists()


def test_what_a_nested_pipeline_did_is_undone_if_it_fails_and_then_what_came_before_it(
    mended: Kind, worker: WorkerProcess
) -> None:
    broken.add("b")
    inner = (
        Pipeline()
        .step("a", mended, "a", compensate=undo(VALUE, ref("a")))
        .step("b", mended, "b", after=["a"])
    )  # fmt: skip
    outer = Pipeline().step("first", mended, "first", compensate=undo(VALUE, ref("first")))
    parent = start(outer.step("x", inner, after=["first"]))
    drain(worker=worker)
    pipelines.unwind_left()
    drain(worker=worker)

    undone = [child(parent, "x", "compensate:a"), child(parent, "compensate:first")]
    assert [(each.status, each.result) for each in undone] == [("COMPLETED", "a"), ("COMPLETED", "first")]
    assert is_in_order(*(each.finished_at for each in undone))
    assert again(parent).status == "FAILED"
    assert counters_are_right()


def test_a_retry_is_refused_if_what_a_nested_pipeline_did_was_undone(mended: Kind, worker: WorkerProcess) -> None:
    broken.add("b")
    inner = (
        Pipeline().step("a", mended, "a", compensate=undo(VALUE)).step("b", mended, "b", after=["a"])
    )  # fmt: skip
    parent = start(Pipeline().step("x", Pipeline().step("y", inner)))
    drain(worker=worker)
    pipelines.unwind_left()
    drain(worker=worker)
    before = statuses(parent)

    with pytest.raises(Compensated, match="What the steps of 'y' had done was compensated"):
        submission.retry(parent.id)

    assert (again(parent).status, statuses(parent)) == ("FAILED", before)


def test_the_compensation_of_the_step_undoes_a_nested_pipeline_that_has_completed(
    mended: Kind, worker: WorkerProcess
) -> None:
    broken.add("b")
    inner = Pipeline().step("a", mended, "a", compensate=undo(VALUE))
    parent = start(
        Pipeline().step("x", inner, compensate=undo(VALUE, {"was": ref("x")})).step("b", mended, "b", after=["x"])
    )
    drain(worker=worker)
    pipelines.unwind_left()
    drain(worker=worker)

    assert child(parent, "compensate:x").result == {"was": "a"}
    assert statuses(child(parent, "x")) == {"a": "COMPLETED"}


def test_the_items_of_a_step_may_be_pipelines_of_which_so_many_run_at_once(
    echo: Kind, kind: DeclareKind, worker: WorkerProcess
) -> None:
    work = kind(lambda running, payload: payload * 10, payload=int)
    inner = Pipeline(result=ref("b")).step("a", work, input_ref("n")).step("b", work, ref("a"))
    parent = start(
        Pipeline().step("rows", echo, [1, 2, 3]).each("all", inner, ref("rows"), {"n": item_ref()}, max_running=2)
    )
    run(echo, worker)
    assert Job.objects.filter(kind=work.name).count() == 4

    run(work, worker)
    drain(worker=worker)

    assert child(parent, "all").result == [100, 200, 300]
    assert again(parent).status == "COMPLETED"
    assert counters_are_right()


def test_the_steps_of_many_pipelines_are_added_by_as_many_statements_as_those_of_two(
    echo: Kind, worker: WorkerProcess
) -> None:
    inner = nested(("a", echo, 1), ("b", echo, 2))

    def statements(count: int) -> int:
        parent = start(Pipeline().step("rows", echo, list(range(count))).each("all", inner, ref("rows")))
        run(echo, worker)
        Job.objects.filter(parent__parent=parent).delete()
        Job.objects.filter(parent=parent, name__startswith="all[").update(unresolved=True, unfinished_dependencies=0)
        with CaptureQueriesContext(connection) as taken:
            pipelines.resolve(parent.id)
        assert Job.objects.filter(parent__parent=parent).count() == 2 * count
        Job.objects.all().delete()
        # Limits of kinds are read now and then.
        return len([each for each in taken if "orchestrator_kind" not in each["sql"]])

    assert statements(50) == statements(2)


def test_an_item_that_is_a_pipeline_may_fail_alone(mended: Kind, worker: WorkerProcess) -> None:
    broken.add(2)
    inner = Pipeline().step("a", mended, input_ref())
    parent = start(Pipeline().step("rows", mended, [1, 2, 3]).each("all", inner, ref("rows"), on_failure="continue"))
    drain(worker=worker)

    assert (again(parent).status, child(parent, "all").result) == ("COMPLETED", [1, None, 3])


def test_compensations_of_items_that_are_pipelines_run_in_each_of_them(mended: Kind, worker: WorkerProcess) -> None:
    broken.add(102)
    inner = (
        Pipeline()
        .step("a", mended, {"n": input_ref()}, compensate=undo(VALUE, {"undo": input_ref()}))
        .step("b", mended, ref("n"), after=["a"])
        .step("n", mended, input_ref("x", default=102), after=["a"])
    )
    parent = start(Pipeline().step("rows", mended, [1, 2, 3]).each("all", inner, ref("rows")))
    drain(worker=worker)
    pipelines.unwind_left()
    drain(worker=worker)

    undone = Job.objects.filter(name="compensate:a").order_by("parent")
    assert [each.result for each in undone] == [{"undo": 1}, {"undo": 2}, {"undo": 3}]
    assert again(parent).status == "FAILED"


def test_a_fork_takes_the_result_of_a_nested_pipeline_over_or_runs_it_anew(
    mended: Kind, worker: WorkerProcess
) -> None:
    inner = Pipeline(result={"a": ref("a")}).step("a", mended, input_ref())
    outer = Pipeline().step("zero", mended, 4).step("x", inner, ref("zero")).step("y", inner, {"$literal": 5})
    parent = start(outer.step("last", mended, [ref("x"), ref("y")]))
    drain(worker=worker)

    later, anew, within = fork(parent, "last"), fork(parent, "x"), fork(child(parent, "x"), "a")
    drain(worker=worker)

    for forked in (later, anew):
        assert (again(forked).status, again(forked).result) == ("COMPLETED", [{"a": 4}, {"a": 5}])
    assert (statuses(child(later, "x")), statuses(child(anew, "x"))) == ({}, {"a": "COMPLETED"})
    assert (again(within).parent_id, again(within).result) == (None, {"a": 4})


def test_a_deadline_ends_all_generations(echo: Kind, kind: DeclareKind, worker: WorkerProcess) -> None:
    other = kind()
    parent = start(Pipeline().step("x", nested(("a", other, None), ("b", echo, 1))), deadline_seconds=60)
    job = lease(other, worker)
    Step.objects.filter(job=parent).update(deadline_at=parent.created_at)

    pipelines.resolve_left()
    pipelines.unwind_left()

    assert again(job).cancel_requested_at is not None
    complete(job)
    drain(worker=worker)
    assert "did not end within its deadline" in again(parent).error
    assert statuses(child(parent, "x")) == {"a": "COMPLETED", "b": "CANCELLED"}


def test_its_steps_take_over_its_owner_and_priority_and_a_change_reaches_all_that_wait(
    echo: Kind, worker: WorkerProcess
) -> None:
    inner = Pipeline().step("a", echo, 1).step("b", echo, 1, after=["a"], priority=1)
    parent = start(Pipeline().step("x", inner, priority=2), owner="ada")
    before = [(each.owner, each.priority) for each in Job.objects.filter(parent=child(parent, "x")).order_by("id")]

    change(parent.id, Change(priority=7))

    assert before == [("ada", 2), ("ada", 1)]
    assert set(family([parent.id]).values_list("priority", flat=True)) == {7}


def plan_of(kind: DeclareKind, echo: Kind) -> Kind:
    """A kind that plans a step for each number below its payload, and returns their sum."""

    def plan(payload: int) -> list[Child]:
        if payload < 0:
            raise ValueError("below zero")
        return [Child(name=str(n), kind=echo.name, payload=n) for n in range(payload)]

    return kind(lambda running, payload: sum(running.inputs.values()), payload=int, plan=plan, max_attempts=1)


def test_a_kind_that_plans_a_pipeline_may_be_a_step(echo: Kind, kind: DeclareKind, worker: WorkerProcess) -> None:
    total = plan_of(kind, echo)
    parent = start(
        Pipeline().step("n", echo, 4).step("known", total, 3).step("later", total, ref("n")).step("none", total, 0)
    )
    drain(worker=worker)

    assert [child(parent, name).result for name in ("known", "later", "none")] == [3, 6, 0]
    assert len(statuses(child(parent, "later"))) == 4
    assert again(parent).status == "COMPLETED"


def test_a_plan_that_raises_when_its_turn_has_come_fails_the_step(
    echo: Kind, kind: DeclareKind, worker: WorkerProcess
) -> None:
    total = plan_of(kind, echo)
    parent = start(
        Pipeline().step("n", echo, -1).step("bad", total, ref("n")).step("good", total, 2)
    )  # fmt: skip
    drain(worker=worker)
    pipelines.unwind_left()

    assert child(parent, "bad").error == "It could not start. ValueError: below zero"
    assert (again(parent).status, counters_are_right()) == ("FAILED", True)


def test_a_named_definition_may_be_a_step_and_keeps_its_result(echo: Kind, worker: WorkerProcess) -> None:
    @pipeline("test.nested_definition", payload=dict[str, int], version=3)
    def measure(payload: dict[str, int]) -> Pipeline:
        return Pipeline(result={"twice": [ref("a"), ref("b")]}).step("a", echo, payload["n"]).step("b", echo, 2)

    try:
        parent = submit_pipeline({"m": {"kind": "test.nested_definition", "payload": {"n": 1}}})
        drain(worker=worker)

        assert again(parent).result == {"twice": [1, 2]}
        assert pipeline_detail(child(parent, "m"))["version"] == 3
    finally:
        forget_kind("test.nested_definition")


def test_a_running_job_may_add_pipelines(echo: Kind, kind: DeclareKind, worker: WorkerProcess) -> None:
    total = plan_of(kind, echo)

    def handler(running: Any) -> Any:
        if running.children:
            return {each.name: each.result for each in running.children}
        running.spawn(total, 3, name="three")
        running.spawn(total, 4, name="four")
        return running.after_children()

    parent = submit(kind(handler))
    drain(worker=worker)

    assert again(parent).result == {"three": 3, "four": 6}
    assert counters_are_right()


def test_pipelines_of_kinds_that_a_process_does_not_know_are_left_to_others(
    echo: Kind, kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = plan_of(kind, echo)
    with monkeypatch.context() as older:
        older.setattr("orchestrator.queue.expansion.all_kinds", list)
        parent = start(Pipeline().step("t", total, 2))
        drain(worker=worker)
        assert statuses(parent) == {"t": "CREATED"}

    pipelines.resolve_left()
    drain(worker=worker)

    assert again(parent).result == 1


def endless(kind: DeclareKind, made: list[Kind], echo: Kind) -> Kind:
    """A kind that plans a step of its own kind, with a payload that is one more, or as it is."""

    def plan(payload: dict[str, Any]) -> Pipeline:
        inner = Pipeline().step("n", echo, payload["n"] + payload["more"])
        known = {"n": payload["n"] + payload["more"], "more": payload["more"]}
        if payload.get("later"):
            return inner.step("again", made[0], {"n": ref("n"), "more": payload["more"], "later": True})
        return inner.step("again", made[0], known)

    made.append(kind(payload=dict[str, Any], plan=plan, max_attempts=1))
    return made[0]


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [(0, "cycle", "are steps of each other"), (1, "too_deep", "at most 10 generations")],
)
def test_pipelines_that_are_steps_of_each_other_are_refused_and_named(
    more: int, code: str, said: str, echo: Kind, kind: DeclareKind
) -> None:
    made: list[Kind] = []
    again_and_again = endless(kind, made, echo)

    with pytest.raises(BadSubmission, match=said) as refused:
        start(Pipeline().step("first", again_and_again, {"n": 1, "more": more}))

    assert refused.value.problems[0].pointer == "/children/0/kind"
    assert f"{again_and_again.name} → {again_and_again.name}" in str(refused.value)
    assert not Job.objects.exists()


@pytest.mark.long
def test_pipelines_whose_payloads_come_later_end_at_ten_generations(
    echo: Kind, kind: DeclareKind, worker: WorkerProcess
) -> None:
    made: list[Kind] = []
    parent = start(Pipeline().step("again", endless(kind, made, echo), {"n": 1, "more": 1, "later": True}))

    drain(worker=worker)
    pipelines.unwind_left()

    failed = Job.objects.get(error__startswith="It could not start.")
    assert "Jobs have at most 10 generations above them; these would have more" in failed.error
    assert again(parent).status == "FAILED"


def test_more_steps_than_there_may_be_in_all_are_refused(echo: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "ENV", msgspec.structs.replace(settings.ENV, MAX_CHILDREN=5))
    many = Pipeline(steps=[Child(name=str(n), kind=echo.name, payload=n) for n in range(2)])

    with pytest.raises(BadSubmission, match="With the steps of pipelines that are steps"):
        start(Pipeline().step("a", many).step("b", many))

    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("step", "pointer", "code"),
    [
        ({"pipeline": {"steps": {}}}, "/steps/x/pipeline/steps", "count"),
        ({"pipeline": {"steps": {"a": {"kind": "no.such"}}}}, "/steps/x/pipeline/steps/a/kind", "unknown_kind"),
        (
            {"pipeline": {"steps": {"a": {"kind": "demo.slices", "payload": {"slices": "many"}}}}},
            "/steps/x/pipeline/steps/a/payload/slices",
            "invalid",
        ),
        (
            {"pipeline": {"steps": {"a": {"kind": VALUE, "payload": {"$from": "outside"}}}}},
            "/steps/x/pipeline/steps/a/payload",
            "unknown_step",
        ),
        (
            {"pipeline": {"steps": {"a": {"kind": VALUE, "after": ["b"]}, "b": {"kind": VALUE, "after": ["a"]}}}},
            "/steps/x/pipeline/steps/a/after",
            "cycle",
        ),
        ({"pipeline": {"steps": {"a": {"kind": VALUE}}}, "kind": VALUE}, "/steps/x", "invalid"),
        ({}, "/steps/x", "invalid"),
        ({"kind": VALUE, "payload": {"$from": "$input"}}, "/steps/x/payload", "unknown_step"),
        (
            {"kind": VALUE, "compensate": {"kind": "orchestration.two_batches"}},
            "/steps/x/compensate/kind",
            "nested",
        ),
    ],
)
def test_a_nested_graph_is_checked_with_the_whole_and_nothing_is_stored(step: Any, pointer: str, code: str) -> None:
    with pytest.raises(BadGraph) as refused:
        submit_pipeline({"x": step})

    assert [(each.pointer, each.code) for each in refused.value.problems] == [(pointer, code)]
    assert not Job.objects.exists()


def test_eleven_generations_are_refused_and_ten_run(worker: WorkerProcess) -> None:
    graph: dict[str, Any] = {"a": {"kind": VALUE, "payload": 5}}
    for _ in range(9):
        graph = {"a": {"pipeline": {"steps": graph}}}

    parent = submit_pipeline(graph)
    with pytest.raises(BadGraph, match="at most 10 generations"):
        submit_pipeline({"a": {"pipeline": {"steps": graph}}})
    drain(worker=worker)

    assert (again(parent).status, again(parent).result) == ("COMPLETED", 5)


def test_a_pipeline_shows_which_of_its_steps_are_pipelines(worker: WorkerProcess) -> None:
    parent = submit_pipeline({"x": {"pipeline": {"name": "inner", "steps": {"a": {"kind": VALUE, "payload": 1}}}}})
    drain(worker=worker)

    [step] = pipeline_detail(parent)["steps"]
    inner = pipeline_detail(Job.objects.get(id=step["pipeline_id"]))
    assert (step["job_id"], step["kind"], step["status"]) == (step["pipeline_id"], "pipeline.run", "COMPLETED")
    assert (inner["name"], inner["parent"], inner["steps"][0]["name"]) == ("inner", parent.id, "a")
    assert inner["steps"][0]["pipeline_id"] is None


def test_the_drawing_of_a_pipeline_says_how_far_those_within_are(echo: Kind, worker: WorkerProcess) -> None:
    parent = start(Pipeline().step("x", nested(("a", echo, 1), ("b", echo, 2))))
    run(echo, worker)

    assert "RUNNING · 1 of 2 steps" in drawn(boxes_of(steps_of(parent)))
