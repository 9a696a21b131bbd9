"""What waits, as it passes to PostgreSQL and back, and what PostgreSQL makes of the statements that go with it."""

from __future__ import annotations

import msgspec
import pytest
from django.db import connection, transaction
from pytest_django import DjangoAssertNumQueries, Settings

from ingestion import copying
from ingestion.models import Chunk, Ingestion, Record
from ingestion.records.student import Student
from ingestion.services.storing import STORED, any_stored, stored_ids, write
from tests.ingestion.conftest import Ingest, student, students

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("lines", [b"", b"\0\xff\n\\N\t", bytes(range(256)) * 10_000], ids=len)
def test_staged_records_are_read_back_unchanged(lines: bytes) -> None:
    ingestion = Ingestion.objects.create()

    copying.keep_chunk(ingestion.id, 7, lines)

    chunk = Chunk.objects.get(ingestion=ingestion)
    assert copying.lines_of(chunk.id) == bytes(chunk.records or b"") == lines
    assert (chunk.position, chunk.stored_records, chunk.failed_records) == (7, 0, 0)


def test_dropped_records_are_read_back_as_none() -> None:
    chunk = Chunk.objects.create(ingestion=Ingestion.objects.create(), position=0, records=None)

    assert copying.lines_of(chunk.id) is None
    assert copying.lines_of(chunk.id + 1) is None


def test_what_is_stored_is_asked_for_by_the_index_of_student_ids_also_without_statistics(ingest: Ingest) -> None:
    for first in range(0, 3_000, 1_000):
        ingest(students(3_000)[first : first + 1_000])
    parameters = {"owner": "", "student_ids": '["S-0001"]', "ingestion": None}

    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {STORED}", parameters)
        plan = "\n".join(line for (line,) in cursor.fetchall())

    assert "Index Cond: ((student_id = sent.id) AND (owner =" in plan
    assert stored_ids(["S-0001", "S-9999"], owner="") == {"S-0001"}


def test_a_student_id_is_stored_only_for_its_owner_and_not_for_one_beside_it() -> None:
    for owner, student_id in (("ada", "S-2"), ("bob", "S-4")):
        Record.objects.create(owner=owner, student_id=student_id)

    assert any_stored(["S-1", "S-2"], owner="ada")
    assert not any_stored(["S-1", "S-2"], owner="bob")
    assert not any_stored(["S-5", "S-1"], owner="ada")
    assert not any_stored([], owner="ada")


def new_chunk() -> Chunk:
    return Chunk.objects.create(ingestion=Ingestion.objects.create(), position=0)


def numbered_students(count: int) -> list[tuple[int, Student]]:
    return [(number, Student(**student(number))) for number in range(count)]


def test_new_records_are_stored_and_counted_in_one_round_trip(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    chunk = new_chunk()

    with transaction.atomic(), django_assert_num_queries(1):
        write(chunk, numbered_students(100), owner="", are_new=True)

    chunk.refresh_from_db()
    assert (Record.objects.count(), chunk.stored_records) == (100, 100)


@pytest.mark.parametrize("service", ["", "tests.ingestion.conftest.service"])
def test_new_records_are_on_disk_before_the_service_is_told_of_others(service: str, settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, INGESTION_EXTERNAL_SERVICE=service)

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = on")
        write(new_chunk(), numbered_students(1), owner="", are_new=True)
        cursor.execute("SHOW synchronous_commit")
        [waits] = cursor.fetchone()

    assert waits == ("on" if service else "off")
