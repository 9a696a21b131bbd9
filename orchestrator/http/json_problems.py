"""Where in a JSON text each thing wrong with it is. It takes long for a long text."""

import codecs
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from orchestrator.http.json_pointer import escaped, storable
from orchestrator.kind_problems import Problem

MAX_DEPTH = 64
MAX_DIGITS = 100

# What json's own words leave open.
_IN_WORDS = {
    "Extra data": "Unexpected data after the value; send one value, or in NDJSON one object per line",
    "Invalid control character at": r"Escape control characters in strings, such as \n",
    "Unterminated string starting at": "The string that begins here has no closing quote",
    r"Invalid \escape": r"A backslash must be followed by one of \"\\/bfnrtu; write a backslash itself as \\\\",
}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class _Pairs(list[tuple[str, Any]]):
    """An object as its keys and values in order, also those whose key comes again."""


class _Number(str):
    """A number as it was written."""


def find_problems(body: bytes) -> Iterator[Problem]:
    """Whatever is wrong with the body, each with its place."""
    if body.startswith(codecs.BOM_UTF8):
        yield Problem("", "malformed", "A byte order mark is only allowed at the start of the body.")
        return
    try:
        text = body.decode()
        value = json.loads(
            text, object_pairs_hook=_Pairs, parse_int=_Number, parse_float=_Number, parse_constant=_Number
        )
    except UnicodeDecodeError as error:
        yield Problem("", "not_utf_8", f"Byte {error.start + 1} is not valid UTF-8.")
    except json.JSONDecodeError as error:
        line = f"Line {error.lineno}, column" if "\n" in text else "Column"
        yield Problem("", "malformed", f"{line} {error.colno}: {_IN_WORDS.get(error.msg, error.msg)}.")
    except RecursionError:
        yield too_deep("")
    else:
        yield from _problems_within(value, "", 1)


def _problems_within(value: Any, pointer: str, depth: int) -> Iterator[Problem]:
    if isinstance(value, _Number):
        yield from _number_problems(value, pointer)
    elif isinstance(value, str):
        yield from _text_problems(value, pointer)
    elif isinstance(value, list) and depth > MAX_DEPTH:
        yield too_deep(pointer)
    elif isinstance(value, _Pairs):
        seen: set[str] = set()
        for key, item in value:
            place = f"{pointer}/{escaped(key)}"
            yield from _text_problems(key, place)
            if key in seen:
                yield Problem(place, "duplicate_key", f"Duplicate key {key!r}.")
            seen.add(key)
            yield from _problems_within(item, place, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _problems_within(item, f"{pointer}/{index}", depth + 1)


def _number_problems(number: str, pointer: str) -> Iterator[Problem]:
    if not number.strip("-").replace(".", "").replace("e", "").replace("E", "")[:1].isdigit():
        yield Problem(pointer, "malformed", f"JSON has no {number}.")
    elif max(map(len, re.findall(r"\d+", number))) > MAX_DIGITS:
        yield too_long(pointer)
    elif not math.isfinite(float(number)):
        yield Problem(pointer, "number_too_large", f"{number} is too large.")


def _text_problems(text: str, pointer: str) -> Iterator[Problem]:
    if "\x00" in text:
        yield nul(pointer)
    if _LONE_SURROGATE.search(text):
        yield Problem(storable(pointer), "lone_surrogate", "A string contains a lone surrogate.")


def nul(pointer: str) -> Problem:
    return Problem(pointer, "nul", "A string must not contain the NUL character (\\u0000).")


def too_long(pointer: str) -> Problem:
    return Problem(pointer, "number_too_long", f"A number may have at most {MAX_DIGITS} digits.")


def too_deep(pointer: str) -> Problem:
    return Problem(pointer, "too_deep", f"Arrays and objects may be nested at most {MAX_DEPTH} deep.")
