"""Bytes of an upload as staged lines: lines, rows, gzip and limits."""

from __future__ import annotations

import codecs
import gzip
import tracemalloc
from collections.abc import Callable, Iterable, Iterator

import msgspec
import pytest

from ingestion.records.staging import numbered
from ingestion.records.uploads import (
    MAX_LINE_BYTES,
    MAX_UNPACKED_RATIO,
    UNPACKED_FREE_BYTES,
    BadUpload,
    UploadTooLarge,
    staged_lines,
    unpacked,
)

HEADER = b"student_id,first_name,last_name,email,grade,city\n"


def waiting(
    body: bytes, format: str = "ndjson", *, piece: int = 7, is_packed: bool = False, **limits: int
) -> list[tuple[int, bytes]]:
    pieces = (body[at : at + piece] for at in range(0, len(body), piece))
    limits = {"max_bytes": 10**9, "max_records": 10**6} | limits
    return numbered(b"\n".join(staged_lines(pieces, format=format, is_packed=is_packed, **limits)))


def rows(body: bytes) -> list[tuple[int, dict[str, str]]]:
    return [
        (number, msgspec.json.decode(line[1:])) for number, line in waiting(HEADER + body, "csv") if line[:1] == b"="
    ]


def test_every_line_has_its_number_also_after_blank_ones() -> None:
    assert waiting(b'{"a": 1}\n\n  \r\n{"a": 2}\r\n{') == [(1, b' {"a": 1}'), (4, b' {"a": 2}'), (5, b" {")]


@pytest.mark.parametrize("piece", [1, 2, 100])
def test_how_the_bytes_arrive_makes_no_difference(piece: int) -> None:
    assert waiting(b"1\n2\n3\n", piece=piece) == [(1, b" 1"), (2, b" 2"), (3, b" 3")]


def test_a_line_that_is_too_long_is_reported_and_the_next_one_read() -> None:
    [one, two, three] = waiting(b"1\n" + b"x" * (MAX_LINE_BYTES + 1) + b"\n3", piece=1_000)

    assert (one, three) == ((1, b" 1"), (3, b" 3"))
    assert two[0] == 2
    assert b'"too_long"' in two[1]


@pytest.mark.parametrize("piece", [1, 7, 1_000_000])
def test_packed_bytes_are_unpacked(piece: int) -> None:
    lines = waiting(gzip.compress(b"1\n" * 200_000), is_packed=True, piece=piece)

    assert (len(lines), lines[-1]) == (200_000, (200_000, b" 1"))


# Named, since gzip writes the time into its bytes, and the processes of a test run must agree on the tests' names.
@pytest.mark.parametrize(
    "body",
    [b"", b"not gzip", gzip.compress(b"1\n" * 100)[:-9], gzip.compress(b"1\n") * 2],
    ids=["empty", "not gzip", "cut short", "two members"],
)
def test_packed_bytes_that_are_broken_are_refused(body: bytes) -> None:
    with pytest.raises(BadUpload):
        waiting(body, is_packed=True)


def test_what_unpacks_to_too_much_is_refused() -> None:
    with pytest.raises(UploadTooLarge):
        waiting(gzip.compress(b"1\n" * 10_000_000), is_packed=True, piece=1_000, max_bytes=1_000_000)


def test_what_grows_out_of_proportion_is_unpacked_no_further() -> None:
    packed = gzip.compress(b'{"a": 1}\n' * 5_000_000)
    sizes: list[int] = []

    with pytest.raises(UploadTooLarge, match="more than 100 times their size"):
        sizes.extend(map(len, unpacked(packed[at : at + 1_000] for at in range(0, len(packed), 1_000))))

    assert sum(sizes) <= UNPACKED_FREE_BYTES + MAX_UNPACKED_RATIO * len(packed) < 12_000_000


@pytest.mark.parametrize("format", ["csv", "ndjson"])
def test_blank_lines_count_towards_the_most_records(format: str) -> None:
    header = HEADER if format == "csv" else b""

    assert waiting(header + b"\n\n{}", format, max_records=3)
    with pytest.raises(UploadTooLarge, match="blank lines included"):
        waiting(header + b"\n\n\n{}", format, max_records=3)
    with pytest.raises(UploadTooLarge):
        waiting(b"\n\n\n\n" + header, format, max_records=3)


def test_too_many_records_are_refused() -> None:
    assert len(waiting(b"1\n" * 5, max_records=5)) == 5
    with pytest.raises(UploadTooLarge):
        waiting(b"1\n" * 6, max_records=5)


def test_a_row_becomes_a_record_by_the_header() -> None:
    assert rows(b'S1, Asha ,"Rao, Jr.",a@example.org,5,\n\nS2\n') == [
        (
            2,
            {
                "student_id": "S1",
                "first_name": "Asha",
                "last_name": "Rao, Jr.",
                "email": "a@example.org",
                "grade": "5",
            },
        ),
        (4, {"student_id": "S2"}),
    ]


def test_a_cell_of_several_lines_is_one_record_with_the_number_of_its_first() -> None:
    assert [number for number, _ in rows(b'S1,A,B,a@b.org,5,"x\ny\nz"\nS2,A,B,a@b.org,5,\n')] == [2, 5]


QUOTED_HEADER = b'"student_id","first_name","last_name","email","grade"\r\n'


@pytest.mark.parametrize("piece", [1, 2, 100])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("body", "format", "first"),
    [
        (HEADER + b"S1", "csv", (2, b'={"student_id":"S1"}')),
        (QUOTED_HEADER + b'"S1"', "csv", (2, b'={"student_id":"S1"}')),
        (b"{}", "ndjson", (1, b" {}")),
        (b"\n{}", "ndjson", (2, b" {}")),
    ],
)
def test_a_byte_order_mark_at_the_start_is_skipped(
    body: bytes, format: str, first: tuple[int, bytes], pack: Callable[[bytes], bytes], piece: int
) -> None:
    with_mark = pack(codecs.BOM_UTF8 + body)

    assert waiting(with_mark, format, piece=piece, is_packed=pack is gzip.compress) == [first]


@pytest.mark.parametrize("format", ["csv", "ndjson"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_a_file_in_another_encoding_is_refused_with_its_name(format: str, encoding: str) -> None:
    with pytest.raises(BadUpload, match=f"The file is {encoding[:6].upper()}. Save it as UTF-8"):
        waiting((HEADER if format == "csv" else b"{}").decode().encode(encoding), format, piece=1)


@pytest.mark.parametrize("format", ["csv", "ndjson"])
@pytest.mark.parametrize(
    ("beginning", "told"),
    [
        (b"\x1f\x8b\x08\0", "Content-Encoding: gzip"),
        (b"PK\x03\x04\x14\0\x06\0", "save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "save it as CSV"),
        (b"PAR1\x15\x04", "export it as CSV or NDJSON"),
    ],
)
def test_a_file_that_is_no_text_is_refused_with_what_to_do(format: str, beginning: bytes, told: str) -> None:
    with pytest.raises(BadUpload, match=told):
        waiting(beginning + b"\n" * 100, format)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (HEADER.replace(b",", b";"), "separated by semicolons; export the file with commas"),
        (HEADER.replace(b",", b"\t"), "separated by tabs"),
        (HEADER.replace(b"city", b""), "A column has no name"),
        (HEADER.replace(b"city", b'ci"ty'), "The header cannot be read. Line 1: Cell 6 contains a quote"),
        (b"\n" + HEADER.replace(b"city", b'"city'), "The header cannot be read. Line 2: The quote that opens cell 6"),
    ],
)
def test_what_is_wrong_with_a_header_is_explained(header: bytes, told: str) -> None:
    with pytest.raises(BadUpload, match=told):
        waiting(header + b"S1,A,B,a@b.org,5", "csv")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_may_end_in_any_way_and_in_cells_stay_as_they_are(end: bytes) -> None:
    body = end.join([HEADER[:-1], b'S1,"a\r\nb\nc", d ," e ",5', b"", b"S2"])

    found = [(number, msgspec.json.decode(line[1:])) for number, line in waiting(body, "csv")]

    first = {"student_id": "S1", "first_name": "a\r\nb\nc", "last_name": "d", "email": " e ", "grade": "5"}
    assert found == [(2, first), (6, {"student_id": "S2"})]


def test_empty_rows_are_treated_as_blank_lines() -> None:
    assert rows(b',,,,,\n \n""\n, ,\nS1\n') == [(6, {"student_id": "S1"})]


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"", "required"),
        (b"student_id,first_name", "required"),
        (HEADER.replace(b"city", b"town"), "unknown"),
        (HEADER.replace(b"city", b"email"), "duplicate"),
        (HEADER.replace(b"city", b"\xe9tat"), "not_utf_8"),
        (b"x" * 200_000, "malformed"),
    ],
)
def test_an_invalid_header_is_refused(header: bytes, code: str) -> None:
    with pytest.raises(BadUpload) as refused:
        waiting(header, "csv", piece=1_000)

    assert refused.value.problems[0].code == code
    refused.value.problems[0].detail.encode(errors="replace")


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (b"a,b,c,d,e,f,g", b"malformed"),
        (b"\xff,A,B", b"not_utf_8"),
        (b'"' + b"x" * 140_000, b"malformed"),
        (b"x" * 140_000, b"malformed"),
        (b'S1,A,B,a@b.org,5,"12', b"Line 2: The quote that opens cell 6"),
        (b'S1,A,B,a@b.org,5,"12" or', b"Line 2: After the closing quote of cell 6"),
        (b'S1,A,B,a@b.org,5,12"', b"Line 2: Cell 6 contains a quote"),
        (b"a,b,c,d,e,f,g", b"Line 2 has 7 cells, the header 6"),
        (b"\xe9,A,B", b"Line 2 is not UTF-8"),
    ],
)
def test_a_row_that_cannot_be_read_is_reported_with_its_line(row: bytes, code: bytes) -> None:
    [(number, line)] = waiting(HEADER + row, "csv", piece=1_000)

    assert number == 2
    assert line.startswith(b"!")
    assert code in line


def test_memory_does_not_grow_with_the_upload() -> None:
    def body() -> Iterator[bytes]:
        for number in range(40_000):
            yield b'{"student_id": "S%d", "address": "%s"}\n' % (number, b"x" * 500)

    def drain(lines: Iterable[bytes]) -> int:
        return sum(1 for _ in lines)

    tracemalloc.start()
    try:
        drained = drain(staged_lines(body(), format="ndjson", is_packed=False, max_bytes=10**9, max_records=10**6))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (drained, peak < 1_000_000) == (40_000, True)
