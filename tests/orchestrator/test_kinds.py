"""Declaring kinds, and what is said of payloads that do not fit."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import msgspec
import pytest
from django.core.exceptions import ImproperlyConfigured

from orchestrator import kinds
from orchestrator.kind_problems import BadPayload, UnknownKind
from orchestrator.kinds import Kind, job, kind_named
from orchestrator.models import Job
from orchestrator.running import RunningJob
from orchestrator.submission import submit
from tests.orchestrator.workbench import DeclareKind, doorbell, returns_nothing


class Line(msgspec.Struct):
    count: int
    name: str = ""


class Order(msgspec.Struct, forbid_unknown_fields=True):
    lines: list[Line]
    note: str | None = None


def is_declared(name: str) -> bool:
    return name in {kind.name for kind in kinds.all_kinds()}


@pytest.mark.parametrize("name", ["plain", "Big.Letter", "a.", ".b", "a b.c", "a.b-c", "", "a." + "b" * 100])
def test_a_kind_without_a_proper_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs a name like"):
        job(name)(returns_nothing)

    assert not is_declared(name)


def test_an_unknown_queue_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ImproperlyConfigured, match="'nowhere', which is not in QUEUES: default, io"):
        job("test.refused", queue="nowhere")(returns_nothing)


@pytest.mark.parametrize("options", [{"takes_batch": True}, {"batch_size": 10}])
def test_a_leased_kind_takes_no_batches(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be transactional"):
        job("test.refused", **options)(returns_nothing)


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 10},
        {"priority": True},
        {"max_attempts": 0},
        {"max_attempts": 1_001},
        {"backoff_seconds": -1},
        {"backoff_ceiling_seconds": -1},
        {"timeout_seconds": -1},
        {"keep_days": -1},
        {"keep_days": 36_501},
        {"batch_size": -1, "execution": "transactional"},
        {"max_attempts": 2.5},
        {"max_attempts": True},
        {"execution": "Transactional"},
        {"on_cancel": "roll back"},
        {"no_retry": ValueError},
        {"no_retry": [ValueError]},
        {"no_retry": (ValueError, "KeyError")},
    ],
)
def test_a_kind_whose_jobs_could_not_run_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"The kind 'test.refused' needs"):
        job("test.refused", **options)(returns_nothing)

    assert not is_declared("test.refused")


async def is_async(running: RunningJob) -> None:
    """Does nothing."""


async def is_async_and_yields(running: RunningJob) -> Any:
    yield 1


def yields(running: RunningJob) -> Any:
    yield 1


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"queue": "default"}, r"or a queue of threads \(io in QUEUES\): the workers of 'default' are processes"),
        ({"queue": "io", "execution": "transactional"}, "or execution='leased': a batch runs in one transaction"),
    ],
)
def test_an_async_function_is_refused_where_it_has_no_event_loop(options: dict[str, Any], advice: str) -> None:
    with pytest.raises(ValueError, match=f"'test.refused' needs a function that is not async, {advice}"):
        job("test.refused", **options)(is_async)

    assert not is_declared("test.refused")


def test_an_async_function_is_a_kind_on_a_queue_of_threads(kind: DeclareKind) -> None:
    assert kind(is_async, queue="io").is_async
    assert not kind(queue="io").is_async


@pytest.mark.parametrize("handler", [is_async, is_async_and_yields, yields, partial(returns_nothing), dict])
def test_what_cannot_run_as_a_handler_is_refused_where_it_is_declared(handler: Any) -> None:
    with pytest.raises(ValueError, match=r"The kind 'test.refused' needs a function"):
        job("test.refused")(handler)

    assert not is_declared("test.refused")


def test_a_name_that_the_same_file_has_taken_is_refused(kind: DeclareKind) -> None:
    taken = kind()

    with pytest.raises(ValueError, match="declared twice"):
        job(taken.name)(lambda running: None)

    assert job(taken.name)(returns_nothing).handler is returns_nothing


def test_a_name_another_file_has_taken_is_refused() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        job("demo.slices")(returns_nothing)

    assert kind_named("demo.slices").handler is not returns_nothing


def test_a_kind_is_still_its_function(kind: DeclareKind) -> None:
    def double(running: RunningJob, payload: Line) -> int:
        """Doubles."""
        return payload.count * 2

    doubling = kind(double, payload=Line)

    assert doubling(None, Line(count=4)) == 8
    assert doubling.description == "Doubles."


def test_the_celery_task_has_the_name_and_queue_of_the_kind(kind: DeclareKind) -> None:
    declared = kind(queue="io")

    assert doorbell(declared).name == declared.name
    assert doorbell(declared).bell_queue == "io"


def test_a_kind_that_was_forgotten_can_be_declared_again_without_a_warning(kind: DeclareKind) -> None:
    forgotten = kind()
    assert doorbell(forgotten)
    kinds.forget_kind(forgotten.name)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kinds.job(forgotten.name)(lambda running: None)

    assert doorbell(forgotten).name == forgotten.name


def test_a_hook_for_each_kind_gets_those_declared_before_and_after(
    kind: DeclareKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "callbacks", [])
    before = kind()
    followed: list[Kind] = []

    kinds.for_each_kind(followed.append)
    after = kind()

    assert before in followed
    assert followed[-1] is after


@pytest.mark.parametrize(
    ("payload", "pointer", "detail"),
    [
        ([], "/payload", "Expected `object`, got `array`"),
        ({}, "/payload", "missing required field `lines`"),
        ({"lines": 1}, "/payload/lines", "Expected `array`, got `int`"),
        ({"lines": [{"count": 1}, {"count": "2"}]}, "/payload/lines/1/count", "Expected `int`, got `str`"),
        ({"lines": [], "note": 5}, "/payload/note", "Expected `str | null`, got `int`"),
        ({"lines": [], "colour": 5}, "/payload", "unknown field `colour`"),
    ],
)
def test_an_invalid_payload_is_pointed_at(payload: Any, pointer: str, detail: str, kind: DeclareKind) -> None:
    ordering = kind(payload=Order)

    with pytest.raises(BadPayload) as refusal:
        ordering.read_payload(payload)

    [problem] = refusal.value.problems
    assert problem.pointer == pointer
    assert detail in problem.detail


def test_defaults_of_the_payload_are_filled_in(kind: DeclareKind, transactional_db: None) -> None:
    counting = kind(payload=Line)

    accepted = submit(counting, {"count": 3})

    assert Job.objects.get(id=accepted.id).payload == {"count": 3, "name": ""}


def test_an_unknown_kind_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(UnknownKind) as refusal:
        kind_named("demo.slice")

    assert refusal.value.problems[0].pointer == "/kind"
    assert "Did you mean 'demo.slices'?" in str(refusal.value)


def test_an_unknown_kind_unlike_any_other_is_refused_with_where_kinds_are_listed() -> None:
    with pytest.raises(UnknownKind, match="GET /kinds lists them"):
        kind_named("x")


def test_the_schema_of_a_payload_is_published(kind: DeclareKind) -> None:
    schema = kind(payload=Order).payload_schema()

    order = schema["$defs"]["Order"]
    assert order["required"] == ["lines"]
    assert order["additionalProperties"] is False


def test_kinds_are_listed_by_name(kind: DeclareKind) -> None:
    declared = kind()

    names = [each.name for each in kinds.all_kinds()]

    assert names == sorted(names)
    assert declared.name in names


@pytest.mark.parametrize("count", [2.0, -0.0, 2.0**53])
def test_an_integer_written_with_a_point_is_one_at_any_depth(kind: DeclareKind, count: float) -> None:
    [line] = kind(payload=Order).read_payload({"lines": [{"count": count}]}).lines

    assert (line.count, type(line.count)) == (count, int)


@pytest.mark.parametrize("count", [2.5, 2.0**54, 1e300, float("nan"), float("inf"), True, "2"])
def test_what_is_no_integer_or_not_exactly_one_is_refused(kind: DeclareKind, count: Any) -> None:
    with pytest.raises(BadPayload, match="/payload/lines/0/count"):
        kind(payload=Order).read_payload({"lines": [{"count": count}]})
