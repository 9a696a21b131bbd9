"""Strict JSON: bytes that mean one thing only, as values that PostgreSQL can hold."""

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from orchestrator.kinds import Problem

MAX_DEPTH = 64
MAX_DIGITS = 100
MAX_PROBLEMS = 20

# Each string of a JSON text, and after a key also its colon.
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?', re.DOTALL)
_LONG_NUMBER = re.compile(rb"\d{%d}" % (MAX_DIGITS + 1))
# What such a number shows to a look at every tenth byte, which takes a tenth of the time.
_LONG_NUMBER_IN_TENTHS = re.compile(rb"\d{%d}" % ((MAX_DIGITS + 1) // 10))
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class BadJSON(ValueError):
    """The body is no JSON, or such as different readers would read differently."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__(problems[0].detail)


def read(body: bytes, *, exact: bool = False) -> Any:
    """The value of a JSON text.

    exact: a number with a point or an exponent is the Decimal that was written, not the float next to it.

    Raises BadJSON for what is malformed, nested too deep, or holds a key twice, a NUL, half a surrogate pair, or a
    number that is none or far too long.
    """
    try:
        value = (_exact_decoder if exact else _decoder).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problems = list(_problems(body)) or [Problem("", "malformed", f"{error}.")]
        raise BadJSON(problems[:MAX_PROBLEMS]) from None
    if _is_suspicious(body, value) and (problems := list(_problems(body))):
        raise BadJSON(problems[:MAX_PROBLEMS])
    return value


def _exactly(number: str) -> Decimal:
    """The number; one that has no end as far as Decimal goes is infinite, for whoever reads it to refuse."""
    try:
        return Decimal(number)
    except InvalidOperation:
        return Decimal("Infinity")


_decoder = msgspec.json.Decoder()
_exact_decoder = msgspec.json.Decoder(float_hook=_exactly)


def _is_suspicious(body: bytes, value: Any) -> bool:
    """Whether the body has to be read again, slowly and closely; quick, and never False for a body with a problem."""
    keys, depth = _keys_and_depth(value)
    return (
        depth > MAX_DEPTH
        # As a rule every colon follows a key. Otherwise it is in a text, or a key came twice.
        or (keys != body.count(b":") and keys != sum(map(bool, _STRINGS.findall(body))))
        or b"\\u0000" in body
        or (_LONG_NUMBER_IN_TENTHS.search(body[::10]) is not None and _LONG_NUMBER.search(body) is not None)
    )


def _keys_and_depth(value: Any) -> tuple[int, int]:
    """How many keys all objects within the value have together, and how deep it is nested."""
    keys = depth = 0
    level = [value]
    while level := [item for item in level if type(item) in (dict, list)]:
        depth += 1
        inner: list[Any] = []
        for item in level:
            if type(item) is dict:
                keys += len(item)
                inner += item.values()
            else:
                inner += item
        level = inner
    return keys, depth


class _Pairs(list[tuple[str, Any]]):
    """An object as its keys and values in order, also those whose key comes again."""


class _Number(str):
    """A number as it was written."""


def _problems(body: bytes) -> Iterator[Problem]:
    """Whatever is wrong with the body, each with its place."""
    try:
        text = body.decode()
        value = json.loads(
            text, object_pairs_hook=_Pairs, parse_int=_Number, parse_float=_Number, parse_constant=_Number
        )
    except UnicodeDecodeError as error:
        yield Problem("", "not_utf_8", f"The body is not UTF-8: byte {error.start + 1} cannot be part of it.")
    except json.JSONDecodeError as error:
        yield Problem("", "malformed", f"Line {error.lineno}, column {error.colno}: {error.msg}.")
    except RecursionError:
        yield _too_deep("")
    else:
        yield from _problems_within(value, "", 1)


def _problems_within(value: Any, pointer: str, depth: int) -> Iterator[Problem]:
    if isinstance(value, _Number):
        yield from _number_problems(value, pointer)
    elif isinstance(value, str):
        yield from _text_problems(value, pointer)
    elif isinstance(value, list) and depth > MAX_DEPTH:
        yield _too_deep(pointer)
    elif isinstance(value, _Pairs):
        seen: set[str] = set()
        for key, item in value:
            place = f"{pointer}/{escaped(key)}"
            yield from _text_problems(key, place)
            if key in seen:
                yield Problem(place, "duplicate_key", f"The key {key!r} comes twice.")
            seen.add(key)
            yield from _problems_within(item, place, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _problems_within(item, f"{pointer}/{index}", depth + 1)


def _number_problems(number: str, pointer: str) -> Iterator[Problem]:
    if not number.strip("-").replace(".", "").replace("e", "").replace("E", "")[:1].isdigit():
        yield Problem(pointer, "malformed", f"JSON knows no {number}.")
    elif max(map(len, re.findall(r"\d+", number))) > MAX_DIGITS:
        yield Problem(pointer, "number_too_long", f"A number has at most {MAX_DIGITS} digits.")
    elif not math.isfinite(float(number)):
        yield Problem(pointer, "number_too_large", f"{number} is larger than any number kept here.")


def _text_problems(text: str, pointer: str) -> Iterator[Problem]:
    if "\x00" in text:
        yield Problem(pointer, "nul", "A text cannot contain the NUL character (\\u0000).")
    if _LONE_SURROGATE.search(text):
        yield Problem(_storable(pointer), "lone_surrogate", "A text contains half of a surrogate pair.")


def _too_deep(pointer: str) -> Problem:
    return Problem(pointer, "too_deep", f"Arrays and objects are nested at most {MAX_DEPTH} deep.")


def escaped(key: str) -> str:
    """A key as a part of a JSON pointer (RFC 6901, section 3)."""
    return _storable(key).replace("~", "~0").replace("/", "~1")


def _storable(text: str) -> str:
    return text.encode(errors="replace").decode()
