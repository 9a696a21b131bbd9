"""Declaring kinds, and what is said of payloads that do not fit."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from django.core.exceptions import ImproperlyConfigured

from orchestrator import kinds
from orchestrator.kinds import BadPayload, UnknownKind, job, kind_named
from orchestrator.models import Job
from orchestrator.running import RunningJob
from orchestrator.submission import submit
from tests.orchestrator.workbench import DeclareKind, returns_nothing


class Line(msgspec.Struct):
    count: int
    name: str = ""


class Order(msgspec.Struct, forbid_unknown_fields=True):
    lines: list[Line]
    note: str | None = None


@pytest.mark.parametrize("name", ["plain", "Big.Letter", "a.", ".b", "a b.c", "a.b-c", "", "a." + "b" * 100])
def test_a_kind_without_a_proper_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs a name like"):
        job(name)(returns_nothing)

    assert name not in kinds._kinds


def test_a_queue_that_is_not_served_is_refused_with_those_that_are() -> None:
    with pytest.raises(ImproperlyConfigured, match="'nowhere', which QUEUES leaves out: default, io"):
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
    ],
)
def test_a_kind_whose_jobs_could_not_run_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"The kind 'test.refused' needs"):
        job("test.refused", **options)(returns_nothing)

    assert "test.refused" not in kinds._kinds


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

    assert declared.task.name == declared.name
    assert declared.task.answered_in == "io"


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
def test_a_payload_that_does_not_fit_is_pointed_at(payload: Any, pointer: str, detail: str, kind: DeclareKind) -> None:
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


def test_an_unknown_kind_comes_with_the_nearest_one() -> None:
    with pytest.raises(UnknownKind) as refusal:
        kind_named("demo.slice")

    assert refusal.value.problems[0].pointer == "/kind"
    assert "Did you mean 'demo.slices'?" in str(refusal.value)


def test_a_kind_like_no_other_comes_with_where_to_look() -> None:
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
