"""Steps that run for each value of a list which is known only once an earlier step has run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from django.conf import settings

from orchestrator import submission
from orchestrator.admin.pipelines import boxes_of, steps_of
from orchestrator.diagnostics.queries import names
from orchestrator.doctor.jobs import MISCOUNTED, OVERDUE
from orchestrator.graphs.each import INDEX, ITEM, ITS_ITEM
from orchestrator.ids import ids_before, uuid7
from orchestrator.kinds import Child, Kind
from orchestrator.models import Job, Step
from orchestrator.queue import pipelines
from orchestrator.submission import BadSubmission, submit
from orchestrator.testing import drain
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, run

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = {"$from": "rows"}


@pytest.fixture
def item(kind: DeclareKind) -> Kind:
    """The kind of items, so that a test runs them one by one: returns its payload plus one."""

    def handler(running: Any, payload: Any) -> Any:
        if payload < 0:
            raise ValueError("below zero")
        return payload + 1

    return kind(handler, payload=int, max_attempts=1, backoff_seconds=0)


def graph(last: Kind, rows: Kind, values: Any, item: Kind, *more: Child, **given: Any) -> Job:
    """Submits a pipeline whose step `each` runs for each of the values that its step `rows` returns."""
    options: dict[str, Any] = {"payload": ITS_ITEM, "each": ROWS} | given
    first = Child(name="rows", kind=rows.name, payload=values)
    return submit(last, children=[first, Child(name="each", kind=item.name, **options), *more])


def step(parent: Job, name: str = "each") -> Job:
    return Job.objects.get(parent=parent, name=name)


def items(parent: Job) -> list[Job]:
    return list(Job.objects.filter(parent=parent, name__startswith="each[").order_by("id"))


def ready(parent: Job) -> list[str]:
    return [each.name for each in items(parent) if each.ready]


def counters_are_right() -> bool:
    return names(MISCOUNTED, overdue=OVERDUE, most=100) == []


def test_a_step_runs_for_each_value_and_returns_the_list_of_results(
    echo: Kind, item: Kind, last: Kind, worker: WorkerProcess
) -> None:
    after = Child(name="after", kind=echo.name, payload={"all": {"$from": "each"}, "one": {"$from": "each.2"}})
    parent = graph(last, echo, [5, 6, 7], item, after)

    drain(worker=worker)

    assert (step(parent).status, step(parent).kind, step(parent).result) == ("COMPLETED", "pipeline.each", [6, 7, 8])
    assert [each.name for each in items(parent)] == ["each[0]", "each[1]", "each[2]"]
    assert step(parent, "after").result == {"all": [6, 7, 8], "one": 8}
    assert again(parent).status == "COMPLETED"


def test_a_list_without_values_has_a_list_without_results(
    echo: Kind, item: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent = graph(last, echo, [], item)

    drain(worker=worker)

    assert (again(parent).status, step(parent).result, items(parent)) == ("COMPLETED", [], [])


def test_the_payload_takes_parts_of_the_value_its_place_and_earlier_results(
    echo: Kind, last: Kind, worker: WorkerProcess
) -> None:
    payload = {"id": {"$from": f"{ITEM}.id"}, "at": {"$from": INDEX}, "of": {"$from": "rows.1.id"}}
    parent = graph(last, echo, [{"id": 3}, {"id": 4}], echo, payload=payload)

    drain(worker=worker)

    assert step(parent).result == [{"id": 3, "at": 0, "of": 4}, {"id": 4, "at": 1, "of": 4}]


def test_only_so_many_items_are_ready_or_run_at_once(
    echo: Kind, item: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent = graph(last, echo, list(range(5)), item, max_running=2)
    run(echo, worker)
    seen = [ready(parent)]

    while run(item, worker):
        seen.append(ready(parent))
        assert counters_are_right()

    drain(worker=worker)
    assert [len(names) for names in seen[:2]] == [2, 2]
    assert max(map(len, seen)) == 2
    assert step(parent).result == [1, 2, 3, 4, 5]
    assert again(parent).status == "COMPLETED"


def test_a_failed_item_fails_the_pipeline_and_a_retry_runs_only_what_did_not_complete(
    echo: Kind, item: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent = graph(last, echo, [1, -2, 3, 4, 5], item, max_running=2)
    drain(worker=worker)
    assert again(parent).error == "The child 'each[1]' failed: ValueError: below zero"
    assert {each.status for each in items(parent)} == {"COMPLETED", "FAILED", "CANCELLED"}
    Job.objects.filter(name="each[1]").update(payload=2)

    submission.retry(parent.id)
    drain(worker=worker)

    assert (again(parent).status, step(parent).result) == ("COMPLETED", [2, 3, 4, 5, 6])
    assert [each.attempt for each in items(parent)] == [1, 2, 1, 1, 1]


def test_of_a_step_that_may_fail_the_results_of_failed_items_are_null(
    echo: Kind, item: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent = graph(last, echo, [1, -2, 3], item, on_failure="continue", max_running=1)

    drain(worker=worker)

    assert (again(parent).status, step(parent).result) == ("COMPLETED", [2, None, 4])


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (7, "It could not start. each: rows is 7, not a list."),
        ([1, "x"], "It could not start. Its item 1: /payload: Expected `int`, got `str`."),
        ([0] * 10_001, "It could not start. each: the list has 10,001 values; at most 10,000 are allowed."),
    ],
)
def test_a_step_that_cannot_run_for_each_value_fails_and_adds_no_item(
    values: Any, error: str, kind: DeclareKind, item: Kind, last: Kind, worker: WorkerProcess
) -> None:
    rows = kind(lambda running: values)
    parent = graph(last, rows, {}, item)

    drain(worker=worker)

    assert (step(parent).status, step(parent).error, items(parent)) == ("FAILED", error, [])
    assert again(parent).status == "FAILED"


def test_a_pipeline_does_not_grow_beyond_its_limit(
    echo: Kind, item: Kind, last: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = graph(last, echo, [1, 2, 3], item)
    monkeypatch.setattr(settings, "ENV", msgspec.structs.replace(settings.ENV, MAX_CHILDREN=4))

    drain(worker=worker)

    assert step(parent).error == (
        "It could not start. With its 3 items the pipeline would have 5 children; at most 4 are allowed."
    )


def test_a_cancelled_pipeline_does_not_fan_out(echo: Kind, item: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent = graph(last, echo, [1, 2], item, max_running=1)
    run(echo, worker)

    submission.cancel(parent.id)
    drain(worker=worker)

    assert {each.status for each in items(parent)} == {"CANCELLED"}
    assert (again(parent).status, step(parent).status) == ("CANCELLED", "CANCELLED")


def test_a_step_is_left_alone_while_its_pipeline_unwinds(
    echo: Kind, item: Kind, last: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = graph(last, echo, [1, 2], item)
    with monkeypatch.context() as dies:
        dies.setattr(pipelines, "in_turn", lambda *work: None)
        run(echo, worker)
    Job.objects.filter(id=parent.id).update(unwinding=True)

    pipelines.resolve(parent.id)

    assert (step(parent).unresolved, items(parent)) == (True, [])


def test_a_tick_adds_and_releases_the_items_that_a_dead_process_has_left(
    echo: Kind, item: Kind, last: Kind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = graph(last, echo, [1, 2], item, max_running=1)

    def die(work: Any) -> None:
        pass

    with monkeypatch.context() as dies:
        dies.setattr(pipelines, "in_turn", die)
        run(echo, worker)
    tick.run_parts()
    assert ready(parent) == ["each[0]"]
    with monkeypatch.context() as dies:
        dies.setattr(pipelines, "in_turn", die)
        run(item, worker)
    assert ready(parent) == []

    tick.run_parts()

    assert ready(parent) == ["each[1]"]
    drain(worker=worker)
    assert step(parent).result == [2, 3]


def test_a_condition_decides_whether_it_fans_out(echo: Kind, item: Kind, last: Kind, worker: WorkerProcess) -> None:
    parent = graph(last, echo, [1], item, when={"$from": "rows.0", "gt": 1})

    drain(worker=worker)

    assert (Step.objects.get(job=step(parent)).outcome, items(parent)) == ("SKIPPED", [])


def test_items_come_in_the_order_of_ids_between_what_is_before_the_step_and_the_step(
    echo: Kind, item: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent = graph(last, echo, [1, 2, 3], item)

    drain(worker=worker)

    ids = [step(parent, "rows").id, *(each.id for each in items(parent)), step(parent).id, parent.id]
    assert ids == sorted(ids)


def test_there_are_ids_between_any_two() -> None:
    earlier, later = uuid7(), uuid7()

    between: Sequence[Any] = ids_before(later, 10_000)

    assert earlier < between[0] < between[-1] < later
    assert between == sorted(set(between))


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"each": 7}, "/children/1/each"),
        ({"each": {"$from": "gone"}}, "/children/1/after"),
        ({"each": None, "payload": {"x": {"$from": ITEM}}}, "/children/1/payload/x"),
        ({"each": None, "payload": {}, "max_running": 1}, "/children/1/max_running"),
        ({"max_running": 0}, "/children/1/max_running"),
    ],
)
def test_what_cannot_fan_out_is_refused(options: Any, pointer: str, echo: Kind, last: Kind) -> None:
    with pytest.raises(BadSubmission) as refused:
        graph(last, echo, [], echo, **options)

    assert refused.value.problems[0].pointer == pointer
    assert not Job.objects.exists()


def test_no_step_is_called_as_an_item_of_another(echo: Kind, item: Kind, last: Kind) -> None:
    with pytest.raises(BadSubmission, match="is the name of an item"):
        graph(last, echo, [], item, Child(name="each[0]", kind=item.name, payload=1))


def test_the_page_of_the_pipeline_draws_the_items_as_one_between_what_is_before_and_the_step(
    echo: Kind, item: Kind, last: Kind, worker: WorkerProcess
) -> None:
    parent = graph(last, echo, list(range(10)), item)
    drain(worker=worker)

    rows, bundle, gathered = boxes_of(steps_of(parent))

    assert [len(box.steps) for box in (rows, bundle, gathered)] == [1, 10, 1]
    assert (bundle.after, gathered.after) == ({rows}, {rows, bundle})
