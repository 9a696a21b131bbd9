"""Requests with the same student_ids at the same time."""

from __future__ import annotations

import random

import pytest
from django.db import connection, transaction

from ingestion.models import Chunk, Ingestion, Record
from ingestion.records.student import Student
from ingestion.services.storing import write
from orchestrator.models import Attempt
from tests.api import Api
from tests.concurrency import held_open, waiting
from tests.ingestion.conftest import counts, send_only, student, students, work
from tests.orchestrator.workbench import PATIENCE_SECONDS, MakeWorker, threads

pytestmark = pytest.mark.django_db(transaction=True)


def test_requests_that_overlap_neither_deadlock_nor_lose_a_record(api: Api, make_worker: MakeWorker) -> None:
    workers = [make_worker(f"{number}@here") for number in range(6)]
    tasks = []
    for number in range(12):
        records = students(600, city=str(number))
        random.Random(number).shuffle(records)
        tasks.append(send_only(api, records))

    with threads(6) as run:
        for ran in [run(work, worker) for worker in workers for _ in range(2)]:
            ran.result(60)

    assert {counts(api, task_id) for task_id in tasks} == {("COMPLETED", 600, 600, 0)}
    assert not Attempt.objects.exists()
    assert Record.objects.count() == 600


@pytest.mark.parametrize("are_new", [False, True])
def test_whoever_stores_the_same_records_in_another_order_waits_and_does_not_deadlock(are_new: bool) -> None:
    """Two writes of the same 2,000 rows in opposite orders meet in the middle, unless both sort them."""
    ids = list(range(2_000))

    def write_often(numbers: list[int]) -> None:
        good = [(number, Student(**student(number))) for number in numbers]
        for _ in range(5):
            chunk = Chunk.objects.create(ingestion=Ingestion.objects.create(), position=0)
            write(chunk, good, owner="", are_new=are_new)

    with threads(2) as run:
        both = [run(write_often, ids), run(write_often, ids[::-1])]
        for each in both:
            each.result(PATIENCE_SECONDS)

    assert Record.objects.count() == 2_000


def test_of_two_that_report_conflicts_one_stores_each_record(api: Api, make_worker: MakeWorker) -> None:
    tasks = [send_only(api, students(500, city=str(number)), on_conflict="error") for number in range(2)]

    with threads(2) as run:
        for ran in [run(work, make_worker(name)) for name in ("one@here", "two@here")]:
            ran.result(PATIENCE_SECONDS)

    stored, failed = zip(*(counts(api, task_id)[2:] for task_id in tasks), strict=True)
    assert (sum(stored), sum(failed), Record.objects.count()) == (500, 500, 500)


def test_of_two_that_copy_the_same_record_the_later_waits_and_then_does_as_asked() -> None:
    def copy(city: str) -> None:
        chunk = Chunk.objects.create(ingestion=Ingestion.objects.create(), position=0)
        good = [(number, Student(**student(number, city=city))) for number in range(2)]
        with transaction.atomic():
            assert write(chunk, good, owner="", are_new=True) == []

    with held_open(lambda: copy("Agra")):
        later = waiting(lambda: copy("Pune"))

    assert later.exception(PATIENCE_SECONDS) is None
    assert list(Record.objects.values_list("city", flat=True)) == ["Pune", "Pune"]
    assert list(Chunk.objects.values_list("stored_records", flat=True)) == [2, 2]


def test_no_row_is_locked_while_the_service_is_called(
    api: Api, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = []

    def look(records: object, *, idempotency_key: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode IN "
                "('RowShareLock', 'RowExclusiveLock') OR pid = pg_backend_pid() AND locktype = 'transactionid'"
            )
            locks.append(cursor.fetchone()[0])

    monkeypatch.setattr("tests.ingestion.conftest.service", look)
    for options in ({}, {"mode": "all_or_nothing", "on_conflict": "error"}):
        send_only(api, [student(1000 * len(options) + number) for number in range(300)], **options)
    worker = make_worker()

    while work(worker):
        pass

    assert locks == [0] * 6
