"""The job: what it stores, reports, tells the outside service, and keeps when it is interrupted."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest
from pytest_django import Settings

from ingestion.models import Chunk, Record, RecordError
from ingestion.services import storing
from orchestrator import submission
from orchestrator.models import Attempt, Job
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.running import Interrupted
from orchestrator.worker.process import WorkerProcess
from tests.api import Api
from tests.ingestion import conftest
from tests.ingestion.conftest import Ingest, counts, errors, send_only, status, student, students, work
from tests.orchestrator.workbench import PATIENCE_SECONDS, MakeWorker, make_due, threads

Told = list[tuple[str, list[str]]]


def stored() -> dict[str, str]:
    return dict(Record.objects.values_list("student_id", "city"))


def three_bad_and_one_twice() -> list[dict[str, Any]]:
    records = students(1_000)
    records[17]["grade"] = "13"
    records[400]["date_of_birth"] = "2026-02-30"
    records[999] = {}
    records[700]["student_id"] = records[5]["student_id"]
    return records


def test_invalid_and_duplicate_records_are_reported_by_index_and_the_rest_is_stored(api: Api, ingest: Ingest) -> None:
    task_id = ingest(three_bad_and_one_twice())

    found = errors(api, task_id)
    assert {index: found[index][0] for index in found} == {
        17: ("grade", "invalid"),
        400: ("date_of_birth", "invalid"),
        700: ("student_id", "duplicate"),
        999: ("student_id", "required"),
    }
    assert counts(api, task_id) == ("COMPLETED", 1_000, 996, 4)
    assert len(stored()) == 996


def test_all_or_nothing_stores_none_if_one_is_bad(api: Api, ingest: Ingest, outside: Told) -> None:
    task_id = ingest(three_bad_and_one_twice(), mode="all_or_nothing")

    assert counts(api, task_id) == ("FAILED", 1_000, 0, 4)
    assert list(errors(api, task_id)) == [17, 400, 700, 999]
    assert "4 records of 1,000 cannot be stored, so none was stored" in status(api, task_id)["error_message"]
    assert stored() == {}
    assert outside == []


def test_all_or_nothing_stores_all_if_all_are_good(api: Api, ingest: Ingest, outside: Told) -> None:
    task_id = ingest(students(250), mode="all_or_nothing")

    assert counts(api, task_id) == ("COMPLETED", 250, 250, 0)
    assert len(stored()) == 250
    assert [len(ids) for _, ids in outside] == [100, 100, 50]


def test_all_or_nothing_finds_conflicts_before_it_calls_the_service(api: Api, ingest: Ingest, outside: Told) -> None:
    ingest([student(5)])
    outside.clear()

    task_id = ingest(students(150), mode="all_or_nothing", on_conflict="error")

    assert (counts(api, task_id), errors(api, task_id)) == (
        ("FAILED", 150, 0, 1),
        {5: [("student_id", "conflict")]},
    )
    assert (len(stored()), outside) == (1, [])


def test_all_or_nothing_stores_none_if_another_request_came_first_meanwhile(
    api: Api, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def someone_else_stores(records: list[dict[str, Any]], **_: Any) -> None:
        Record.objects.create(student_id="S-0005", first_name="A", last_name="B", email="a@b.c", grade="1")

    monkeypatch.setattr(conftest, "service", someone_else_stores)

    task_id = ingest(students(50), mode="all_or_nothing", on_conflict="error")

    assert counts(api, task_id) == ("FAILED", 50, 0, 1)
    assert errors(api, task_id) == {5: [("student_id", "conflict")]}
    assert list(stored()) == ["S-0005"]


def test_a_rejected_all_or_nothing_can_be_retried_once_the_conflict_is_gone(
    api: Api, ingest: Ingest, worker: WorkerProcess, outside: Told
) -> None:
    ingest([student(5)])
    task_id = ingest(students(150), mode="all_or_nothing", on_conflict="error")
    Record.objects.all().delete()
    outside.clear()

    assert api.post(f"/jobs/{task_id}/retry").status_code == 202
    work(worker)

    assert (counts(api, task_id), errors(api, task_id)) == (("COMPLETED", 150, 150, 0), {})
    assert [len(ids) for _, ids in outside] == [100, 50]


@pytest.mark.parametrize(
    ("on_conflict", "city", "expected", "reported"),
    [
        ("update", "Pune", ("COMPLETED", 2, 2, 0), {}),
        ("skip", "Agra", ("COMPLETED", 2, 1, 0), {}),
        ("error", "Agra", ("COMPLETED", 2, 1, 1), {0: [("student_id", "conflict")]}),
    ],
)
def test_a_student_id_that_is_stored_is_treated_as_asked(
    api: Api, ingest: Ingest, on_conflict: str, city: str, expected: Any, reported: Any
) -> None:
    ingest([student(1, city="Agra")])

    task_id = ingest([student(1, city="Pune"), student(2, city="Pune")], on_conflict=on_conflict)

    assert stored() == {"S-0001": city, "S-0002": "Pune"}
    assert (counts(api, task_id), errors(api, task_id)) == (expected, reported)


@pytest.mark.parametrize(
    ("on_conflict", "city", "expected"),
    [
        ("update", "", ("COMPLETED", 50, 50, 0)),
        ("skip", "Agra", ("COMPLETED", 50, 49, 0)),
        ("error", "Agra", ("COMPLETED", 50, 49, 1)),
    ],
)
def test_a_student_id_that_another_request_stores_meanwhile_is_treated_as_asked(
    api: Api, ingest: Ingest, monkeypatch: pytest.MonkeyPatch, on_conflict: str, city: str, expected: Any
) -> None:
    def someone_else_stores(records: list[dict[str, Any]], **_: Any) -> None:
        Record.objects.create(
            student_id="S-0005", first_name="A", last_name="B", email="a@b.c", grade="1", city="Agra"
        )

    monkeypatch.setattr(conftest, "service", someone_else_stores)

    task_id = ingest(students(50), on_conflict=on_conflict)

    assert (counts(api, task_id), stored()["S-0005"]) == (expected, city)
    assert not Attempt.objects.exists()


def test_texts_are_stored_as_they_are_whatever_copy_makes_of_their_signs(ingest: Ingest) -> None:
    texts = ["", " ", "\\N", "\\.", "\\", '"', "'", ",", "\t", "\v", "NULL", "é😀", "\x1d"]

    ingest([student(number, city=text) for number, text in enumerate(texts)])

    assert [stored()[f"S-{number:04}"] for number in range(len(texts))] == texts


def test_what_is_left_out_is_stored_alike_by_copy_and_by_a_statement(ingest: Ingest) -> None:
    ingest([student(1), student(2, phone=None, country="", date_of_birth="2015-06-30")])
    ingest([student(3), student(4, phone=None, country="", date_of_birth="2015-06-30"), student(5, city="\n")])

    columns = ("grade", "phone", "section", "country", "date_of_birth", "owner", "ingestion__total_records")
    rows = list(Record.objects.order_by("student_id").values_list(*columns))
    assert [row[:-1] for row in rows[:2]] == [row[:-1] for row in rows[2:4]]
    assert [row[-1] for row in rows] == [2, 2, 3, 3, 3]


def test_updating_replaces_the_whole_record(ingest: Ingest) -> None:
    ingest([student(1, city="Agra", phone="1")])
    before = Record.objects.get()

    ingest([student(1, email="new@example.org")])

    after = Record.objects.get()
    assert (after.id, after.created_at) == (before.id, before.created_at)
    assert (after.email, after.city, after.phone, after.country) == ("new@example.org", "", "", "India")
    assert after.updated_at > before.updated_at


def test_the_service_is_called_once_a_step_for_the_good_records(ingest: Ingest, outside: Told) -> None:
    records = students(250)
    records[3]["grade"] = "13"

    task_id = ingest(records)

    assert [key for key, _ in outside] == [f"{task_id}:{step}" for step in range(3)]
    assert [len(ids) for _, ids in outside] == [99, 100, 50]


def test_when_the_service_fails_that_step_is_tried_again_and_no_other(
    api: Api, ingest: Ingest, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch, outside: Told
) -> None:
    def fail_in_the_third_step(records: list[Any], *, idempotency_key: str) -> None:
        conftest.told.append((idempotency_key, []))
        if len(outside) == 3:
            raise ConnectionError("down")

    monkeypatch.setattr(conftest, "service", fail_in_the_third_step)
    task_id = ingest(students(500))
    halfway = counts(api, task_id)
    make_due(Job.objects.get())
    Job.objects.update(ready=True)
    work(worker)

    assert halfway == ("PENDING", 200, 200, 0)
    assert [key.rpartition(":")[2] for key, _ in outside] == ["0", "1", "2", "2", "3", "4"]
    assert counts(api, task_id) == ("COMPLETED", 500, 500, 0)
    assert Attempt.objects.get().error == "ConnectionError: down"


def test_a_service_that_never_responds_fails_the_job_and_keeps_what_is_stored(
    api: Api, ingest: Ingest, worker: WorkerProcess
) -> None:
    conftest.troubles += [ConnectionError("down")] * 10

    task_id = ingest(students(100))
    for _ in range(4):
        Job.objects.update(ready=True)
        work(worker)

    assert counts(api, task_id) == ("FAILED", 0, 0, 0)
    assert status(api, task_id)["error_message"] == "ConnectionError: down"


def test_an_interrupted_ingestion_goes_on_at_the_last_finished_step(
    api: Api, ingest: Ingest, worker: WorkerProcess, outside: Told
) -> None:
    def interrupt() -> None:
        for running in worker.running.all():
            running.stop(Interrupted)

    records = three_bad_and_one_twice()
    conftest.troubles += [interrupt]
    task_id = ingest(records)
    for _ in range(3):
        conftest.troubles += [interrupt]
        work(worker)

    work(worker)

    assert counts(api, task_id) == ("COMPLETED", 1_000, 996, 4)
    assert RecordError.objects.count() == 4
    assert len(stored()) == 996


def test_a_worker_that_lost_the_job_cannot_write_a_step(
    api: Api, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, other = make_worker("slow@here"), make_worker("other@here")
    called = 0

    def lose_the_lease(records: list[Any], *, idempotency_key: str) -> None:
        nonlocal called
        called += 1
        if called == 2:
            with threads(1) as run_elsewhere:
                run_elsewhere(declare_dead, slow.row_id).result(PATIENCE_SECONDS)
                run_elsewhere(take_back_from_ended).result(PATIENCE_SECONDS)
                run_elsewhere(Job.objects.update, ready=True).result(PATIENCE_SECONDS)
                run_elsewhere(work, other).result(PATIENCE_SECONDS)

    monkeypatch.setattr(conftest, "service", lose_the_lease)
    task_id = send_only(api, students(300))

    work(slow)

    assert counts(api, task_id) == ("COMPLETED", 300, 300, 0)
    assert Record.objects.count() == 300


def test_the_placeholder_service_waits_and_can_be_cancelled_meanwhile(
    api: Api, live_worker: WorkerProcess, settings: Settings
) -> None:
    settings.ENV = msgspec.structs.replace(
        settings.ENV, INGESTION_EXTERNAL_SERVICE="", INGESTION_EXTERNAL_CALL_SECONDS=600
    )
    task_id = send_only(api, students(300))

    with threads(1) as run_elsewhere:
        ran = run_elsewhere(work, live_worker)
        patience = threading.Event()
        while status(api, task_id)["status"] != "PROCESSING":
            patience.wait(0.01)
        assert api.delete(f"/api/data/status/{task_id}/").status_code == 202
        ran.result(PATIENCE_SECONDS)

    assert counts(api, task_id) == ("CANCELLED", 0, 0, 0)
    assert not Record.objects.exists()


@pytest.mark.parametrize(("seconds", "steps"), [(0, [1_000]), (0.001, [100] * 10)])
def test_records_are_one_step_where_nothing_is_called(
    api: Api, ingest: Ingest, settings: Settings, monkeypatch: pytest.MonkeyPatch, seconds: float, steps: list[int]
) -> None:
    settings.ENV = msgspec.structs.replace(
        settings.ENV, INGESTION_EXTERNAL_SERVICE="", INGESTION_EXTERNAL_CALL_SECONDS=seconds
    )
    stored_at_once = []

    def store(chunk: Chunk, good: Any, *rest: Any, **options: Any) -> None:
        stored_at_once.append(len(good))
        storing.store(chunk, good, *rest, **options)

    monkeypatch.setattr("ingestion.jobs.store", store)

    task_id = ingest(students(1_000))

    assert counts(api, task_id) == ("COMPLETED", 1_000, 1_000, 0)
    assert stored_at_once == steps


@pytest.mark.parametrize("kind", ["ingestion.ingest", "ingestion.upload"])
@pytest.mark.django_db
def test_clients_do_not_submit_the_jobs_of_an_ingestion(api: Api, kind: str) -> None:
    refused = api.post("/jobs", {"kind": kind})

    assert refused.status_code == 400
    assert "use POST /api/data/ingest/" in refused.json()["detail"]


def test_a_job_submitted_without_records_says_how_to_send_them(worker: WorkerProcess) -> None:
    job_id = submission.submit("ingestion.ingest").id

    work(worker)

    job = Job.objects.get(id=job_id)
    assert (job.status, job.attempt) == ("FAILED", 1)
    assert "POST /api/data/ingest/" in job.error
