"""Staged lines: records as they wait for their job, one a line, each with its index and a sign of what it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple

import msgspec

from ingestion.records.rejects import FieldError

_STAGED = re.compile(rb"^(\d+)([= !][^\n]*)", re.MULTILINE)


def as_line(index: int, record: Any) -> bytes:
    """A record that was read already, as it waits, one a line: its index and its JSON."""
    return b"%d=%s" % (index, msgspec.json.encode(record))


class Staged(NamedTuple):
    """Records as they wait, indexed from 0, and how many they are."""

    lines: bytes
    total: int

    @classmethod
    def of(cls, records: Sequence[Any]) -> Staged:
        return cls(b"\n".join(map(as_line, count(), records)), len(records))

    @classmethod
    def of_documents(cls, documents: Sequence[bytes]) -> Staged:
        """documents: a record's JSON each, without line breaks."""
        return cls(b"\n".join(map(b"%d=%b".__mod__, enumerate(documents))), len(documents))


def as_raw_line(index: int, line: bytes) -> bytes:
    """A line as somebody sent it, which may be no JSON, as it waits."""
    return b"%d %s" % (index, line)


def as_bad_line(index: int, code: str, message: str) -> bytes:
    """What could not even be read as a record, as it waits among the others."""
    return b"%d!%s" % (index, msgspec.json.encode(FieldError("", code, message)))


def numbered(lines: bytes) -> list[tuple[int, bytes]]:
    """Staged lines, each with its index; the rest of the line begins with a sign of what it is."""
    return [(int(number), line) for number, line in _STAGED.findall(lines)]


def documents_of(lines: bytes) -> tuple[list[int], Sequence[bytes]]:
    """The indexes and the JSON of staged lines, if all are records that were read already; else nothing."""
    heads, _, documents = zip(*[line.partition(b"=") for line in lines.split(b"\n")], strict=True)
    return (list(map(int, heads)), documents) if all(map(bytes.isdigit, heads)) else ([], [])
