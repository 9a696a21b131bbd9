"""Encodings of bodies and files: what one is declared to be, and what its first bytes show."""

from __future__ import annotations

import codecs
from functools import lru_cache

from django.utils.http import parse_header_parameters

BOM = codecs.BOM_UTF8
# Longest Content-Type that is looked at.
MAX_HEADER = 200
CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# Where the first four bytes are zero, if they are two or one characters of ASCII (RFC 4627, section 3).
_ZEROS = {(1, 3): "UTF-16", (0, 2): "UTF-16", (1, 2, 3): "UTF-32", (0, 1, 2): "UTF-32"}


@lru_cache
def is_utf_8(content_type: str) -> bool:
    """Whether a Content-Type declares UTF-8, of which ASCII is a part, or no charset."""
    try:
        _, parameters = parse_header_parameters(content_type[:MAX_HEADER])
    except ValueError:
        return False
    return len(content_type) <= MAX_HEADER and parameters.get("charset", "utf-8").strip().lower() in CHARSETS


def codings(content_encoding: str) -> list[str]:
    """The codings of a Content-Encoding in the order they were applied, without `identity`, which does nothing."""
    names = (name.strip().lower().removeprefix("x-") for name in content_encoding.split(","))
    return [name for name in names if name not in ("", "identity")]


def foreign_encoding(text: bytes) -> str | None:
    """The name of the encoding that a text is in, if its first bytes show that it is another one than UTF-8."""
    head = text[:4]
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    return _ZEROS.get(tuple(place for place, byte in enumerate(head) if byte == 0)) if 0 in head else None
