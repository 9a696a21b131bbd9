"""Values made fit for PostgreSQL: text and JSON cannot hold every Python string."""

import re
from typing import Any

import msgspec

# The JSON escape of NUL, but not a backslash followed by the letters u0000.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def as_json(value: Any, *, at_most: int) -> str:
    """The value as JSON of at most so many bytes.

    Raises TypeError for what is no JSON, ValueError for what is too long or holds a NUL or half a surrogate pair.
    """
    encoded = msgspec.json.encode(value)
    if len(encoded) > at_most:
        raise ValueError(f"It takes {len(encoded):,} bytes as JSON; at most {at_most:,} are kept.")
    text = encoded.decode()
    if r"\u0000" in text and _NUL.search(text):
        raise ValueError("It contains a NUL character, which PostgreSQL cannot hold.")
    return text


def as_text(text: str, *, at_most: int) -> str:
    """The text's first characters, with a replacement character for each that PostgreSQL cannot hold."""
    return text[:at_most].replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
