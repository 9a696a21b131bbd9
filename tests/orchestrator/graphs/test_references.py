"""References to earlier results, and conditions on them: what they mean, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.graphs import conditions, references
from orchestrator.graphs.conditions import Incomparable
from orchestrator.graphs.references import BadReference, MissingValue

RESULTS = {"a": {"n": 5, "rows": [{"id": 1}, {"id": 2}], "x.y": "dotted", "none": None}, "b": None}
STATES = {"a": "completed", "b": "skipped"}


@pytest.mark.parametrize(
    ("value", "resolved"),
    [
        ({"$from": "a.n"}, 5),
        ({"$from": "a.rows.1.id"}, 2),
        ({"$from": ["a", "rows", 0]}, {"id": 1}),
        ({"$from": ["a", "x.y"]}, "dotted"),
        ({"$from": "a.none"}, None),
        ({"$from": "b"}, None),
        ({"$from": "a.gone", "default": [1]}, [1]),
        ([{"deep": [{"$from": "a.n"}]}, 1], [{"deep": [5]}, 1]),
        ({"$literal": {"$from": "a.n"}}, {"$from": "a.n"}),
        ({"$literal": 1, "b": 2}, {"$literal": 1, "b": 2}),
        ({"$other": 1}, {"$other": 1}),
    ],
)
def test_a_reference_stands_for_a_part_of_a_result(value: Any, resolved: Any) -> None:
    assert references.resolved(value, RESULTS) == resolved


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("a.gone", "a is an object with 'n', 'rows', 'x.y', 'none', which has no 'gone'."),
        ("a.rows.2", "a.rows is a list of 2, which has no '2'."),
        ("a.rows.-1", "a.rows is a list of 2, which has no '-1'."),
        ("a.n.x", "a.n is 5, which has no 'x'."),
        ("c.n", "there is no result of 'c'."),
    ],
)
def test_where_there_is_no_value_is_said(path: str, error: str) -> None:
    with pytest.raises(MissingValue) as missing:
        references.resolved({"$from": path}, RESULTS)

    assert missing.value.args[0] == f"{path}: {error}"


@pytest.mark.parametrize("given", [7, None, "", "a.", [], [1, 2], ["a", 1.5], ["a", True], {"a": 1}, "a" + ".a" * 20])
def test_what_is_no_reference_is_refused_with_a_pointer(given: Any) -> None:
    with pytest.raises(BadReference) as refused:
        list(references.found({"x/y": [{"$from": given}]}))

    assert refused.value.pointer == "/x~1y/0/$from"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"$from": "a.n", "gt": 4}, True),
        ({"$from": "a.n", "gt": 5}, False),
        ({"$from": "a.n", "gte": 5}, True),
        ({"$from": "a.n", "lt": 5}, False),
        ({"$from": "a.n", "in": [5, 6]}, True),
        ({"$from": "a.x", "exists": False}, True),
        ({"$from": "a.none", "exists": True}, True),
        ({"$from": "a.x", "default": 1, "eq": 1}, True),
        ({"$from": "a.rows.0", "eq": {"id": 1}}, True),
        ({"step": "a", "is": "completed"}, True),
        ({"not": {"any": [{"step": "a", "is": "failed"}, {"step": "b", "is": "failed"}]}}, True),
        ({"all": [{"$from": "a.n", "lte": 5}, {"$from": "a.n", "ne": 5}]}, False),
    ],
)
def test_a_condition_holds_or_not(condition: Any, holds: bool) -> None:
    assert list(conditions.found(condition))
    assert conditions.holds(condition, RESULTS, STATES) is holds


@pytest.mark.parametrize("condition", [{"$from": "a.n", "gt": "x"}, {"$from": "a.none", "lt": 1}])
def test_what_has_no_order_is_not_compared(condition: Any) -> None:
    with pytest.raises(Incomparable):
        conditions.holds(condition, RESULTS, STATES)


def nested(depth: int) -> Any:
    return {"not": nested(depth - 1)} if depth else {"step": "a", "is": "failed"}


@pytest.mark.parametrize(
    ("condition", "pointer"),
    [
        ("a.n > 4", ""),
        ({}, ""),
        ({"$from": "a.n"}, ""),
        ({"$from": "a.n", "gt": 1, "lt": 2}, ""),
        ({"$from": "a.n", "matches": ".*"}, ""),
        ({"$from": "a.n", "gt": None}, "/gt"),
        ({"$from": "a.n", "in": 5}, "/in"),
        ({"$from": "a.n", "exists": 1}, "/exists"),
        ({"step": "a", "is": "done"}, "/is"),
        ({"step": 1, "is": "failed"}, "/step"),
        ({"all": []}, "/all"),
        ({"any": [{"not": 1}]}, "/any/0/not"),
        (nested(10), "/not" * 10),
        ({"all": [{"step": "a", "is": "failed"}] * 100}, "/all/99"),
    ],
)
def test_what_is_no_condition_is_refused_with_a_pointer(condition: Any, pointer: str) -> None:
    with pytest.raises(BadReference) as refused:
        list(conditions.found(condition))

    assert refused.value.pointer == pointer
