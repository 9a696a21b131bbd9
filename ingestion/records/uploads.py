"""Uploads of any length, pure: a stream of bytes becomes staged lines, in memory for one line at a time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator

from ingestion.records.csv_rows import MAX_ROW_BYTES, BadRow, Row, rows
from ingestion.records.staging import as_bad_line, as_line, as_raw_line
from ingestion.records.student import FIELDS
from orchestrator.http import encodings
from orchestrator.kind_problems import Problem
from orchestrator.pg_values import as_text

# Bytes read at once, and of an unpacked piece at most.
PIECE = 64 * 1024
MAX_LINE_BYTES = MAX_ROW_BYTES
# What gzip may unpack to: so many bytes, and so many for each that was sent. Student records unpack to 15 to 40 times
# their size, and what would cost far more work than sending it to more than 1,000.
UNPACKED_FREE_BYTES = 1_000_000
MAX_UNPACKED_RATIO = 100

REQUIRED = [name for name, field in FIELDS.items() if field.required]
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
# Files that are no text, by their first bytes, and what to do with them.
OTHER_FILES = {
    b"\x1f\x8b": "compressed with gzip; send it with Content-Encoding: gzip, or name it .gz",
    b"PK\x03\x04": "a workbook or a zip archive; save it as CSV (in Excel: CSV UTF-8), or unpack it, and send that",
    b"\xd0\xcf\x11\xe0": "a workbook; save it as CSV (in Excel: CSV UTF-8), and send that",
    b"PAR1": "Parquet; export it as CSV or NDJSON, and send that",
}

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
    """What was packed with gzip; raises BadUpload where it is broken, breaks off, or goes on after its end, and
    UploadTooLarge where it grows out of proportion to what was sent.

    With several members, a missing last one could not be detected.
    """
    inflater = zlib.decompressobj(wbits=31)
    allowed = UNPACKED_FREE_BYTES
    try:
        for piece in packed:
            rest = piece
            allowed += MAX_UNPACKED_RATIO * len(piece)
            while rest and not inflater.eof:
                plain = inflater.decompress(rest, PIECE)
                allowed -= len(plain)
                if allowed < 0:
                    raise UploadTooLarge(_BOMB)
                yield plain
                rest = inflater.unconsumed_tail
            if rest or inflater.unused_data:
                raise BadUpload("bad_gzip", "The body continues after the end of the gzip data; send one member.")
    except zlib.error:
        raise BadUpload("bad_gzip", "The Content-Encoding is gzip, but the body is not, or is damaged.") from None
    if not inflater.eof:
        raise BadUpload("broken_off", "The gzip data end too early.")


_BOMB = (
    f"The gzip data decompress to more than {MAX_UNPACKED_RATIO} times their size; send them uncompressed, "
    "with a Content-Length."
)


def at_most(received: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    total = 0
    for piece in received:
        total += len(piece)
        if total > max_bytes:
            raise UploadTooLarge(f"An upload may have at most {max_bytes:,} bytes after decompression.")
        yield piece


def gathered(received: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces of a size that is worth their handling, however small they come: the time for a long line would grow with
    the square of their number.
    """
    small: list[bytes] = []
    size = 0
    for piece in received:
        small.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(small)
            small.clear()
            size = 0
    if size:
        yield b"".join(small)


def in_utf_8(received: Iterable[bytes]) -> Iterator[bytes]:
    """The text without its byte order mark; raises BadUpload where its beginning shows another encoding."""
    rest = iter(received)
    head = next(rest, b"")
    for beginning, what in OTHER_FILES.items():
        if head.startswith(beginning):
            raise BadUpload("not_text", f"The file is {what}.")
    if name := encodings.foreign_encoding(head):
        raise BadUpload("not_utf_8", f"The file is {name}. Save it as UTF-8 (in Excel: CSV UTF-8), and send that.")
    yield head.removeprefix(encodings.BOM)
    yield from rest


def lines_of(received: Iterable[bytes]) -> NumberedLines:
    """Physical lines without their ends. The rest of one that is too long is skipped."""
    number, rest, too_long = 1, b"", False
    for piece in received:
        *whole, rest_of_piece = piece.split(b"\n")
        for part in whole:
            line = rest + part
            yield number, None if too_long or len(line) > MAX_LINE_BYTES else line.removesuffix(b"\r")
            number, rest, too_long = number + 1, b"", False
        rest += rest_of_piece
        if len(rest) > MAX_LINE_BYTES:
            rest, too_long = b"", True
    if rest or too_long:
        yield number, None if too_long else rest


def from_ndjson(received: Iterable[bytes]) -> Iterator[bytes]:
    """A staged line for each line, empty for a blank one. What is in it is for the job to say."""
    for number, line in lines_of(received):
        if line is None:
            yield as_bad_line(number, "too_long", f"A line may have at most {MAX_LINE_BYTES:,} bytes.")
        else:
            yield as_raw_line(number, line) if line.strip() else b""


def from_csv(received: Iterable[bytes]) -> Iterator[bytes]:
    """A staged line for each row after the header, empty for a blank one.

    Raises BadUpload where the header is none.
    """
    read = rows(received, min_cells=len(REQUIRED))
    names: list[str] = []
    for row in read:
        if isinstance(row, BadRow):
            raise BadUpload("malformed", f"The header cannot be read. {row.detail}")
        if any(row.cells):
            names = [name.strip() for name in row.cells]
            break
        yield b""
    _check_header(names)
    for row in read:
        yield _waiting(row, names)


def _waiting(row: Row | BadRow, names: list[str]) -> bytes:
    if isinstance(row, BadRow):
        return as_bad_line(row.first, "malformed", row.detail)
    if len(row.cells) > len(names):
        detail = (
            f"Line {row.first} has {len(row.cells)} cells, the header {len(names)}. Put a cell with a comma in quotes."
        )
        return as_bad_line(row.first, "malformed", detail)
    record = dict(zip(names, row.cells, strict=False))
    # An empty cell is a field left out.
    if "" in row.cells:
        record = {name: cell for name, cell in record.items() if cell}
    try:
        return as_line(row.first, record) if record else b""
    except UnicodeEncodeError:
        return as_bad_line(row.first, "not_utf_8", f"Line {row.first} is not UTF-8. Save the file as UTF-8.")


def _check_header(names: list[str]) -> None:
    if any("\udc80" <= sign <= "\udcff" for name in names for sign in name):
        raise BadUpload("not_utf_8", "The header is not UTF-8. Save the file as UTF-8.", "/0")
    if unknown := [name for name in names if name not in FIELDS]:
        raise BadUpload("unknown", _unknown(unknown[0]), "/0")
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadUpload("duplicate", f"The header names {sorted(twice)[0]!r} twice.", "/0")
    if missing := [name for name in REQUIRED if name not in names]:
        raise BadUpload("required", f"The header is missing {', '.join(missing)}.", "/0")


def _unknown(name: str) -> str:
    """What to do about a name in the header that is no field's."""
    if separators := [words for sign, words in OTHER_SEPARATORS.items() if sign in name]:
        return f"The cells are separated by {separators[0]}; export the file with commas."
    if not name:
        return "A column has no name in the header."
    shown = as_text(name, at_most=100)
    return f"The header has the unknown field {shown!r}; allowed: {', '.join(FIELDS)}."


def counted(waiting: Iterable[bytes], max_records: int) -> Iterator[bytes]:
    """The staged lines but those that are empty, which are work too, and so count."""
    for number, line in enumerate(waiting, 1):
        if number > max_records:
            raise UploadTooLarge(f"An upload may have at most {max_records:,} records, blank lines included.")
        if line:
            yield line


FORMATS: dict[str, Callable[[Iterable[bytes]], Iterator[bytes]]] = {"ndjson": from_ndjson, "csv": from_csv}


def staged_lines(
    received: Iterable[bytes], *, format: str, is_packed: bool, max_bytes: int, max_records: int
) -> Iterator[bytes]:
    """The staged lines of an upload in that format; raises BadUpload or UploadTooLarge as soon as it is known."""
    plain = unpacked(received) if is_packed else received
    return counted(FORMATS[format](in_utf_8(gathered(at_most(plain, max_bytes)))), max_records)
