"""Student records, pure: bytes that somebody sent become records, or rejects that say what is wrong with them."""

from __future__ import annotations

import datetime
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from config import strict_json
from orchestrator.storable import as_text

GRADES = ("Nursery", "LKG", "UKG", *map(str, range(1, 13)))

_WAITING = re.compile(rb"^(\d+)([= !][^\n]*)", re.MULTILINE)

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


_STUDENT = msgspec.json.Decoder(Student)
FIELDS = {field.encode_name: field for field in msgspec.structs.fields(Student)}
# Stored where none is given.
DEFAULT_COUNTRY = "India"
_COUNTRY = list(FIELDS).index("country")

# What stands between the fields of a row, and what might be taken for the end of a row or for a quote in it.
_UNIT_SEPARATOR = "\x1f"
_QUOTES = re.compile(r"[\r\x1e]")

# What a value that does not fit should have been, where msgspec's own words tell a programmer more than a person.
ADVICE = {
    "student_id": "1 to 50 characters, neither beginning nor ending with a space",
    "first_name": "1 to 100 characters, not only spaces",
    "last_name": "1 to 100 characters, not only spaces",
    "email": "an address like ada@example.org of at most 255 characters",
    "grade": f"one of {', '.join(GRADES)}",
    "date_of_birth": "a date there is, as 2010-01-31",
}


class FieldError(msgspec.Struct, frozen=True):
    """One thing wrong with a record; `field` is empty where it is the record as a whole."""

    field: str
    code: str
    message: str


class Reject(msgspec.Struct, frozen=True):
    """A record that cannot be stored, by its index."""

    index: int
    student_id: str
    errors: list[FieldError]


class Sifted(msgspec.Struct, frozen=True):
    """The good records, each with its index, and the rejects; both by rising index."""

    good: list[tuple[int, Student]]
    rejects: list[Reject]

    def between(self, first: int, beyond: int) -> Sifted:
        """The part with those indexes."""
        good_from, good_to = (bisect_left(self.good, index, key=itemgetter(0)) for index in (first, beyond))
        bad_from, bad_to = (bisect_left(self.rejects, index, key=attrgetter("index")) for index in (first, beyond))
        return Sifted(self.good[good_from:good_to], self.rejects[bad_from:bad_to])


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
    """Waiting lines, each with its index; the rest of the line begins with a sign of what it is."""
    return [(int(number), line) for number, line in _WAITING.findall(lines)]


def sift(lines: Iterable[tuple[int, bytes]], *, today: datetime.date) -> Sifted:
    """Parts good from bad. Of several good ones with the same student_id only the first is good."""
    good: list[tuple[int, Student]] = []
    rejects: list[Reject] = []
    seen: dict[str, int] = {}
    for index, line in lines:
        student = _read(line, index, today)
        if isinstance(student, Reject):
            rejects.append(student)
        elif student.student_id in seen:
            rejects.append(duplicate(index, student.student_id, of=seen[student.student_id]))
        else:
            seen[student.student_id] = index
            good.append((index, student))
    return Sifted(good, rejects)


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


def duplicate(index: int, student_id: str, *, of: int | None = None) -> Reject:
    """The reject for a record that came before in the same request."""
    where = "earlier in this request" if of is None else f"at index {of}"
    return Reject(index, student_id, [FieldError("student_id", "duplicate", f"{student_id!r} is {where} already.")])


def conflict(index: int, student_id: str) -> Reject:
    """The reject for a record that was stored by an earlier request."""
    return Reject(index, student_id, [FieldError("student_id", "conflict", f"{student_id!r} is stored already.")])


def _read(line: bytes, index: int, today: datetime.date) -> Student | Reject:
    try:
        student = _student(line)
    except msgspec.ValidationError:
        value = msgspec.json.decode(line[1:])
        return Reject(index, _student_id_in(value), _errors_in(value))
    except strict_json.BadJSON as error:
        errors = [FieldError(problem.pointer[1:], problem.code, problem.detail) for problem in error.problems]
        return Reject(index, "", errors)
    if isinstance(student, FieldError):
        return Reject(index, "", [student])
    if student.date_of_birth and student.date_of_birth > today:
        return Reject(index, student.student_id, [_in_future(student.date_of_birth)])
    return student


def _student(line: bytes) -> Student | FieldError:
    """A waiting line by its first sign; raises ValidationError or BadJSON."""
    if line.startswith(b"!"):
        return msgspec.json.decode(line[1:], type=FieldError)
    # What was read already is JSON of our own, so only a NUL that came by CSV could be amiss.
    if line.startswith(b"=") and b"\\u0000" not in line:
        return _STUDENT.decode(memoryview(line)[1:])
    return msgspec.convert(strict_json.read(line[1:]), Student)


def _errors_in(value: Any) -> list[FieldError]:
    """What is wrong with a record that does not fit, field by field."""
    if not isinstance(value, dict):
        return [FieldError("", "not_an_object", "A record is a JSON object.")]
    errors = [
        FieldError(as_text(name, at_most=100), "unknown", f"There is no such field; known are {', '.join(FIELDS)}.")
        for name in value
        if name not in FIELDS
    ]
    for name, field in FIELDS.items():
        if name not in value:
            if field.required:
                errors.append(FieldError(name, "required", "This field is required."))
            continue
        try:
            msgspec.convert(value[name], field.type)
        except msgspec.ValidationError as error:
            errors.append(FieldError(name, _code(value[name], str(error)), _message(name, value[name], str(error))))
    return errors


def _code(value: Any, said: str) -> str:
    if value is None:
        return "required"
    if "of length <=" in said:
        return "too_long"
    if isinstance(value, str) and not value.strip():
        return "blank"
    return "wrong_type" if re.match(r"Expected `[^`]*`, got `", said) else "invalid"


def _message(name: str, value: Any, said: str) -> str:
    given = f"not {as_text(msgspec.json.encode(value).decode(), at_most=60)}"
    if name in ADVICE:
        return f"Expected {ADVICE[name]}, {given}."
    return f"{said}, {given}."


def _in_future(date: datetime.date) -> FieldError:
    return FieldError("date_of_birth", "in_future", f"Nobody is born in the future, on {date}.")


def _student_id_in(value: Any) -> str:
    """As far as a record that is bad has one."""
    given = value.get("student_id") if isinstance(value, dict) else None
    return as_text(given, at_most=50) if isinstance(given, str) else ""
