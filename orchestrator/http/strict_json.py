"""Strict JSON: bytes that mean one thing only, as values that PostgreSQL can hold."""

import re
from array import array
from decimal import Decimal, InvalidOperation
from itertools import accumulate, islice
from typing import Any

import msgspec

from orchestrator.http.json_problems import MAX_DEPTH, MAX_DIGITS, find_problems, nul, too_deep, too_long
from orchestrator.kind_problems import Problem

# Arrays and objects of one body.
MAX_CONTAINERS = 200_000
MAX_PROBLEMS = 20
# A body of at most so many bytes that is refused is read closely, to find the place of each problem.
CLOSE_LOOK_BYTES = 400_000

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

# All but the signs of JSON that tell how deep it is and how many keys there are, and the quotes around texts.
_OTHERS = bytes(set(range(256)) - set(b'[{]}:"'))
# Brackets as steps down (1) and up (-1), and a colon as none.
_STEPS = bytes.maketrans(b"[{]}:", b"\x01\x01\xff\xff\x00")
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_TOO_MANY_DIGITS = b"0" * (MAX_DIGITS + 1)


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
        _refuse_if_crowded(body)
        value = (_exact_decoder if exact else _decoder).decode(body)
        problem = _problem(body, value)
    except UnicodeDecodeError:
        problem = Problem("", "not_utf_8", "The body is not UTF-8.")
    except RecursionError:
        problem = too_deep("")
    except msgspec.DecodeError as error:
        problem = Problem("", "malformed", f"{error}.")
    if problem is None:
        return value
    found = find_problems(body) if len(body) <= CLOSE_LOOK_BYTES else iter(())
    raise BadJSON(list(islice(found, MAX_PROBLEMS)) or [problem])


def _exactly(number: str) -> Decimal:
    """The number; one that has no end as far as Decimal goes is infinite, which validation refuses."""
    try:
        return Decimal(number)
    except InvalidOperation:
        return Decimal("Infinity")


_decoder = msgspec.json.Decoder()
_exact_decoder = msgspec.json.Decoder(float_hook=_exactly)


def _refuse_if_crowded(body: bytes) -> None:
    """Raises BadJSON for what would keep the garbage collector at work for seconds, though it is not too long."""
    if body.count(b"[") + body.count(b"{") <= MAX_CONTAINERS:
        return
    signs = _signs(body)
    if (count := signs.count(b"[") + signs.count(b"{")) > MAX_CONTAINERS:
        detail = f"A body may have at most {MAX_CONTAINERS:,} arrays and objects, not {count:,}."
        raise BadJSON([Problem("", "too_many", detail)])


def _problem(body: bytes, value: Any) -> Problem | None:
    """What is wrong with a body that is JSON of this value. It takes no step in Python for each thing in it.

    What is counted first costs next to nothing, and shows of most bodies that there is nothing to look for.
    """
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        return too_deep("")
    if _TOO_MANY_DIGITS in body.translate(_ZEROS) and _TOO_MANY_DIGITS in _without_texts(body).translate(_ZEROS):
        return too_long("")
    again = msgspec.json.encode(value)
    if repeats_key(body, again):
        return Problem("", "duplicate_key", "An object contains a duplicate key.")
    if b"\\u0000" in again and _NUL.search(again):
        return nul("")
    return None


def repeats_key(body: bytes, again: bytes) -> bool:
    """Whether JSON has a key twice in an object, if it is `again` when it is read and written."""
    return (body.count(b":") != again.count(b":") or b"\\" in body) and _keys(body) != _keys(again)


def _depth(body: bytes) -> int:
    return max(accumulate(array("b", _signs(body).translate(_STEPS))), default=0)


def _keys(body: bytes) -> int:
    """How many keys are written in it, for each has its colon. Of one that came twice, the value has one."""
    return _signs(body).count(b":")


def _signs(body: bytes) -> bytes:
    """The brackets and colons of JSON but those within its texts."""
    # Two quotes side by side may go: what stands within texts is still after an odd number of them.
    signs = _without_escapes(body).translate(None, _OTHERS).replace(b'""', b"")
    return b"".join(signs.split(b'"')[::2])


def _without_texts(body: bytes) -> bytes:
    return b"".join(_without_escapes(body).split(b'"')[::2])


def _without_escapes(body: bytes) -> bytes:
    """JSON whose every quote begins or ends a text."""
    # Of backslashes in a row, those that are left after the pairs escape what follows.
    return body.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in body else body
