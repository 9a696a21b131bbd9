"""CSV: what is written comes back as it was, and whatever is broken, every line is accounted for."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from io import StringIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingestion.records import csv_rows
from ingestion.records.csv_rows import MAX_ROW_BYTES, BadRow, Row, rows

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text('",\r\n \tx', max_size=8)
TABLES = st.lists(st.lists(TEXTS, min_size=5, max_size=5), min_size=1, max_size=8)


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def read(body: str | bytes, *, size: int = 7, min_cells: int = 5) -> list[Row | BadRow]:
    encoded = body.encode() if isinstance(body, str) else body
    return list(rows(pieces(encoded, size), min_cells=min_cells))


def cells(body: str) -> list[list[str]]:
    """The cells of a text of which each row is good."""
    return [row.cells for row in read(body) if isinstance(row, Row)]


def bad(body: str | bytes) -> list[tuple[int, int]]:
    return [(row.first, row.last) for row in read(body) if isinstance(row, BadRow)]


def written(table: list[list[str]], **dialect: object) -> str:
    file = StringIO(newline="")
    csv.writer(file, **dialect).writerows(table)  # type: ignore[arg-type]
    return file.getvalue()


@given(table=TABLES, end=st.sampled_from(["\r\n", "\n", "\r"]), size=st.integers(1, 40))
def test_what_is_written_in_quotes_comes_back_to_the_byte(table: list[list[str]], end: str, size: int) -> None:
    body = written(table, quoting=csv.QUOTE_ALL, lineterminator=end).encode()

    assert [row.cells for row in read(body, size=size) if isinstance(row, Row)] == table


@given(table=TABLES, quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]), size=st.integers(1, 40))
def test_without_quotes_only_blanks_around_a_cell_are_lost(table: list[list[str]], quoting: int, size: int) -> None:
    body = written(table, quoting=quoting).encode()

    read_back = [row.cells for row in read(body, size=size) if isinstance(row, Row)]

    assert [[cell.strip(" \t") for cell in row] for row in read_back] == [
        [cell.strip(" \t") for cell in row] for row in table
    ]


@given(st.text('",\r\n x', max_size=60))
@example('a"b,c\n"d,e')
@example('"a""')
def test_what_is_read_is_what_the_csv_module_reads(body: str) -> None:
    found = read(body)
    if all(isinstance(row, Row) for row in found):
        expected = csv.reader(StringIO(body, newline=""), strict=True)
        assert [[cell.strip(" \t") for cell in row.cells] for row in found if isinstance(row, Row)] == [
            [cell.strip(" \t") for cell in row] or [""] for row in expected
        ]


@given(st.text('",\r\nx', max_size=80), st.integers(1, 5), st.integers(1, 90))
@example('x,x,"x\nx,"\n,x', 2, 90)
def test_every_line_is_in_one_row_and_only_one(body: str, min_cells: int, size: int) -> None:
    next_line = 1
    for row in read(body, size=size, min_cells=min_cells):
        assert row.first == next_line
        within = [] if isinstance(row, BadRow) else re.findall(r"\r\n|\r|\n", "\0".join(row.cells))
        next_line = 1 + (row.last if isinstance(row, BadRow) else row.first + len(within))

    assert next_line == 1 + len(body.encode().splitlines())


SOUND = [[f"S{number}", "Ada", "Rao, Jr.", f"a{number}@example.org", "7", "12 Main St"] for number in range(12)]


@given(
    line=st.integers(0, 11),
    place=st.floats(0, 1, exclude_max=True),
    sign=st.sampled_from(['"', ",", '""', "x", "\0", ";"]),
    replaces=st.booleans(),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_one_bad_character_costs_only_its_own_row(
    line: int, place: float, sign: str, replaces: bool, quoting: int
) -> None:
    lines = written(SOUND, quoting=quoting).split("\r\n")[:-1]
    at = int(place * len(lines[line]))
    lines[line] = lines[line][:at] + sign + lines[line][at + replaces :]

    found = read("\r\n".join(lines))

    assert [row.first for row in found] == list(range(1, 13))
    for row, sound in zip(found, SOUND, strict=True):
        assert row.first == line + 1 or row == Row(row.first, sound)


@pytest.mark.parametrize(
    ("body", "first", "last", "reason"),
    [
        ('a,b,c,d,e,"12 Main\n', 1, 1, "The quote that opens cell 6 is never closed."),
        ('a,b,c,d,e,"12 ""Main""\n', 1, 1, "The quote that opens cell 6 is never closed."),
        ('a,b,c,d,e,"12"" Main""\n', 1, 1, "The quote that opens cell 6 is never closed."),
        ('a,b,c,d,e,"Flat 2,\n12 Main\n\n', 1, 3, "The quote that opens cell 6 is never closed."),
        ('a,b,"c" or so,d,e\n', 1, 1, "After the closing quote of cell 3 comes ' or so,d,e' before the next comma."),
        ('a,b,c,d,"x\ny"z\n', 1, 2, "After the closing quote of cell 5 comes 'z' before the next comma."),
        ('a,5" pipe,c,d,e\n', 1, 1, "Cell 2 contains a quote, but is not enclosed in quotes."),
        ('a, "b",c,d,e\n', 1, 1, "Cell 2 contains a quote, but is not enclosed in quotes."),
    ],
)
def test_an_error_is_reported_with_its_lines(body: str, first: int, last: int, reason: str) -> None:
    bad_row, *rest = read(body + "1,2,3,4,5\n")

    where = f"Line {first}" if first == last else f"Lines {first} to {last}"
    assert isinstance(bad_row, BadRow)
    assert bad_row.detail.startswith(f"{where}: {reason}")
    assert rest == [Row(last + 1, list("12345"))]


def test_a_row_in_quotes_over_several_lines_after_a_bad_one_is_read() -> None:
    assert read('a,b,c,d,"e\n1,2,3,4,"x\ny"\n')[1:] == [Row(2, ["1", "2", "3", "4", "x\ny"])]


def test_a_row_that_is_too_long_does_not_take_those_after_it() -> None:
    sound = "1,2,3,4,5\n"

    for opening in ('a,b,c,d,"', "a" * MAX_ROW_BYTES + ",", 'a,"' + "x" * MAX_ROW_BYTES):
        found = read(opening + "\n" + sound * 30_000, size=10_000)

        assert (bad(opening + "\n" + sound * 3), len(found)) == ([(1, 1)], 30_001)
        assert found[-1] == Row(30_001, list("12345"))


@pytest.mark.parametrize("row", [b'x,"', b'"x', b'x"x,"', b',"""x', b'"\n,x,"', b'""x,', b'"x""', b'"' + b"x" * 99])
def test_the_work_is_in_proportion_to_what_is_sent(monkeypatch: pytest.MonkeyPatch, row: bytes) -> None:
    seen = 0

    def counting(read: Callable[[bytes], str]) -> Callable[[bytes], str]:
        def count(line: bytes) -> str:
            nonlocal seen
            seen += len(line)
            return read(line)

        return count

    monkeypatch.setattr(csv_rows, "decoded", counting(csv_rows.decoded))
    body = (row + b"\n") * (200_000 // len(row))

    read(body, size=10_000)

    assert seen < 5 * len(body)
