"""What PostgreSQL can hold of Python's strings and JSON."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.pg_values import MAX_DEPTH, NotFinite, as_array, as_json, as_json_each, as_text


class Number(msgspec.Struct):
    x: float


@dataclasses.dataclass
class Point:
    y: Decimal


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("\x00", "NUL"),
        ({"a": ["\x00"]}, "NUL"),
        ({"\x00": 1}, "NUL"),
        ("\\\x00", "NUL"),
        ("\\\\\x00", "NUL"),
        ("\ud800", "surrogates not allowed"),
        ("x" * 101, "takes 103 bytes as JSON; at most 100"),
    ],
)
def test_json_that_cannot_be_stored_is_a_value_error(value: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        as_json(value, at_most=100)


@pytest.mark.parametrize(
    "number", [float("nan"), float("inf"), float("-inf"), Decimal("NaN"), Decimal("-Infinity"), Decimal("sNaN")]
)
@pytest.mark.parametrize(
    ("wrap", "pointer"),
    [
        (lambda number: number, ""),
        (lambda number: {"a/b": [None, "NaN", number]}, "/a~1b/2"),
        (lambda number: [{"x": (1, number)}], "/0/x/1"),
        (lambda number: (number,), "/0"),
        (lambda number: Number(number), "/x"),
        (lambda number: [Point(number)], "/0/y"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_wherever_it_is(number: Any, wrap: Any, pointer: str) -> None:
    with pytest.raises(NotFinite) as refused:
        as_json(wrap(number), at_most=100)

    assert refused.value.pointer == pointer


@pytest.mark.parametrize("value", [None, "NaN", "Infinity", {"NaN": None}, {"a": [None, 1e308, "null"]}])
def test_strings_and_null_are_not_taken_for_invalid_numbers(value: Any) -> None:
    assert as_json(value, at_most=100)


@pytest.mark.parametrize("brackets", ["]]]]", '"[', '\\"{'])
def test_json_is_bounded_in_depth_whatever_its_texts_hold(brackets: str) -> None:
    deep: Any = brackets
    for _ in range(MAX_DEPTH):
        deep = [brackets * 30, deep]

    assert as_json(deep, at_most=100_000)
    with pytest.raises(ValueError, match="nested deeper than 100"):
        as_json({brackets: deep}, at_most=100_000)


def test_values_that_json_cannot_hold_are_a_type_error() -> None:
    with pytest.raises(TypeError):
        as_json(object(), at_most=100)


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "u0000", "\\\\\\u0000"])
def test_an_escaped_backslash_before_u0000_is_not_a_nul(text: str) -> None:
    assert as_json(text, at_most=100)


@given(st.text())
def test_any_text_is_made_storable(text: str) -> None:
    stored = as_text(text, at_most=10)

    assert "\x00" not in stored
    assert len(stored.encode()) <= 40
    assert len(stored) == min(len(text), 10)


@pytest.mark.parametrize("number", [b"1e130000", b"-1E+9999", b"1" * 4_301, b"1e-99999"])
def test_a_number_that_could_not_be_read_again_is_refused(number: bytes) -> None:
    with pytest.raises(ValueError, match="more than 4,300 digits"):
        as_json({"x": [msgspec.Raw(number)]}, at_most=10_000)


@pytest.mark.parametrize("value", ["1e130000", "3e1234-" * 9, "1" * 5_000, 10**4_299, 1e308, 5e-324])
def test_texts_like_numbers_and_large_numbers_are_json(value: Any) -> None:
    assert msgspec.json.decode(as_json([value], at_most=10_000)) == [value]


TEXTS = [
    "",
    " ",
    "NULL",
    "null",
    "a,b",
    "{}",
    '"',
    "\\",
    '\\"',
    "\\\\",
    "it's",
    "\n\t",
    "%s",
    "ü",
    "💡",
    '{"a": ["\\u00e4"]}',
]


@pytest.mark.django_db
@pytest.mark.parametrize("texts", [[], *([text] for text in TEXTS), TEXTS])
def test_postgresql_reads_texts_as_they_are_from_an_array(texts: list[str]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s::text[]", [as_array(texts)])
        assert cursor.fetchone() == (texts,)


def test_an_array_refuses_a_nul_as_the_database_would() -> None:
    with pytest.raises(ValueError, match="NUL"):
        as_array(["a", "b\x00c"])


FINE: list[Any] = [
    {"a": [1, 2]},
    {},
    [],
    1,
    "x\n",
    None,
    "null",
    "Infinity",
    "1e99999",
    "\\u0000",
    msgspec.Raw(b"[\n1]"),
]


@pytest.mark.parametrize("values", [[], *([value] for value in FINE), FINE, [{"result": n} for n in range(500)]])
def test_each_of_many_values_is_the_json_that_it_is_alone(values: list[Any]) -> None:
    assert as_json_each(values, at_most=100) == [as_json(value, at_most=100) for value in values]


DEEP = msgspec.Raw(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "bad", ["x" * 100, float("nan"), "\x00", {"a": DEEP}, DEEP, msgspec.Raw(b"1e9999"), object(), "\ud800"]
)
def test_one_bad_value_among_many_is_refused_as_it_is_alone(bad: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as alone:
        as_json(bad, at_most=100)

    with pytest.raises(type(alone.value)) as among_many:
        as_json_each([{"a": 1}, bad, {"b": 2}], at_most=100)

    assert str(among_many.value) == str(alone.value)
