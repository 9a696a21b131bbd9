"""/api/data/…: what is accepted, shown, refused and cancelled."""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import chain
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from ingestion.http.serializers import for_spreadsheet
from ingestion.models import Chunk, Ingestion, Record
from orchestrator.models import Job
from orchestrator.states import Status
from orchestrator.worker.process import WorkerProcess
from tests.api import Api, Response, pointers
from tests.ingestion.conftest import Ingest, counts, send_only, status, student, students, work

pytestmark = pytest.mark.django_db

INGEST = "/api/data/ingest/"
UNKNOWN = "01980c5e-7a00-7000-8000-000000000000"


def read_csv(response: Response) -> list[list[str]]:
    text = response.getvalue().decode("utf-8-sig")
    return list(csv.reader(text.splitlines()))


def test_records_are_accepted_and_can_be_followed(api: Api) -> None:
    response = api.post(INGEST, {"records": students(3)})

    task_id = str(Ingestion.objects.get().job_id)
    assert response.status_code == 202
    assert response.json() == {
        "task_id": task_id,
        "status": "PENDING",
        "message": "Data ingestion started.",
        "total_records": 3,
        "status_url": f"/api/data/status/{task_id}/",
    }
    assert response["Location"] == f"http://testserver{response.json()['status_url']}"


def test_a_thousand_records_are_accepted_by_as_many_statements_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.queue.kind_limits.KNOWN_SECONDS", 60)  # Limits are read again now and then.
    statements_of_ingesting(1)

    assert statements_of_ingesting(1_000) == statements_of_ingesting(1)


def statements_of_ingesting(count: int) -> int:
    body = msgspec.json.encode({"records": students(count, address="x" * 100, city="Pune")})
    with CaptureQueriesContext(connection) as captured:
        assert Client().post(INGEST, body, content_type="application/json").status_code == 202
    return len(captured)


def test_the_job_says_nothing_of_the_records(api: Api) -> None:
    task_id = send_only(api, students(2))

    assert api.get(f"/jobs/{task_id}").json()["payload"] == {"position": 0}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/records"),
        ({"records": None}, "/records"),
        ({"records": {}}, "/records"),
        ({"records": "S1"}, "/records"),
        ({"records": []}, "/records"),
        ({"records": [{}] * 1_001}, "/records"),
        ({"records": [{}, 1]}, "/records/1"),
        ({"records": [{}, [{}]]}, "/records/1"),
        ({"records": [{}], "mode": "some"}, "/mode"),
        ({"records": [{}], "on_conflict": "merge"}, "/on_conflict"),
        ({"records": [{}], "more": 1}, "/more"),
        ([], ""),
    ],
)
def test_an_invalid_envelope_is_refused_at_once(api: Api, body: Any, pointer: str) -> None:
    response = api.post(INGEST, body)

    assert (response.status_code, pointers(response)) == (400, [pointer])
    assert not Ingestion.objects.exists()


def test_another_content_type_is_refused(api: Api) -> None:
    assert api.send("POST", INGEST, b"student_id\nS1\n", content_type="text/csv").status_code == 415


def test_a_body_beyond_the_limit_is_refused(api: Api) -> None:
    assert api.post(INGEST, {"records": [{"address": "x" * 1_000_000}] * 6}).status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"records": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"])
def test_a_body_of_invalid_json_is_refused(api: Api, body: bytes) -> None:
    assert api.send("POST", INGEST, body).status_code == 400


@pytest.mark.parametrize("text", [rb"a\u0000b", rb"\ud800"])
def test_texts_that_cannot_be_stored_are_refused_with_their_place(api: Api, text: bytes) -> None:
    response = api.send("POST", INGEST, b'{"records": [{"student_id": "' + text + b'"}]}')

    assert (response.status_code, pointers(response)) == (400, ["/records/0/student_id"])


def test_a_key_that_comes_twice_is_refused_with_its_place(api: Api) -> None:
    response = api.send("POST", INGEST, b'{"records": [{"student_id": "a", "student_id": "b"}]}')

    assert (response.status_code, pointers(response)) == (400, ["/records/0/student_id"])


def test_the_same_request_again_with_the_same_key_stores_nothing_new(api: Api, worker: WorkerProcess) -> None:
    first, again = (api.post(INGEST, {"records": students(3)}, Idempotency_Key="k") for _ in range(2))

    while work(worker):
        pass

    assert again.json() == first.json()
    assert (Ingestion.objects.count(), Job.objects.count(), Record.objects.count()) == (1, 1, 3)


def test_before_it_starts_it_is_pending(api: Api) -> None:
    now = status(api, send_only(api, students(3)))

    assert (now["status"], now["status_message"], now["progress_percentage"]) == ("PENDING", "PENDING", 0)
    assert (now["total_records"], now["processed_records"], now["failed_records"]) == (3, 0, 0)
    assert (now["started_at"], now["completed_at"], now["duration"], now["error_message"]) == (None,) * 4


def test_midway_it_shows_the_percentage(api: Api) -> None:
    task_id = send_only(api, students(1_000))
    Job.objects.update(status=Status.RUNNING, ready=False, progress_done=709, started_at="2026-01-01T00:00:00Z")

    now = status(api, task_id)

    assert (now["status"], now["status_message"]) == ("PROCESSING", "PROCESSING (70% complete)")
    assert (now["progress_percentage"], now["processed_records"]) == (70, 709)
    assert now["duration"] > 0


def test_once_done_it_shows_the_times(api: Api, ingest: Ingest) -> None:
    now = status(api, ingest(students(3)))

    assert (now["status"], now["status_message"], now["progress_percentage"]) == ("COMPLETED", "COMPLETED", 100)
    assert now["created_at"] <= now["started_at"] <= now["completed_at"]
    assert now["duration"] >= 0


def test_what_was_sent_is_dropped_once_all_is_stored(ingest: Ingest) -> None:
    ingest(students(3))

    assert Chunk.objects.get().records is None


@pytest.mark.parametrize("task_id", [UNKNOWN, "7"])
def test_an_unknown_ingestion_is_not_found(api: Api, task_id: str) -> None:
    expected = 404 if task_id == UNKNOWN else 400

    assert api.get(f"/api/data/status/{task_id}/").status_code == expected
    assert api.delete(f"/api/data/status/{task_id}/").status_code == expected
    assert api.get(f"/api/data/status/{task_id}/errors/").status_code == expected


def test_a_job_that_is_no_ingestion_has_no_status_here(api: Api) -> None:
    job_id = api.post("/jobs").json()["job_id"]

    assert api.get(f"/api/data/status/{job_id}/").status_code == 404


def test_errors_come_in_pages_in_the_order_of_what_was_sent(api: Api, ingest: Ingest) -> None:
    task_id = ingest(students(250, grade="13"))

    pages, url = [], f"/api/data/status/{task_id}/errors/?limit=100"
    while url:
        page = api.get(url).json()
        pages.append([each["index"] for each in page["results"]])
        url = page["next"]

    assert [len(page) for page in pages] == [100, 100, 50]
    assert list(chain(*pages)) == list(range(250))


@pytest.mark.parametrize(
    "text", ["=1", "+1", "-1", "@a", "\t1", "\r1", "\n=1", " =1", "\uff1d1", "\uff20a", "\ufeff=1", "\u200b+1"]
)
def test_what_a_spreadsheet_may_take_for_a_formula_is_marked_as_text(text: str) -> None:
    assert for_spreadsheet(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "a=1", "7-8", "a@example.org", " a", "|a"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert for_spreadsheet(text) == text


def test_errors_come_as_csv_for_a_spreadsheet(api: Api, ingest: Ingest) -> None:
    task_id = ingest([student(1), {"student_id": "=1+2", "first_name": "Zoë", "last_name": "R", "email": "no"}])

    response = api.get(f"/api/data/status/{task_id}/errors/?format=csv")

    assert response["Content-Type"] == "text/csv; charset=utf-8"
    lines = read_csv(response)
    assert lines[0] == ["index", "student_id", "field", "code", "message"]
    assert [line[:4] for line in lines[1:]] == [
        ["1", "'=1+2", "email", "invalid"],
        ["1", "'=1+2", "grade", "required"],
    ]


@pytest.mark.parametrize("query", ["cursor=x", "limit=0", "format=xml", "page=2"])
def test_an_invalid_query_is_refused(api: Api, ingest: Ingest, query: str) -> None:
    task_id = ingest(students(1))

    assert api.get(f"/api/data/status/{task_id}/errors/?{query}").status_code == 400


def test_an_ingestion_that_waits_is_cancelled_at_once(api: Api, worker: WorkerProcess) -> None:
    task_id = send_only(api, students(3))

    response = api.delete(f"/api/data/status/{task_id}/")

    assert (response.status_code, response.json()["status"]) == (200, "CANCELLED")
    assert not work(worker)
    assert not Record.objects.exists()


def test_an_ingestion_that_is_done_cannot_be_cancelled(api: Api, ingest: Ingest) -> None:
    assert api.delete(f"/api/data/status/{ingest(students(3))}/").status_code == 409


def test_stored_records_are_listed_with_filters_and_pages(api: Api, ingest: Ingest) -> None:
    first = ingest(students(3, grade="7", city="Pune"))
    ingest([student(10, grade=8)])

    newest = api.get("/api/data/records/").json()["results"][0]
    ids = [record["student_id"] for record in api.get("/api/data/records/?grade=7&limit=2").json()["results"]]
    by_task = api.get(f"/api/data/records/?task_id={first}&city=Pune").json()["results"]

    assert (newest["student_id"], newest["grade"], newest["country"]) == ("S-0010", "8", "India")
    assert ids == ["S-0002", "S-0001"]
    assert len(by_task) == 3
    assert api.get("/api/data/records/?age=7").status_code == 400


def test_a_record_is_shown_by_its_student_id(api: Api, ingest: Ingest) -> None:
    task_id = ingest([student(1, student_id="A/1 é", date_of_birth="2015-06-30")])

    record = api.get("/api/data/records/A%2F1%20%C3%A9/").json()

    assert (record["student_id"], record["date_of_birth"], record["task_id"]) == ("A/1 é", "2015-06-30", task_id)
    assert record["phone"] == ""
    assert api.get("/api/data/records/S-9999/").status_code == 404
    assert api.get("/api/data/records/%00/").status_code == 400


@pytest.mark.usefixtures("asks_for_tokens")
def test_users_see_and_touch_only_their_own(as_user: Callable[..., Api], worker: WorkerProcess) -> None:
    ada, grace, staff = as_user("ada"), as_user("grace"), as_user("root", is_superuser=True)
    task_id = send_only(ada, [student(1, city="Paris")])
    send_only(grace, [student(1, city="New York")])
    while work(worker):
        pass

    cities = [api.get("/api/data/records/S-0001/").json()["city"] for api in (ada, grace)]

    assert cities == ["Paris", "New York"]
    assert [len(api.get("/api/data/records/").json()["results"]) for api in (ada, grace, staff)] == [1, 1, 2]
    assert counts(ada, task_id) == counts(staff, task_id) == ("COMPLETED", 1, 1, 0)
    for path in (f"/api/data/status/{task_id}/", f"/api/data/status/{task_id}/errors/"):
        assert grace.get(path).status_code == 404
    assert grace.delete(f"/api/data/status/{task_id}/").status_code == 404


@pytest.mark.usefixtures("asks_for_tokens", "db")
def test_without_a_token_nobody_gets_in(api: Api) -> None:
    assert api.post(INGEST, {"records": students(1)}).status_code == 401
    assert api.get("/api/data/records/").status_code == 401
