"""What is taken for JSON, and what is not."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import strict_json


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
def test_what_means_nothing_or_several_things_is_refused(body: bytes, found: tuple[str, str]) -> None:
    assert problems(body) == [found]


@pytest.mark.parametrize("offset", range(10))
def test_a_number_is_found_too_long_wherever_it_begins(offset: int) -> None:
    longest, too_long = (b'{"a": ' + b" " * offset + b"9" * digits + b"}" for digits in (100, 101))

    assert strict_json.read(longest) == {"a": 10**100 - 1}
    assert problems(too_long) == [("/a", "number_too_long")]


def test_a_malformed_text_is_told_by_line_and_column() -> None:
    with pytest.raises(strict_json.BadJSON, match="Line 2, column 7"):
        strict_json.read(b'{"a": 1,\n "b": x}')


def test_every_problem_is_told() -> None:
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
def test_what_only_looks_suspicious_is_read(body: bytes, value: Any) -> None:
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
def test_no_bytes_do_worse_than_being_refused(body: bytes) -> None:
    with suppress(strict_json.BadJSON):
        msgspec.json.encode(strict_json.read(body))
