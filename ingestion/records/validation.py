"""Validation: staged lines become student records, or rejects that say what is wrong with them."""

from __future__ import annotations

import datetime
import re
from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter, itemgetter
from typing import Any

import msgspec

from ingestion.records.rejects import FieldError, Reject, duplicate
from ingestion.records.staging import documents_of, numbered
from ingestion.records.student import FIELDS, GRADES, Student, UnmatchedStudent, is_matched
from orchestrator.http import strict_json
from orchestrator.kind import with_integers
from orchestrator.pg_values import as_text

# Unknown fields of a record that are listed one by one.
MAX_UNKNOWN = 20

_STUDENT = msgspec.json.Decoder(Student)
_STUDENTS = msgspec.json.Decoder(list[UnmatchedStudent])

# What a value that does not fit should have been: msgspec's own words tell a programmer more than a person.
ADVICE = {
    "student_id": "1 to 50 characters, neither beginning nor ending with a space",
    "first_name": "1 to 100 characters, not only spaces",
    "last_name": "1 to 100 characters, not only spaces",
    "email": "an address like ada@example.org of at most 255 characters",
    "grade": f"one of {', '.join(GRADES)}",
    "date_of_birth": "a valid date such as 2010-01-31",
    **{
        field.encode_name: f"a string of at most {text.max_length:,} characters"
        for field in msgspec.inspect.type_info(Student).fields  # type: ignore[attr-defined]
        for text in getattr(field.type, "types", ())
        if isinstance(text, msgspec.inspect.StrType) and not field.required
    },
}


class Validated(msgspec.Struct, frozen=True):
    """The good records, each with its index, and the rejects; both by rising index."""

    good: list[tuple[int, Student]]
    rejects: list[Reject]

    def between(self, first: int, beyond: int) -> Validated:
        """The part with those indexes."""
        good_from, good_to = (bisect_left(self.good, index, key=itemgetter(0)) for index in (first, beyond))
        bad_from, bad_to = (bisect_left(self.rejects, index, key=attrgetter("index")) for index in (first, beyond))
        return Validated(self.good[good_from:good_to], self.rejects[bad_from:bad_to])


def validate_staged(staged: bytes, *, today: datetime.date) -> tuple[list[int], Validated]:
    """The indexes of staged lines, and what is good and bad of them. All are read at once if all are good."""
    indexes, documents = documents_of(staged)
    if students := _all_good(documents, today):
        return indexes, Validated(list(zip(indexes, students, strict=True)), [])
    lines = numbered(staged)
    return [index for index, _ in lines], validate_records(lines, today=today)


def validate_records(lines: Sequence[tuple[int, bytes]], *, today: datetime.date) -> Validated:
    """Parts good from bad, one by one. Of several good ones with the same student_id only the first is good."""
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
    return Validated(good, rejects)


def _all_good(documents: Sequence[bytes], today: datetime.date) -> Sequence[Student] | None:
    """The records that documents of JSON are; None if one may be bad."""
    together = b"[%b]" % b",".join(documents)
    if b"\\u0000" in together:
        return None
    try:
        students = _STUDENTS.decode(together)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    is_good = (
        len(students) == len({student.student_id for student in students})
        and all(map(is_matched, students))
        and not any(student.date_of_birth and student.date_of_birth > today for student in students)
    )
    return students if is_good and len(students) == len(documents) else None


def _read(line: bytes, index: int, today: datetime.date) -> Student | Reject:
    try:
        student = _student(line)
    except msgspec.ValidationError:
        value = with_integers(msgspec.json.decode(line[1:]))
        if errors := _errors_in(value):
            return Reject(index, _student_id_in(value), errors)
        student = msgspec.convert(value, Student)
    except strict_json.BadJSON as error:
        errors = [FieldError(problem.pointer[1:], problem.code, problem.detail) for problem in error.problems]
        return Reject(index, "", errors)
    if isinstance(student, FieldError):
        return Reject(index, "", [student])
    if student.date_of_birth and student.date_of_birth > today:
        return Reject(index, student.student_id, [_in_future(student.date_of_birth)])
    return student


def _student(line: bytes) -> Student | FieldError:
    """A staged line by its first sign; raises ValidationError or BadJSON."""
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
    unknown = [name for name in value if name not in FIELDS]
    errors = [
        FieldError(as_text(name, at_most=100), "unknown", f"Unknown field; allowed: {', '.join(FIELDS)}.")
        for name in unknown[:MAX_UNKNOWN]
    ]
    if len(unknown) > MAX_UNKNOWN:
        errors.append(FieldError("", "unknown", f"{len(unknown) - MAX_UNKNOWN:,} more unknown fields."))
    for name, field in FIELDS.items():
        if name not in value:
            if field.required:
                errors.append(FieldError(name, "required", "This field is required."))
            continue
        try:
            msgspec.convert(value[name], field.type)
        except msgspec.ValidationError as error:
            errors.append(FieldError(name, _code(value[name], str(error)), _message(name, value[name])))
    return errors


def _code(value: Any, said: str) -> str:
    if value is None:
        return "required"
    if "of length <=" in said:
        return "too_long"
    if isinstance(value, str) and not value.strip():
        return "blank"
    return "wrong_type" if re.match(r"Expected `[^`]*`, got `", said) else "invalid"


def _message(name: str, value: Any) -> str:
    return f"Expected {ADVICE[name]}, not {as_text(msgspec.json.encode(value).decode(), at_most=60)}."


def _in_future(date: datetime.date) -> FieldError:
    return FieldError("date_of_birth", "in_future", f"The date of birth must not be in the future: {date}.")


def _student_id_in(value: Any) -> str:
    """As far as a record that is bad has one."""
    given = value.get("student_id") if isinstance(value, dict) else None
    return as_text(given, at_most=50) if isinstance(given, str) else ""
