"""Bodies with records that are read at once, and those that have to be read like any JSON."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ingestion.http.records_parser import staged_body
from ingestion.records.staging import numbered
from orchestrator.http import strict_json
from tests.ingestion.conftest import student, students


@pytest.mark.parametrize(
    "records",
    [
        [student(1)],
        students(1_000),
        [{}],
        [student(1, phone=None, city="", grade=7), {"grade": 99, "email": None}],
        [student(1, first_name='A\u00e9\u2028:"\\\n', address="{[:]}")],
        [student(1, address="x" * 5_000, date_of_birth="no date")],
    ],
    ids=len,
)
@pytest.mark.parametrize("options", [{}, {"mode": "all:\u00e9", "on_conflict": "skip"}])
def test_records_of_any_content_wait_as_strict_json_has_them(records: list[Any], options: dict[str, str]) -> None:
    for body in (msgspec.json.encode({"records": records, **options}), _with_escapes(records, options)):
        staged = staged_body(body)

        assert staged is not None
        waiting = numbered(staged["records"].lines)
        read = [msgspec.json.decode(line.removeprefix(b"=")) for _, line in waiting]
        assert {**staged, "records": read} == strict_json.read(body)
        assert [index for index, _ in waiting] == list(range(staged["records"].total))


def _with_escapes(records: list[Any], options: dict[str, str]) -> bytes:
    """As Python's json writes it: with spaces, and nothing but ASCII."""
    return json.dumps({**options, "records": records}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b'{"records":[]}',
        b'{"records":[{"city":"A","city":"B"}]}',
        b'{"records":[{"city":"A","\\u0063ity":"B"}]}',
        b'{"records":[{}],"records":[{}]}',
        b'{"records":[{"city":"a\\u0000b"}]}',
        b'{"records":[{"city":"\xff"}]}',
        b'{"records":[{"city":"\\ud800"}]}',
        b'{"records":[{"city":5}]}',
        b'{"records":[{"city":{}}]}',
        b'{"records":[{"grade":7.0}]}',
        b'{"records":[{"grade":' + b"1" * 3_000 + b"}]}",
        b'{"records":[{"colour":"red"}]}',
        b'{"records":[{}],"more":1}',
        b'{"records":[{}],"mode":null}',
        b'{"records":[5]}',
        b'{"records":[{}]',
        b'{"records":[{}]}}',
        b'{"records":[' + b",".join([b"{}"] * 1_001) + b"]}",
        b"[]",
    ],
)
def test_any_other_body_is_read_like_any_json(body: bytes) -> None:
    assert staged_body(body) is None
