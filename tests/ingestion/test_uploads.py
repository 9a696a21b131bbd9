"""Bytes of an upload as waiting lines: lines, rows, gzip and limits."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterable, Iterator

import msgspec
import pytest

from ingestion.records import numbered
from ingestion.uploads import MOST_LINE_BYTES, BadUpload, UploadTooLarge, waiting_lines

HEADER = b"student_id,first_name,last_name,email,grade,city\n"


def waiting(
    body: bytes, format: str = "ndjson", *, piece: int = 7, is_packed: bool = False, **limits: int
) -> list[tuple[int, bytes]]:
    pieces = (body[at : at + piece] for at in range(0, len(body), piece))
    limits = {"most_bytes": 10**9, "most_records": 10**6} | limits
    return numbered(b"\n".join(waiting_lines(pieces, format=format, is_packed=is_packed, **limits)))


def rows(body: bytes) -> list[tuple[int, dict[str, str]]]:
    return [
        (number, msgspec.json.decode(line[1:])) for number, line in waiting(HEADER + body, "csv") if line[:1] == b"="
    ]


def test_every_line_has_its_number_also_after_blank_ones() -> None:
    assert waiting(b'{"a": 1}\n\n  \r\n{"a": 2}\r\n{') == [(1, b' {"a": 1}'), (4, b' {"a": 2}'), (5, b" {")]


@pytest.mark.parametrize("piece", [1, 2, 100])
def test_how_the_bytes_arrive_makes_no_difference(piece: int) -> None:
    assert waiting(b"1\n2\n3\n", piece=piece) == [(1, b" 1"), (2, b" 2"), (3, b" 3")]


def test_a_line_that_is_too_long_is_told_and_the_next_one_read() -> None:
    [one, two, three] = waiting(b"1\n" + b"x" * (MOST_LINE_BYTES + 1) + b"\n3", piece=1_000)

    assert (one, three) == ((1, b" 1"), (3, b" 3"))
    assert two[0] == 2
    assert b'"too_long"' in two[1]


@pytest.mark.parametrize("piece", [1, 7, 1_000_000])
def test_packed_bytes_are_unpacked(piece: int) -> None:
    lines = waiting(gzip.compress(b"1\n" * 200_000), is_packed=True, piece=piece)

    assert (len(lines), lines[-1]) == (200_000, (200_000, b" 1"))


@pytest.mark.parametrize("body", [b"", b"not gzip", gzip.compress(b"1\n" * 100)[:-9], gzip.compress(b"1\n") * 2])
def test_packed_bytes_that_are_broken_are_refused(body: bytes) -> None:
    with pytest.raises(BadUpload):
        waiting(body, is_packed=True)


def test_what_unpacks_to_too_much_is_refused() -> None:
    with pytest.raises(UploadTooLarge):
        waiting(gzip.compress(b"1\n" * 10_000_000), is_packed=True, piece=1_000, most_bytes=1_000_000)


def test_too_many_records_are_refused() -> None:
    assert len(waiting(b"1\n" * 5, most_records=5)) == 5
    with pytest.raises(UploadTooLarge):
        waiting(b"1\n" * 6, most_records=5)


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


def test_a_header_may_begin_with_a_byte_order_mark() -> None:
    assert waiting("\ufeff".encode() + HEADER + b"S1", "csv") == [(2, b'={"student_id":"S1"}')]


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"", "required"),
        (b"student_id,first_name", "required"),
        (HEADER.replace(b"city", b"town"), "unknown"),
        (HEADER.replace(b"city", b"email"), "duplicate"),
        (b"\xff\xfe", "unknown"),
        (b"x" * 200_000, "malformed"),
    ],
)
def test_a_header_that_is_none_is_refused(header: bytes, code: str) -> None:
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
    ],
)
def test_a_row_that_cannot_be_read_is_told_by_its_line(row: bytes, code: bytes) -> None:
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
        drained = drain(waiting_lines(body(), format="ndjson", is_packed=False, most_bytes=10**9, most_records=10**6))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (drained, peak < 1_000_000) == (40_000, True)
