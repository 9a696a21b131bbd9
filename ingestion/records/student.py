"""What a student record is, and the form in which it is copied to PostgreSQL."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

GRADES = ("Nursery", "LKG", "UKG", *map(str, range(1, 13)))

# Begins and ends with something that can be seen.
_VISIBLE = r"^\S(?:.*\S)?\Z"


class Student(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=False, gc=False):
    """A record as it is sent and stored. An optional text that is null is as one left out.

    It refers to nothing that could refer to it, so the garbage collector need not look at it.
    """

    student_id: Annotated[str, Meta(max_length=50, pattern=_VISIBLE)]
    first_name: Annotated[str, Meta(max_length=100, pattern=r"\S")]
    last_name: Annotated[str, Meta(max_length=100, pattern=r"\S")]
    email: Annotated[str, Meta(max_length=255, pattern=r"^[^@\s]+@[^@\s.]+(?:\.[^@\s.]+)+\Z")]
    grade: Literal[
        "Nursery", "LKG", "UKG", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12",
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
    ]  # fmt: skip
    phone: Annotated[str, Meta(max_length=20)] | None = None
    section: Annotated[str, Meta(max_length=10)] | None = None
    roll_number: Annotated[str, Meta(max_length=50)] | None = None
    address: Annotated[str, Meta(max_length=1_000)] | None = None
    city: Annotated[str, Meta(max_length=100)] | None = None
    state: Annotated[str, Meta(max_length=100)] | None = None
    postal_code: Annotated[str, Meta(max_length=20)] | None = None
    country: Annotated[str, Meta(max_length=100)] | None = None
    date_of_birth: datetime.date | None = None


FIELDS = {field.encode_name: field for field in msgspec.structs.fields(Student)}
# Stored where none is given.
DEFAULT_COUNTRY = "India"
_COUNTRY = list(FIELDS).index("country")

# What stands between the fields of a row, and what might be taken for the end of a row or for a quote in it.
_UNIT_SEPARATOR = "\x1f"
_QUOTES = re.compile(r"[\r\x1e]")


def as_rows(students: Sequence[Student], *before: str) -> bytes | None:
    """Records as they are stored, a row each: the texts `before` and the fields, with a unit separator between them.

    None where a text holds what rows are told apart by.
    """
    rows = "\n".join([_UNIT_SEPARATOR.join([*before, *_texts(student)]) for student in students])
    separators = len(students) * (len(before) + len(FIELDS) - 1)
    is_plain = rows.count(_UNIT_SEPARATOR) == separators and rows.count("\n") == len(students) - 1
    return rows.encode() if is_plain and not _QUOTES.search(rows) else None


def _texts(student: Student) -> list[str]:
    texts = ["" if value is None else str(value) for value in msgspec.structs.astuple(student)]
    if student.country is None:
        texts[_COUNTRY] = DEFAULT_COUNTRY
    return texts
