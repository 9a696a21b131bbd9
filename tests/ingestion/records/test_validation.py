"""Which bytes are student records, and what is said of those that are not."""

from __future__ import annotations

import datetime
import re
from typing import Any

import msgspec
import pytest

from ingestion.records.staging import as_bad_line, as_line, documents_of, numbered
from ingestion.records.student import FIELDS, PATTERNS, Student, as_rows, is_matched
from ingestion.records.validation import Validated, validate_records, validate_staged
from tests.ingestion.conftest import student, students

TODAY = datetime.date(2026, 3, 1)


def validated(*records: Any) -> Validated:
    """As a job reads them, by whichever way; one by one it is the same."""
    staged = b"\n".join(map(as_line, range(len(records)), records))
    indexes, read = validate_staged(staged, today=TODAY)
    assert indexes == list(range(len(records)))
    assert msgspec.to_builtins(read) == msgspec.to_builtins(validate_records(numbered(staged), today=TODAY))
    return read


def problems(line: bytes) -> list[tuple[str, str]]:
    [reject] = validate_records([(0, b" " + line)], today=TODAY).rejects
    return [(error.field, error.code) for error in reject.errors]


def test_a_whole_record_is_read_as_it_was_sent() -> None:
    whole = student(
        phone="+91 22 5550 100", section="B", roll_number="17", address="1 Hill Rd", city="Mumbai",
        state="Maharashtra", postal_code="400050", country="India", date_of_birth="2015-06-30",
    )  # fmt: skip

    [(index, read)] = validated(whole).good

    assert (index, msgspec.to_builtins(read)) == (0, whole)


@pytest.mark.parametrize("grade", ["Nursery", "LKG", "UKG", "1", "12", 1, 12])
def test_every_grade_is_known(grade: Any) -> None:
    assert validated(student(grade=grade)).rejects == []


@pytest.mark.parametrize("number", [b"7.0", b"7e0", b"70e-1"])
def test_a_grade_that_is_a_number_may_be_written_with_a_point(number: bytes) -> None:
    line = msgspec.json.encode(student(grade=99)).replace(b"99", number)

    assert [read.grade for _, read in validate_records([(1, b" " + line)], today=TODAY).good] == [7]


@pytest.mark.parametrize("name", ["phone", "section", "roll_number", "address", "city", "postal_code", "country"])
def test_an_optional_field_says_in_words_what_it_takes(name: str) -> None:
    [reject] = validated(student(**{name: 5})).rejects

    assert re.fullmatch(r"Expected a string of at most [\d,]+ characters, not 5\.", reject.errors[0].message)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("student_id", "", "blank"),
        ("student_id", " S1", "invalid"),
        ("student_id", "S1\n", "invalid"),
        ("student_id", "x" * 51, "too_long"),
        ("student_id", 17, "wrong_type"),
        ("student_id", None, "required"),
        ("first_name", "  ", "blank"),
        ("first_name", "x" * 101, "too_long"),
        ("last_name", ["Rao"], "wrong_type"),
        ("email", "asha", "invalid"),
        ("email", "a@b", "invalid"),
        ("email", "a b@example.org", "invalid"),
        ("email", "a@example.org\n", "invalid"),
        ("email", "a@" + "x" * 250 + ".org", "too_long"),
        ("grade", "13", "invalid"),
        ("grade", 0, "invalid"),
        ("grade", True, "wrong_type"),
        ("grade", 5.5, "wrong_type"),
        ("phone", "1" * 21, "too_long"),
        ("phone", 5550100, "wrong_type"),
        ("section", "x" * 11, "too_long"),
        ("roll_number", "x" * 51, "too_long"),
        ("address", "x" * 1_001, "too_long"),
        ("city", "x" * 101, "too_long"),
        ("state", "x" * 101, "too_long"),
        ("postal_code", "x" * 21, "too_long"),
        ("country", "x" * 101, "too_long"),
        ("date_of_birth", "2026-02-30", "invalid"),
        ("date_of_birth", "30.06.2015", "invalid"),
        ("date_of_birth", 20150630, "wrong_type"),
        ("date_of_birth", "2026-03-02", "in_future"),
        ("middle_name", "K", "unknown"),
    ],
)
def test_invalid_values_are_reported_by_field_and_code(field: str, value: Any, code: str) -> None:
    [reject] = validated(student(**{field: value})).rejects

    assert [(error.field, error.code) for error in reject.errors] == [(field, code)]
    assert reject.errors[0].message.endswith(".")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("student_id", "x" * 50), ("first_name", "x" * 100), ("email", "a@" + "x" * 249 + ".org"),
        ("phone", "1" * 20), ("section", "x" * 10), ("address", "x" * 1_000), ("phone", ""), ("phone", None),
        ("country", None), ("date_of_birth", None), ("date_of_birth", "2026-03-01"), ("first_name", "😀" * 100),
    ],
)  # fmt: skip
def test_values_at_their_limits_are_accepted(field: str, value: Any) -> None:
    assert validated(student(**{field: value})).rejects == []


def test_every_bad_field_has_a_message_of_its_own() -> None:
    [reject] = validated({"student_id": "S1", "email": "no", "grade": "13", "age": 9}).rejects

    assert reject.student_id == "S1"
    assert [(error.field, error.code) for error in reject.errors] == [
        ("age", "unknown"), ("first_name", "required"), ("last_name", "required"), ("email", "invalid"),
        ("grade", "invalid"),
    ]  # fmt: skip


def test_the_second_of_two_with_the_same_id_is_a_duplicate() -> None:
    [reject] = validated(student(1), student(2), student(1, city="Pune")).rejects

    assert (reject.index, reject.errors[0].code) == (2, "duplicate")
    assert "at index 0" in reject.errors[0].message


def test_a_good_record_is_no_duplicate_of_a_bad_one() -> None:
    result = validated(student(1, grade="13"), student(1))

    assert [index for index, _ in result.good] == [1]
    assert [reject.index for reject in result.rejects] == [0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"", ("", "malformed")),
        (b"{", ("", "malformed")),
        (b"[" * 10_000, ("", "too_deep")),
        (b"[" * 100 + b"]" * 100, ("/".join("0" * 64), "too_deep")),
        (b"\xff", ("", "not_utf_8")),
        (b'{"student_id": "a\\u0000b"}', ("student_id", "nul")),
        (b'{"student_id": "\\ud800"}', ("student_id", "lone_surrogate")),
        (b'{"student_id": "a", "student_id": "b"}', ("student_id", "duplicate_key")),
        (b'{"student_id": NaN}', ("student_id", "malformed")),
        (b"17", ("", "not_an_object")),
        (b"null", ("", "not_an_object")),
    ],
)
def test_a_line_that_is_no_record_says_why(line: bytes, expected: tuple[str, str]) -> None:
    assert problems(line) == [expected]


def test_a_part_has_the_good_and_the_bad_of_its_indexes() -> None:
    records = students(6)
    records[3]["grade"] = "13"

    part = validated(*records).between(2, 5)

    assert [index for index, _ in part.good] == [2, 4]
    assert [reject.index for reject in part.rejects] == [3]


def test_a_line_that_could_not_be_read_is_rejected_with_its_error() -> None:
    [reject] = validate_records(numbered(as_bad_line(17, "malformed", "No.")), today=TODAY).rejects

    assert (reject.index, [(error.code, error.message) for error in reject.errors]) == (17, [("malformed", "No.")])


def test_a_client_cannot_send_a_staged_reject() -> None:
    assert problems(b'!{"field": "", "code": "mine", "message": ""}') == [("", "malformed")]


def test_a_row_has_a_text_for_every_field_and_a_country() -> None:
    [(_, read)] = validated(student(1, grade=5, city="Agra", date_of_birth="2015-06-30")).good

    rows = as_rows([read, read], "ada")

    fields = ["ada", "S-0001", "Asha", "Rao", "asha1@example.org", "5", "", "", "", "", "Agra", "", "", "India"]
    row = "\x1f".join([*fields, "2015-06-30"])
    assert rows == f"{row}\n{row}".encode()


@pytest.mark.parametrize("sign", ["\x1f", "\x1e", "\n", "\r"])
def test_a_text_that_would_end_a_field_makes_no_rows(sign: str) -> None:
    [(_, read)] = validated(student(1, city=f"Ag{sign}ra")).good

    assert as_rows([read], "ada") is None


@pytest.mark.parametrize(
    "odd",
    [
        {"student_id": " S1"},
        {"student_id": "S1\n2"},
        {"first_name": " \t"},
        {"last_name": "\u2003"},
        {"email": "a b@example.org"},
        {"grade": 13},
        {"grade": 7.0},
        {"date_of_birth": "2026-03-02"},
        {"city": "Ag\0ra"},
        {"age": 7},
        {"student_id": "S-0001"},
        {"phone": None},
    ],
    ids=str,
)
def test_records_that_are_read_at_once_are_judged_as_those_that_are_read_one_by_one(odd: dict[str, Any]) -> None:
    records = [student(1), student(2, **odd), student(3)]

    at_once = validated(*records)
    raw = [(index, b" " + msgspec.json.encode(record)) for index, record in enumerate(records)]
    one_by_one = validate_records(raw, today=TODAY)

    assert msgspec.to_builtins(at_once) == msgspec.to_builtins(one_by_one)


def test_a_row_holds_every_field_in_its_order() -> None:
    texts = {name: f"{position:02}" for position, name in enumerate(FIELDS)}
    sent = Student(**texts | {"date_of_birth": datetime.date(2015, 6, 30)})  # type: ignore[arg-type]

    rows = as_rows([sent], "ada")

    assert rows == "\x1f".join(["ada", *list(texts.values())[:-1], "2015-06-30"]).encode()


@pytest.mark.parametrize(
    "text", ["", " ", "a", " a", "a ", "a b", "a\nb", "a\n", "\xa0", "a\x85", "\x1c", "\u3000", "\u200b"]
)
def test_texts_match_as_the_patterns_have_it(text: str) -> None:
    for field in ("student_id", "first_name", "last_name"):
        sent = Student(**(student() | {field: text}))

        assert is_matched(sent) == bool(re.search(PATTERNS[field], text))


@pytest.mark.parametrize("other", [b" {}", b"!{}", b" =x"])
def test_lines_that_are_not_all_records_read_already_are_read_one_by_one(other: bytes) -> None:
    good = as_line(0, student())

    assert documents_of(good) == ([0], (good[2:],))
    assert documents_of(good + b"\n1" + other) == documents_of(b"1" + other + b"\n" + good) == ([], [])
