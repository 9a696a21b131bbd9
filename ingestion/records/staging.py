"""Staged lines: records as they wait for their job, one a line, each with its index and a sign of what it is."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ingestion.records.rejects import FieldError

_STAGED = re.compile(rb"^(\d+)([= !][^\n]*)", re.MULTILINE)


def as_line(index: int, record: Any) -> bytes:
    """A record that was read already, as it waits, one a line: its index and its JSON."""
    return b"%d=%s" % (index, msgspec.json.encode(record))


def as_raw_line(index: int, line: bytes) -> bytes:
    """A line as somebody sent it, which may be no JSON, as it waits."""
    return b"%d %s" % (index, line)


def as_bad_line(index: int, code: str, message: str) -> bytes:
    """What could not even be read as a record, as it waits among the others."""
    return b"%d!%s" % (index, msgspec.json.encode(FieldError("", code, message)))


def numbered(lines: bytes) -> list[tuple[int, bytes]]:
    """Staged lines, each with its index; the rest of the line begins with a sign of what it is."""
    return [(int(number), line) for number, line in _STAGED.findall(lines)]
