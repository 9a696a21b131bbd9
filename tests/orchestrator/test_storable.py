"""What PostgreSQL can hold of Python's strings and JSON."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storable import as_json, as_text


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
def test_json_that_cannot_be_kept_is_a_value_error(value: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        as_json(value, at_most=100)


def test_what_is_no_json_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        as_json(object(), at_most=100)


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "u0000", "\\\\\\u0000"])
def test_a_backslash_before_the_letters_u0000_is_no_nul(text: str) -> None:
    assert as_json(text, at_most=100)


@given(st.text())
def test_any_text_is_made_storable(text: str) -> None:
    stored = as_text(text, at_most=10)

    assert "\x00" not in stored
    assert len(stored.encode()) <= 40
    assert len(stored) == min(len(text), 10)
