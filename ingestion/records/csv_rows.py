"""CSV as RFC 4180 has it, pure: bytes become rows, and what is no row is named by its lines."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from orchestrator.pg_values import as_text

# A record at every limit, with each character escaped, takes less than a quarter of this.
MAX_ROW_BYTES = 100_000

_QUOTED = r'"[^"]*(?:""[^"]*)*"'
_CELL = rf'(?:{_QUOTED}|[^",\r\n]*)'
_CELLS = re.compile(f",({_CELL})")
_GOOD_CELLS = re.compile(f"(?:{_CELL},)*")
_OPEN = re.compile(f'(?:{_CELL},)*"[^"]*(?:""[^"]*)*')
_QUOTED_CELL = re.compile(f'{_QUOTED}(?!")')
_BLANKS = " \t"

DOUBLED = 'Enclose a cell that contains a quote in quotes, and write the quote as "".'

TOO_LONG = f"A row may have at most {MAX_ROW_BYTES:,} bytes; perhaps a quote in it is not closed."

# A line with its end, by its number from 1; None in place of one that is too long.
Line = tuple[int, bytes | None]


class Row(NamedTuple):
    """The cells of a row, which begins in that line. Of one that is not in quotes the blanks around it are dropped."""

    first: int
    cells: list[str]


class BadRow(NamedTuple):
    """Lines, from first to last, that are no row, and why."""

    first: int
    last: int
    reason: str

    @property
    def detail(self) -> str:
        where = f"Line {self.first}" if self.first == self.last else f"Lines {self.first} to {self.last}"
        return f"{where}: {self.reason}"


def rows(received: Iterable[bytes], *, min_cells: int) -> Iterator[Row | BadRow]:
    """Each row, and each that is none. A blank line is a row whose one cell is empty.

    A quote that is not closed, or closed in the wrong place, may have taken lines that are sound rows: such a row ends
    before the next line that may be one, having cells enough, and that is read anew.
    """
    lines = _Lines(received)
    for number, line in lines:
        if line is None:
            yield BadRow(number, number, TOO_LONG)
        elif b'"' in line:
            yield _quoted(number, line, lines, min_cells)
        else:
            yield Row(number, [cell.strip(_BLANKS) for cell in decoded(line).split(",")])


class _Lines:
    """Lines to be read one by one, of which some can be put back."""

    def __init__(self, received: Iterable[bytes]) -> None:
        self._coming = _split(received)
        self._put_back: deque[Line] = deque()

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        return self._put_back.popleft() if self._put_back else next(self._coming)

    def put_back(self, lines: Sequence[Line]) -> None:
        self._put_back.extendleft(reversed(lines))


def _split(received: Iterable[bytes]) -> Iterator[Line]:
    """Lines, which end in LF, CR LF or CR. The rest of one that is too long is skipped."""
    number, rest, too_long = 1, b"", False
    for piece in received:
        lines = (rest + piece).splitlines(keepends=True)
        # More may come of the last one, if only the LF of its CR LF.
        rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        for line in lines:
            yield number, None if too_long or len(line) > MAX_ROW_BYTES else line
            number, too_long = number + 1, False
        if len(rest) > MAX_ROW_BYTES:
            rest, too_long = rest[-1:], True
    if rest:
        yield number, None if too_long else rest


def _quoted(number: int, line: bytes, lines: _Lines, min_cells: int) -> Row | BadRow:
    """The row that begins in a line with quotes in it."""
    taken = _rest(line, lines) if _is_open(line) else []
    whole = line + b"".join(each for _, each in taken if each)
    text = decoded(whole)
    # What is skipped to find cells is missing when they are joined.
    if len(whole) <= MAX_ROW_BYTES and ",".join(cells := _CELLS.findall(f",{text}")) == text:
        return Row(number, _plain(cells))
    own = list(takewhile(lambda each: not _may_be_row(each, min_cells), taken))
    lines.put_back(taken[len(own) :])
    return BadRow(number, number + len(own), TOO_LONG if len(whole) > MAX_ROW_BYTES else _reason(text))


def _is_open(line: bytes) -> bool:
    """Whether the line ends within quotes."""
    return line.count(b'"') % 2 == 1 and _OPEN.fullmatch(decoded(line)) is not None


def _rest(line: bytes, lines: _Lines) -> list[Line]:
    """The lines of a row after its first, which ends within quotes: up to the one that closes them.

    No line is read again more than once: one that ends within quotes has an odd number of them, so it would have
    ended whatever row took it.
    """
    taken: list[Line] = []
    size = len(line)
    while size <= MAX_ROW_BYTES and (following := next(lines, None)):
        taken.append(following)
        if following[1] is None or following[1].count(b'"') % 2:
            break
        size += len(following[1])
    return taken


def _may_be_row(line: Line, min_cells: int) -> bool:
    return line[1] is None or line[1].count(b",") >= min_cells - 1


def decoded(line: bytes) -> str:
    """Bytes that are no UTF-8 become surrogates, which no JSON can hold."""
    return line.decode(errors="surrogateescape").rstrip("\r\n")


def _plain(cells: list[str]) -> list[str]:
    """What cells hold that are as they were written."""
    return [cell[1:-1].replace('""', '"') if cell[:1] == '"' else cell.strip(_BLANKS) for cell in cells]


def _reason(text: str) -> str:
    """What is wrong with the first cell that is none."""
    good = _GOOD_CELLS.match(text)
    assert good is not None
    cell, begins_at = len(_CELLS.findall(f",{good[0]}")), good.end()
    if text[begins_at] != '"':
        return f"Cell {cell} contains a quote, but is not enclosed in quotes. {DOUBLED}"
    if closed := _QUOTED_CELL.match(text, begins_at):
        after = as_text(text[closed.end() :], at_most=20)
        return f"After the closing quote of cell {cell} comes {after!r} before the next comma. {DOUBLED}"
    return f"The quote that opens cell {cell} is never closed. {DOUBLED}"
