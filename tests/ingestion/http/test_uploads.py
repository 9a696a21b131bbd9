"""/api/data/ingest/stream/: files of any length, in jobs of 1,000 under one parent."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import BytesIO, StringIO
from typing import Any

import msgspec
import pytest
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from ingestion.models import Chunk, Ingestion, Record
from ingestion.services.receiving import receive
from ingestion.tasks import delete_abandoned_uploads
from orchestrator import stored_bytes
from orchestrator.kinds import kind_named
from orchestrator.models import Job
from orchestrator.worker.process import WorkerProcess
from tests.api import Api, Response, pointers
from tests.ingestion.conftest import counts, errors, status, student, students, work
from tests.orchestrator.workbench import run

pytestmark = pytest.mark.django_db

STREAM = "/api/data/ingest/stream/"
NDJSON = "application/x-ndjson"


def send(body: bytes, content_type: str = NDJSON, query: str = "", **headers: str) -> Response:
    return Api().send("POST", STREAM + query, body, content_type=content_type, **headers)


def ndjson(records: list[Any]) -> bytes:
    return b"\n".join(map(msgspec.json.encode, records))


def send_all(body: bytes, content_type: str = NDJSON, query: str = "", **headers: str) -> str:
    response = send(body, content_type, query, **headers)
    assert response.status_code == 202, response.content
    return str(response.json()["task_id"])


def work_all(worker: WorkerProcess) -> None:
    while work(worker):
        pass
    run(kind_named("ingestion.upload"), worker)


def nothing_is_left() -> bool:
    return not (Ingestion.objects.exists() or Chunk.objects.exists() or Job.objects.exists())


def test_a_file_becomes_jobs_of_1000_that_share_one_status(api: Api, worker: WorkerProcess) -> None:
    response = send(ndjson(students(2_500)))
    task_id = response.json()["task_id"]
    before = counts(api, task_id)

    work(worker)
    midway = status(api, task_id)
    work_all(worker)

    assert (response.status_code, response.json()["total_records"]) == (202, 2_500)
    assert response["Location"] == f"http://testserver{response.json()['status_url']}"
    assert before == ("PENDING", 0, 0, 0)
    assert (midway["status_message"], midway["processed_records"]) == ("PROCESSING (40% complete)", 1_000)
    assert counts(api, task_id) == ("COMPLETED", 2_500, 2_500, 0)
    assert (Job.objects.filter(parent=task_id).count(), Record.objects.count()) == (3, 2_500)


def test_a_bad_line_is_an_error_with_its_number_and_not_the_end(api: Api, worker: WorkerProcess) -> None:
    lines = ndjson(students(1_200)).split(b"\n")
    lines[1] = b"{"
    lines[2] = b""
    lines[1_100] = b'{"student_id": "\\u0000"}'
    lines[1_150] = lines[7]

    task_id = send_all(b"\n".join(lines))
    work_all(worker)

    assert errors(api, task_id) == {
        2: [("", "malformed")],
        1_101: [("student_id", "nul")],
        1_151: [("student_id", "duplicate")],
    }
    assert counts(api, task_id) == ("COMPLETED", 1_199, 1_196, 3)


@pytest.mark.parametrize("on_conflict", ["update", "skip", "error"])
def test_a_record_in_two_jobs_is_reported_as_a_duplicate(api: Api, worker: WorkerProcess, on_conflict: str) -> None:
    records = students(1_010)
    records[1_005] = records[3] | {"city": "Agra"}

    task_id = send_all(ndjson(records), query=f"?on_conflict={on_conflict}")
    work_all(worker)

    assert errors(api, task_id) == {1_006: [("student_id", "duplicate")]}
    assert Record.objects.get(student_id="S-0003").city == ""


def test_csv_with_a_header_is_stored(api: Api, worker: WorkerProcess) -> None:
    body = 'student_id,first_name,last_name,email,grade,date_of_birth\nS1,Zoë,"Rao, Jr.",z@example.org,5,\nS2,A\n'

    task_id = send_all(body.encode(), "text/csv; charset=utf-8")
    work_all(worker)

    assert Record.objects.get().first_name == "Zoë"
    assert [field for field, _ in errors(api, task_id)[3]] == ["last_name", "email", "grade"]


def test_a_nul_in_csv_is_an_error_of_its_record(api: Api, worker: WorkerProcess) -> None:
    body = b"student_id,first_name,last_name,email,grade\nS1,A\x00,B,a@b.org,5\nS2,\\u0000,B,a@b.org,5\n"

    task_id = send_all(body, "text/csv")
    work_all(worker)

    assert errors(api, task_id) == {2: [("first_name", "nul")]}
    assert Record.objects.get().first_name == "\\u0000"


HEADER = b"student_id,first_name,last_name,email,grade,address\n"


def test_a_stray_quote_costs_only_its_own_row(api: Api, worker: WorkerProcess) -> None:
    streets = [b'"12 Main St', b"34 High St", b"56 Low St"]
    rows = [b"Q%d,Bo,M,bo@example.org,7,%s\n" % (number, street) for number, street in enumerate(streets)]

    task_id = send_all(HEADER + b"".join(rows), "text/csv")
    work_all(worker)

    assert errors(api, task_id) == {2: [("", "malformed")]}
    assert counts(api, task_id) == ("COMPLETED", 3, 2, 1)
    assert list(Record.objects.order_by("student_id").values_list("student_id", "address")) == [
        ("Q1", "34 High St"),
        ("Q2", "56 Low St"),
    ]


QUOTING: tuple[dict[str, Any], ...] = ({"quoting": csv.QUOTE_ALL}, {"quoting": csv.QUOTE_MINIMAL})
SIGNS = st.sampled_from(['"', ",", '",', "\r", "\n", "\0", "\ufeff", "\udcff", "\\", " "])


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.floats(0, 1), SIGNS, st.booleans()), min_size=1, max_size=4), data=st.data())
def test_every_row_of_a_damaged_file_is_stored_unchanged_or_reported(
    api: Api, worker: WorkerProcess, edits: list[tuple[float, str, bool]], data: st.DataObject
) -> None:
    Record.objects.all().delete()
    file = StringIO(newline="")
    csv.writer(file, **data.draw(st.sampled_from(QUOTING))).writerows(
        [f"S-{number}", "Ada", "L", "a@example.org", "7", f"{number}, Main"] for number in range(20)
    )
    rows = file.getvalue()
    for place, sign, replaces in edits:
        at = int(place * len(rows))
        rows = rows[:at] + sign + rows[at + replaces :]

    task_id = send_all(HEADER + rows.encode(errors="surrogateescape"), "text/csv")
    work_all(worker)

    told = api.get(f"/api/data/status/{task_id}/errors/?limit=200").json()["results"]
    now = status(api, task_id)
    assert now["total_records"] == now["processed_records"] == now["stored_records"] + now["failed_records"]
    assert len(told) == now["failed_records"] <= 3 * len(edits)
    # An edit may join two rows, or part one.
    assert now["total_records"] >= 20 - len(edits)
    whole = Record.objects.filter(student_id__regex=r"^S-\d+$", address__regex=r"^\d+, Main$").count()
    assert whole >= 20 - 2 * len(edits)


def test_ndjson_lines_fail_alone(api: Api, worker: WorkerProcess) -> None:
    good = ndjson([student(1)])
    bad = {
        b"\xef\xbb\xbf" + good: ("", "malformed"),
        b'{"student_id": "\xff"}': ("", "not_utf_8"),
        b'{"student_id": "a", "student_id": "a"}': ("student_id", "duplicate_key"),
        b"[]": ("", "not_an_object"),
        b"1": ("", "not_an_object"),
        b'{"grade": NaN}': ("grade", "malformed"),
        b'{"grade": %s}' % (b"9" * 5_000): ("grade", "number_too_long"),
        b'{"city": "\\ud800"}': ("city", "lone_surrogate"),
        b'{"city": "\\u0000"}': ("city", "nul"),
        b'{"city": "\0"}': ("", "malformed"),
        good + b"\r" + good: ("", "malformed"),
        b'{"city": "' + b"x" * 100_000 + b'"}': ("", "too_long"),
        b'{"student_id": "S': ("", "malformed"),
    }

    task_id = send_all(b"\r\n\r\n".join([good, *bad]))
    work_all(worker)

    assert errors(api, task_id) == {3 + 2 * place: [error] for place, error in enumerate(bad.values())}
    assert counts(api, task_id) == ("COMPLETED", 1 + len(bad), 1, len(bad))
    messages = api.get(f"/api/data/status/{task_id}/errors/?format=csv")
    assert "utf-8-sig" not in b"".join(messages).decode()


def test_gzip_is_unpacked(api: Api, worker: WorkerProcess) -> None:
    task_id = send_all(gzip.compress(ndjson(students(10))), Content_Encoding="gzip")
    work_all(worker)

    assert counts(api, task_id) == ("COMPLETED", 10, 10, 0)


@pytest.mark.parametrize(
    ("body", "content_type", "headers", "code"),
    [
        (b"\n\n", NDJSON, {}, 400),
        (b"student_id\n", "text/csv", {}, 400),
        (b"{}", "application/json", {}, 415),
        (b"{}", "", {}, 415),
        (b"{}", "text/plain", {}, 415),
        (b"{}", f"{NDJSON}; charset=iso-8859-1", {}, 415),
        (b"{}", 'text/csv; charset="utf-16"', {}, 415),
        (b"{}", "text/csv; header=absent", {}, 415),
        (b"{}", NDJSON, {"Content_Encoding": "br"}, 415),
        (b"{}", NDJSON, {"Content_Encoding": "gzip, gzip"}, 415),
        (b"\xff\xfe{\0}\0", NDJSON, {}, 400),
        (b"student_id,first_name,last_name,email,grade\n", "text/csv", {}, 400),
        (b"{}", NDJSON, {"Content_Encoding": "gzip"}, 400),
        (b"{}", NDJSON, {"Idempotency_Key": "é"}, 400),
        (b"1\n" * 4, NDJSON, {}, 413),
        (b"x" * 1_001, NDJSON, {}, 413),
    ],
)
def test_a_refused_upload_leaves_nothing(
    settings: Settings, body: bytes, content_type: str, headers: dict[str, str], code: int
) -> None:
    settings.ENV = msgspec.structs.replace(
        settings.ENV, INGESTION_MAX_UPLOAD_RECORDS=3, INGESTION_MAX_UPLOAD_BYTES=1_000
    )

    response = send(body, content_type, **headers)

    assert (response.status_code, response["Content-Type"]) == (code, "application/problem+json")
    assert nothing_is_left()


@pytest.mark.usefixtures("asks_for_tokens")
def test_an_upload_of_more_than_a_client_may_have_stored_leaves_nothing(
    as_user: Callable[..., Api], settings: Settings
) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, CLIENT_MAX_STORED_BYTES=1_000)
    stored_bytes.forget()
    ada, body = as_user(), ndjson(students(100))

    refused = ada.send("POST", STREAM, body, content_type=NDJSON)
    left = nothing_is_left()
    allowed = as_user("grace", permissions=["exceed_client_limits"]).send("POST", STREAM, body, content_type=NDJSON)

    assert (refused.status_code, refused["Retry-After"], left) == (429, "10", True)
    assert allowed.status_code == 202


def test_an_upload_is_always_partial() -> None:
    response = send(b"{}", query="?mode=all_or_nothing")

    assert (response.status_code, pointers(response)) == (400, ["/mode"])


@pytest.mark.parametrize("content_type", ["TEXT/CSV", 'text/csv; charset="UTF-8"; header=present'])
@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "identity, gzip"])
def test_what_is_declared_in_another_way_is_read(content_type: str, coding: str) -> None:
    body = gzip.compress(b"student_id,first_name,last_name,email,grade\nS1")

    assert send(body, content_type, Content_Encoding=coding).json()["total_records"] == 1


def test_another_content_encoding_is_refused_with_those_supported() -> None:
    response = send(b"{}", Content_Encoding="br")

    assert (response.status_code, response["Accept-Encoding"]) == (415, "gzip")


class Reset(BytesIO):
    """A body whose connection is reset midway."""

    def read(self, size: int | None = -1, /) -> bytes:
        if piece := super().read(size):
            return piece
        raise ConnectionResetError


@pytest.mark.parametrize("connection", [BytesIO, Reset])
def test_a_connection_that_breaks_leaves_nothing(connection: type[BytesIO]) -> None:
    body = ndjson(students(2_500))
    broken: dict[str, Any] = {"wsgi.input": connection(body), "CONTENT_LENGTH": str(len(body) + 1)}

    response = Client().generic("POST", STREAM, body, content_type=NDJSON, **broken)

    assert response.status_code == 400
    assert "before the whole body had arrived" in response.json()["detail"]
    assert nothing_is_left()


def test_the_same_upload_again_with_the_same_key_stores_nothing_new(worker: WorkerProcess) -> None:
    body = ndjson(students(1_500))

    first, again = (send(body, Idempotency_Key="k") for _ in range(2))
    other = send(body + b"\n{}", Idempotency_Key="k")

    assert (again.json(), again["Idempotency-Replayed"]) == (first.json(), "true")
    assert other.status_code == 422
    assert (Ingestion.objects.count(), Chunk.objects.count(), Job.objects.count()) == (1, 2, 3)


def test_an_upload_is_cancelled_as_a_whole(api: Api, worker: WorkerProcess) -> None:
    task_id = send_all(ndjson(students(2_500)))
    work(worker)

    assert api.delete(f"/api/data/status/{task_id}/").json()["status"] in ("PROCESSING", "CANCELLED")

    assert not work(worker)
    assert counts(api, task_id) == ("CANCELLED", 1_000, 1_000, 0)


@pytest.mark.django_db(transaction=True)
def test_nobody_sees_an_upload_before_it_is_complete(api: Api) -> None:
    seen = []

    def lines() -> Iterator[bytes]:
        for number in range(1_500):
            if number == 1_400:
                seen.append((Chunk.objects.count(), Job.objects.count(), Record.objects.count()))
            yield b"%d {}" % number

    receive(lines())

    assert seen == [(1, 0, 0)]


def test_the_unfinished_upload_of_a_dead_process_is_deleted_after_a_day() -> None:
    old, new = (receive([b"1 {}"]) for _ in range(2))
    Ingestion.objects.filter(id=old.id).update(created_at=timezone.now() - timedelta(hours=25))

    delete_abandoned_uploads()

    assert list(Ingestion.objects.values_list("id", flat=True)) == [new.id]
    assert Chunk.objects.count() == 1


@pytest.mark.usefixtures("asks_for_tokens")
def test_an_upload_is_its_owners(as_user: Callable[..., Api], worker: WorkerProcess) -> None:
    ada, grace = as_user("ada"), as_user("grace")
    response = ada.send("POST", STREAM, ndjson([student(1)]), content_type=NDJSON)
    work_all(worker)

    task_id = response.json()["task_id"]
    assert counts(ada, task_id) == ("COMPLETED", 1, 1, 0)
    assert grace.get(f"/api/data/status/{task_id}/").status_code == 404
    assert Record.objects.get().owner == "ada"
    assert Api().send("POST", STREAM, b"{}", content_type=NDJSON).status_code == 401
