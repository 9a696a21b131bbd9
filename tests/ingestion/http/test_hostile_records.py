"""Input that means harm: answered by 4xx or by record errors, never by 500, and never half stored."""

from __future__ import annotations

from typing import Any

import pytest

from ingestion.models import Record
from tests.api import Api
from tests.ingestion.conftest import Ingest, counts, errors, student, students

pytestmark = pytest.mark.django_db

INGEST = "/api/data/ingest/"


def test_a_thousand_records_of_a_megabyte_are_too_large(api: Api) -> None:
    body = b'{"records": [' + b",".join([b'{"address": "' + b"x" * 1_000_000 + b'"}'] * 20) + b"]}"

    assert api.send("POST", INGEST, body).status_code == 413


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_10_000_deep_is_refused(api: Api, opening: bytes) -> None:
    closing = b"]" if opening == b"[" else b"1}"[1:]
    deep = opening * 10_000 + (b"" if opening == b"[" else b"1") + closing * 10_000

    assert api.send("POST", INGEST, b'{"records": [{"city": ' + deep + b"}]}").status_code == 400


VALUES: list[Any] = [
    [], {}, {"a": 1}, True, 0, -1, 1.5, 10**90, 1e308, "\x7f", "\x01", "\u202e", "\U0010ffff", "'; DROP TABLE--", "%s",
    "%(owner)s", "\\", '"', "\n", "ﬁ", "é", "{{", "$1", "a" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("field", ["student_id", "city", "date_of_birth", "grade"])
def test_any_value_is_stored_as_it_is_or_reported(api: Api, ingest: Ingest, field: str) -> None:
    task_id = ingest([student(number, **{field: value}) for number, value in enumerate(VALUES)])

    told = errors(api, task_id)
    assert counts(api, task_id) == ("COMPLETED", len(VALUES), len(VALUES) - len(told), len(told))
    for number, value in enumerate(VALUES):
        if number in told:
            assert [name for name, _ in told[number]] == [field]
        else:
            assert getattr(Record.objects.get(email=f"asha{number}@example.org"), field) == value


@pytest.mark.parametrize("count", [1, 500])
def test_unknown_fields_are_record_errors_however_many(api: Api, ingest: Ingest, count: int) -> None:
    task_id = ingest([student(1, **{f"x{number}\n'\"=": number for number in range(count)})])

    assert counts(api, task_id) == ("COMPLETED", 1, 0, 1)
    assert {code for _, code in errors(api, task_id)[0]} == {"unknown"}
    assert len(errors(api, task_id)[0]) == min(count, 21)


def test_a_thousand_empty_records_are_a_thousand_errors(api: Api, ingest: Ingest) -> None:
    task_id = ingest([{}] * 1_000)

    assert counts(api, task_id) == ("COMPLETED", 1_000, 0, 1_000)


def test_the_same_record_a_thousand_times_is_stored_once(api: Api, ingest: Ingest) -> None:
    task_id = ingest([student(1)] * 1_000)

    assert counts(api, task_id) == ("COMPLETED", 1_000, 1, 999)


def test_ids_that_only_look_alike_are_different(ingest: Ingest) -> None:
    ingest([student(n, student_id=text) for n, text in enumerate(["é", "e\u0301", "E\u0301", "ß", "ss", "ı", "i"])])

    assert Record.objects.count() == 7


def test_a_huge_number_as_key_and_value_is_refused_or_reported(api: Api) -> None:
    body = b'{"records": [{"student_id": ' + b"9" * 5_000 + b"}]}"

    assert api.send("POST", INGEST, body).status_code == 400


def test_records_at_every_limit_fit_in_one_request_where_the_body_does(api: Api, ingest: Ingest) -> None:
    task_id = ingest(students(1_000, address="é" * 1_000, city="\\" * 100))

    assert counts(api, task_id) == ("COMPLETED", 1_000, 1_000, 0)
