"""What is taken for JSON, and what is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.http import strict_json


def problems(body: bytes) -> list[tuple[str, str]]:
    with pytest.raises(strict_json.BadJSON) as refusal:
        strict_json.read(body)
    return [(problem.pointer, problem.code) for problem in refusal.value.problems]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", ("", "malformed")),
        (b'{"a": 1,}', ("", "malformed")),
        (b'{"a": 1} {}', ("", "malformed")),
        (b"\xef\xbb\xbf{}", ("", "malformed")),
        (b'{"a": "\x01"}', ("", "malformed")),
        (b'{"a": "\xff"}', ("", "not_utf_8")),
        (b'{"a": NaN}', ("/a", "malformed")),
        (b'{"a": [0, -Infinity]}', ("/a/1", "malformed")),
        (b'{"a": 1, "a": 2}', ("/a", "duplicate_key")),
        (b'[{"~": {"/": {"k": 1, "k": 1}}}]', ("/0/~0/~1/k", "duplicate_key")),
        (b'{"a": "x\\u0000"}', ("/a", "nul")),
        (b'{"a": "\\ud800"}', ("/a", "lone_surrogate")),
        (b'{"a": "\\udc00\\ud800"}', ("/a", "lone_surrogate")),
        (b'{"a": 1e999}', ("/a", "number_too_large")),
        (b'{"a": -1e999}', ("/a", "number_too_large")),
        (b'{"a": ' + b"9" * 400 + b"}", ("/a", "number_too_long")),
        (b'{"a": 0.' + b"3" * 400 + b"}", ("/a", "number_too_long")),
        (b'{"a": ' + b"9" * 5_000 + b"}", ("/a", "number_too_long")),
        (b"[" * 65 + b"]" * 65, ("/0" * 64, "too_deep")),
        (b"[" * 900 + b"]" * 900, ("/0" * 64, "too_deep")),
        (b"[" * 10_000 + b"]" * 10_000, ("", "too_deep")),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, ("", "too_deep")),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_invalid_and_ambiguous_json_is_refused(body: bytes, found: tuple[str, str]) -> None:
    assert problems(body) == [found]


@pytest.mark.parametrize("offset", range(10))
def test_a_number_is_found_too_long_wherever_it_begins(offset: int) -> None:
    longest, too_long = (b'{"a": ' + b" " * offset + b"9" * digits + b"}" for digits in (100, 101))

    assert strict_json.read(longest) == {"a": 10**100 - 1}
    assert problems(too_long) == [("/a", "number_too_long")]


def test_malformed_json_is_reported_by_line_and_column() -> None:
    with pytest.raises(strict_json.BadJSON, match="Line 2, column 7"):
        strict_json.read(b'{"a": 1,\n "b": x}')


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"a": 1} {"a": 2}', "Column 10: Unexpected data after the value; send one value"),
        (b'{"a": 1},', "Column 9: Unexpected data after the value; send one value"),
        (b'{"a": "b}', "Column 7: The string that begins here has no closing quote."),
        (b'{"a": "\t"}', "Column 8: Escape control characters in strings"),
        (b'{"a": "C:\\x"}', "Column 10: A backslash must be followed by one of"),
    ],
)
def test_a_malformed_line_is_reported_by_its_column_and_what_to_do(body: bytes, told: str) -> None:
    with pytest.raises(strict_json.BadJSON) as refusal:
        strict_json.read(body)

    assert refusal.value.problems[0].detail.startswith(told)


def test_every_problem_is_reported() -> None:
    assert problems(b'{"a": "\\u0000", "b": [1e999], "b": 1}') == [
        ("/a", "nul"),
        ("/b/0", "number_too_large"),
        ("/b", "duplicate_key"),
    ]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a:b": ":", "c": "\\":"}', {"a:b": ":", "c": '":'}),
        (b'{"a": "\\\\u0000"}', {"a": "\\u0000"}),
        (b'["\\ud83d\\ude00"]', ["😀"]),
        (b'["' + b"9" * 400 + b'"]', ["9" * 400]),
        (b"[1e-999, 1E5, -0]", [0.0, 100_000.0, 0]),
        (b"9" * 100, int("9" * 100)),
        (b"[" * 64 + b"]" * 64, json.loads("[" * 64 + "]" * 64)),
        (b' {"a": {"a": {"a": 1}}} ', {"a": {"a": {"a": 1}}}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_json_that_only_looks_suspicious_is_read(body: bytes, value: Any) -> None:
    assert strict_json.read(body) == value


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**99), 10**99)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


@given(value=VALUES, escapes=st.booleans())
def test_whatever_json_can_say_is_read(value: Any, escapes: bool) -> None:
    body = json.dumps(value, ensure_ascii=escapes).encode()

    assert strict_json.read(body) == value


@given(st.binary() | TEXTS.map(lambda text: f'{{"a": "{text}"}}'.encode()))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(strict_json.BadJSON):
        msgspec.json.encode(strict_json.read(body))


PARTS = st.text('ab"\\\\[]{}:,0é', max_size=6)
KEYS = st.sampled_from(["a", "b", "a:", ":", '"', "\\", "[", "é", "\\u003a"])
DOCUMENTS = st.recursive(
    PARTS | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(KEYS, inner), max_size=4).map(tuple),
    max_leaves=12,
)


def as_json(value: Any, escaped: Callable[[str], str]) -> str:
    """JSON of a value whose objects are tuples of pairs, so that a key may come twice."""
    if isinstance(value, tuple):
        return "{" + ", ".join(f"{escaped(key)} : {as_json(item, escaped)}" for key, item in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(as_json(item, escaped) for item in value) + "]"
    return escaped(value) if isinstance(value, str) else json.dumps(value)


def in_full(text: str) -> str:
    """The text with each of its signs as an escape."""
    return '"' + "".join(f"\\u{ord(sign):04x}" for sign in text) + '"'


def some_key_comes_twice(value: Any) -> bool:
    if isinstance(value, tuple):
        keys = [key for key, _ in value]
        return len(set(keys)) < len(keys) or any(some_key_comes_twice(item) for _, item in value)
    return isinstance(value, list) and any(map(some_key_comes_twice, value))


@given(document=DOCUMENTS, escaped=st.sampled_from([json.dumps, in_full, msgspec.json.encode]))
def test_only_repeated_keys_are_found(document: Any, escaped: Callable[[str], Any]) -> None:
    def quoted(text: str) -> str:
        return escaped(text) if escaped is not msgspec.json.encode else msgspec.json.encode(text).decode()

    body = as_json(document, quoted).encode()

    if some_key_comes_twice(document):
        assert "duplicate_key" in {code for _, code in problems(body)}
    else:
        assert strict_json.read(body) == json.loads(body)


@pytest.mark.parametrize("text", ["", '"', '\\"', "[[[", "]]]", "\\\\", '{"'])
@pytest.mark.parametrize(("depth", "is_read"), [(64, True), (65, False)])
def test_brackets_in_texts_do_not_count_as_depth(text: str, depth: int, is_read: bool) -> None:
    quoted = json.dumps(text).encode()
    body = (
        (b"[" + quoted + b',{"":') * (depth // 2) + b"[]" * (depth % 2) + b"1" * (1 - depth % 2) + b"}]" * (depth // 2)
    )

    if is_read:
        assert strict_json.read(body) == json.loads(body)
    else:
        assert {code for _, code in problems(body)} == {"too_deep"}


@pytest.mark.parametrize(
    ("part", "code"),
    [
        (b'"a": 1', "duplicate_key"),
        (b'"b": NaN', "malformed"),
        (b'"b": "\\u0000"', "nul"),
        (b'"b": ' + b"9" * 101, "number_too_long"),
        (b'"b": ' + b"9" * 5_000, "malformed"),
        (b'"b": ' + b"[" * 64 + b"]" * 64, "too_deep"),
        (b'"b": "\\ud800"', "malformed"),
        (b'"b": "\xff"', "not_utf_8"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_an_error_in_a_long_body_is_reported_without_its_place(part: bytes, code: str) -> None:
    filling = b"1," * strict_json.CLOSE_LOOK_BYTES

    assert problems(b'{"long": [' + filling + b'1], "a": 1, ' + part + b"}") == [("", code)]


@pytest.mark.parametrize("opening", [b"[", b'{"":'])
def test_arrays_and_objects_are_bounded(opening: bytes) -> None:
    part = opening + b"1" + (b"]" if opening == b"[" else b"}")
    longest = b"[" + b",".join([part] * (strict_json.MAX_CONTAINERS - 1)) + b"]"

    assert len(strict_json.read(longest)) == strict_json.MAX_CONTAINERS - 1
    assert problems(longest[:-1] + b",[]]") == [("", "too_many")]
    assert strict_json.read(b'"' + b"[" * 300_000 + b'"') == "[" * 300_000


def test_of_many_problems_only_the_first_are_reported() -> None:
    assert len(problems(b'["\\u0000"' + b',"\\u0000"' * 1_000 + b"]")) == strict_json.MAX_PROBLEMS


def test_a_byte_order_mark_is_explained() -> None:
    with pytest.raises(strict_json.BadJSON, match="byte order mark is only allowed at the start"):
        strict_json.read(b"\xef\xbb\xbf{}")
