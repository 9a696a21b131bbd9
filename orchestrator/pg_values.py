"""Values made fit for PostgreSQL: text and JSON cannot hold every Python value."""

import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import accumulate
from math import isfinite
from typing import Any

import msgspec

# How deep JSON may be nested. Readers recurse, so what is deeper could be stored and not be read again.
MAX_DEPTH = 100

# The JSON escape of NUL, but not a backslash followed by the letters u0000.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
# Python reads no longer integers, and PostgreSQL writes 1e130000 with all its zeros.
MAX_DIGITS = 4_300
_TOO_MANY_DIGITS = b"0" * (MAX_DIGITS + 1)
_ZEROS = bytes(ord("0") if chr(each).isdecimal() and each < 128 else each for each in range(256))
_EXPONENT = re.compile(rb"\d[eE][+-]?\d{4}")
# What JSON holds of a number that is not finite, and of a NUL, as other values may hold, too.
_SUSPICIOUS = (b"null", b"NaN", b"Infinity", b"\\u0000")

_encoder = msgspec.json.Encoder()


class NotFinite(ValueError):
    """Infinity, or what is not a number: JSON has no word for it."""

    def __init__(self, pointer: str, number: float | Decimal) -> None:
        self.pointer = pointer
        where = f"at {pointer} " if pointer else ""
        super().__init__(f"The number {where}is {number!s}; JSON only has finite numbers.")


def as_json(value: Any, *, at_most: int) -> str:
    """The value as JSON of at most so many bytes.

    Raises TypeError for what is no JSON, ValueError for what is too long, nested too deep, or holds a NUL, half a
    surrogate pair, or a number that is not finite or has too many digits.
    """
    encoded = msgspec.json.encode(value)
    if len(encoded) > at_most:
        raise ValueError(f"It takes {len(encoded):,} bytes as JSON; at most {at_most:,} are allowed.")
    if encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH and _depth(encoded) > MAX_DEPTH:
        raise ValueError(f"It is nested deeper than {MAX_DEPTH} levels.")
    # What a number that is none looks like as JSON: a float is null, a Decimal is a text.
    if b"null" in encoded or b"NaN" in encoded or b"Infinity" in encoded:
        for pointer, number in _not_finite(msgspec.to_builtins(value, builtin_types=(Decimal,))):
            raise NotFinite(pointer, number)
    if _has_long_number(encoded):
        raise ValueError(f"It contains a number of more than {MAX_DIGITS:,} digits.")
    text = encoded.decode()
    if r"\u0000" in text and _NUL.search(text):
        raise ValueError("It contains a NUL character, which PostgreSQL cannot store.")
    return text


def as_json_each(values: Sequence[Any], *, at_most: int) -> list[str]:
    """Each value as `as_json` has it, which it asks where something could be wrong with one of them: what may be wrong
    is looked for in all at once, in a tenth of the time.
    """
    try:
        lines = _encoder.encode_lines(values)
        texts = lines.decode().split("\n")[:-1]
    except Exception:  # It is raised once more for the value that it is about.
        return [as_json(value, at_most=at_most) for value in values]
    # One that is no object or array has no bracket, and one that is has one at the beginning of its line.
    brackets = lines.count(b"[") + lines.count(b"{") - lines.count(b"\n[") - lines.count(b"\n{")
    if (
        len(texts) != len(values)
        or len(lines) > at_most
        or brackets > MAX_DEPTH
        or any(sign in lines for sign in _SUSPICIOUS)
        or _may_have_long_number(lines)
    ):
        return [as_json(value, at_most=at_most) for value in values]
    return texts


def _depth(encoded: bytes) -> int:
    brackets = _STRING.sub(b"", encoded).translate(None, delete=_NO_BRACKETS)
    return max(accumulate(_STEPS[bracket] for bracket in brackets), default=0)


def _has_long_number(encoded: bytes) -> bool:
    """Only a msgspec.Raw may have one."""
    return _may_have_long_number(encoded) and _may_have_long_number(_STRING.sub(b"", encoded))


def _may_have_long_number(encoded: bytes) -> bool:
    has_digits = len(encoded) > MAX_DIGITS and _TOO_MANY_DIGITS in encoded.translate(_ZEROS)
    return has_digits or _EXPONENT.search(encoded) is not None


def _not_finite(value: Any, pointer: str = "") -> Iterator[tuple[str, float | Decimal]]:
    """The numbers that JSON cannot hold, with where they are (RFC 6901)."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(key, f"{pointer}/{key}")
            yield from _not_finite(item, f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _not_finite(item, f"{pointer}/{position}")
    # Each by its own means: math.isfinite raises for a signaling NaN.
    elif (isinstance(value, float) and not isfinite(value)) or (isinstance(value, Decimal) and not value.is_finite()):
        yield pointer, value


def as_array(values: Iterable[str]) -> str:
    """Texts as one text that PostgreSQL reads as an array: a list would be as many constants for its parser."""
    texts = list(values)
    if not texts:
        return "{}"
    # All are quoted at once. No text that PostgreSQL can hold has a NUL, which therefore keeps them apart meanwhile.
    joined = "\x00".join(texts)
    if joined.count("\x00") != len(texts) - 1:
        raise ValueError("A text contains a NUL character, which PostgreSQL cannot store.")
    quoted = joined.replace("\\", r"\\").replace('"', r"\"").replace("\x00", '","')
    return '{"' + quoted + '"}'


def as_text(text: str, *, at_most: int) -> str:
    """The text's first characters, with a replacement character for each that PostgreSQL cannot hold."""
    # Not text[:at_most], which a subclass of str may override.
    kept = str.__getitem__(text, slice(at_most))
    return kept.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def is_storable(text: Any, *, at_most: int) -> bool:
    """Whether it is a text that PostgreSQL holds as it is."""
    if type(text) is str and text.isascii():
        return len(text) <= at_most and "\x00" not in text
    return isinstance(text, str) and len(text) <= at_most and text == as_text(text, at_most=at_most)
