"""Uploads of any length, pure: a stream of bytes becomes waiting lines, in memory for one line at a time."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import count

from ingestion.records import FIELDS, as_bad_line, as_line, as_raw_line
from orchestrator.kinds import Problem

# Bytes read at once, and of an unpacked piece at most.
PIECE = 64 * 1024
# A record at every limit, with each character escaped, takes less than a quarter of this.
MOST_LINE_BYTES = 100_000

Read = Callable[[int], bytes]
# Lines with their numbers, from 1; None in place of one that is too long.
NumberedLines = Iterator[tuple[int, bytes | None]]


class BadUpload(ValueError):
    """The upload as a whole cannot be read."""

    def __init__(self, code: str, detail: str, pointer: str = "") -> None:
        self.problems = [Problem(pointer, code, detail)]
        super().__init__(detail)


class UploadTooLarge(ValueError):
    """The upload is longer than the settings allow."""


def pieces(read: Read) -> Iterator[bytes]:
    while piece := read(PIECE):
        yield piece


def unpacked(packed: Iterable[bytes]) -> Iterator[bytes]:
    """What was packed with gzip; raises BadUpload where it is broken, breaks off, or goes on after its end.

    Of several members in a row one that is missing could not be told.
    """
    inflater = zlib.decompressobj(wbits=31)
    try:
        for piece in packed:
            rest = piece
            while rest and not inflater.eof:
                yield inflater.decompress(rest, PIECE)
                rest = inflater.unconsumed_tail
            if rest or inflater.unused_data:
                raise BadUpload("bad_gzip", "The body goes on after the end of the gzip data; send one member.")
    except zlib.error as error:
        raise BadUpload("bad_gzip", f"The body is said to be gzip, but is not: {error}.") from None
    if not inflater.eof:
        raise BadUpload("broken_off", "The gzip data break off before their end.")


def at_most(received: Iterable[bytes], most_bytes: int) -> Iterator[bytes]:
    total = 0
    for piece in received:
        total += len(piece)
        if total > most_bytes:
            raise UploadTooLarge(f"An upload has at most {most_bytes:,} bytes, unpacked.")
        yield piece


def lines_of(received: Iterable[bytes]) -> NumberedLines:
    """Physical lines without their ends. The rest of one that is too long is skipped."""
    number, rest, too_long = 1, b"", False
    for piece in received:
        *whole, rest_of_piece = piece.split(b"\n")
        for part in whole:
            line = rest + part
            yield number, None if too_long or len(line) > MOST_LINE_BYTES else line.removesuffix(b"\r")
            number, rest, too_long = number + 1, b"", False
        rest += rest_of_piece
        if len(rest) > MOST_LINE_BYTES:
            rest, too_long = b"", True
    if rest or too_long:
        yield number, None if too_long else rest


def from_ndjson(lines: NumberedLines) -> Iterator[bytes]:
    """A waiting line for each line that is not blank. What is in it is for the job to say."""
    for number, line in lines:
        if line is None:
            yield as_bad_line(number, "too_long", f"A line has at most {MOST_LINE_BYTES:,} bytes.")
        elif line.strip():
            yield as_raw_line(number, line)


def from_csv(lines: NumberedLines) -> Iterator[bytes]:
    """A waiting line for each row after the header; raises BadUpload where the header is none."""
    rows = _rows(lines)
    _, header = next(rows, (1, []))
    if isinstance(header, str):
        raise BadUpload("malformed", f"The header cannot be read: {header}")
    names = [name.strip().removeprefix("\ufeff") for name in header]
    _check_header(names)
    for number, row in rows:
        yield _waiting(number, row, names)


def _waiting(number: int, row: list[str] | str, names: list[str]) -> bytes:
    if isinstance(row, str):
        return as_bad_line(number, "malformed", row)
    if len(row) > len(names):
        return as_bad_line(number, "malformed", f"The row has {len(row)} cells, the header {len(names)}.")
    # An empty cell is a field left out.
    with suppress(UnicodeEncodeError):
        return as_line(number, {name: cell.strip() for name, cell in zip(names, row, strict=False) if cell.strip()})
    return as_bad_line(number, "not_utf_8", "The row is not UTF-8.")


def _check_header(names: list[str]) -> None:
    if unknown := [name for name in names if name not in FIELDS]:
        detail = f"The header names {unknown[0][:100]!r}, which is no field; known are {', '.join(FIELDS)}."
        raise BadUpload("unknown", detail, "/0")
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadUpload("duplicate", f"The header names {sorted(twice)[0]!r} twice.", "/0")
    if missing := [name for name, field in FIELDS.items() if field.required and name not in names]:
        raise BadUpload("required", f"The header lacks {', '.join(missing)}.", "/0")


def _rows(lines: NumberedLines) -> Iterator[tuple[int, list[str] | str]]:
    """Each row with the number of its first line, or what is wrong with it; blank lines are none."""
    reader = csv.reader(_texts(lines))
    for _ in count():
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, f"The row is no CSV: {error}."
        else:
            if any(cell.strip() for cell in row):
                yield number, row


def _texts(lines: NumberedLines) -> Iterator[str]:
    """Lines for csv.reader. Bytes that are no UTF-8 become surrogates, which no JSON can hold."""
    for _, line in lines:
        # A field so long is an error to csv.reader, which goes on with the next line.
        text = "x" * (csv.field_size_limit() + 1) if line is None else line.decode(errors="surrogateescape")
        yield text + "\n"


def counted(waiting: Iterable[bytes], most_records: int) -> Iterator[bytes]:
    for number, line in enumerate(waiting, 1):
        if number > most_records:
            raise UploadTooLarge(f"An upload has at most {most_records:,} records.")
        yield line


FORMATS: dict[str, Callable[[NumberedLines], Iterator[bytes]]] = {"ndjson": from_ndjson, "csv": from_csv}


def waiting_lines(
    received: Iterable[bytes], *, format: str, is_packed: bool, most_bytes: int, most_records: int
) -> Iterator[bytes]:
    """The waiting lines of an upload in that format; raises BadUpload or UploadTooLarge as soon as it is known."""
    plain = unpacked(received) if is_packed else received
    return counted(FORMATS[format](lines_of(at_most(plain, most_bytes))), most_records)
