"""manage.py ingest FILE."""

from __future__ import annotations

import codecs
import gzip
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.core.management import CommandError, call_command

from ingestion.models import Ingestion, Record
from orchestrator.kinds import kind_named
from orchestrator.worker.process import WorkerProcess
from tests.ingestion.conftest import students, work
from tests.orchestrator.workbench import PATIENCE_SECONDS, run, threads

pytestmark = pytest.mark.django_db(transaction=True)


def ingest_file(file: Path, **options: Any) -> str:
    out = StringIO()
    call_command("ingest", str(file), stdout=out, **options)
    return out.getvalue()


def written(file: Path, count: int) -> Path:
    body = b"\n".join(map(msgspec.json.encode, students(count)))
    file.write_bytes(gzip.compress(body) if file.suffix == ".gz" else body)
    return file


def work_until(stop: threading.Event, worker: WorkerProcess) -> None:
    while not stop.wait(0.01):
        if not work(worker):
            run(kind_named("ingestion.upload"), worker)


@pytest.mark.parametrize("name", ["students.ndjson", "students.jsonl.gz"])
def test_a_file_is_stored_and_watched_to_its_end(tmp_path: Path, worker: WorkerProcess, name: str) -> None:
    stop = threading.Event()
    with threads(1) as elsewhere:
        working = elsewhere(work_until, stop, worker)
        try:
            said = ingest_file(written(tmp_path / name, 1_200), owner="ada")
        finally:
            stop.set()
        working.result(PATIENCE_SECONDS)

    assert "COMPLETED: 1,200 stored, 0 not." in said
    assert Record.objects.filter(owner="ada").count() == 1_200


@pytest.mark.parametrize("name", ["students.ndjson", "STUDENTS.NDJSON", "Students.JsonL"])
def test_it_need_not_be_watched(tmp_path: Path, name: str) -> None:
    said = ingest_file(written(tmp_path / name, 3), no_wait=True)

    assert f"3 records as task {Ingestion.objects.get().job_id}" in said


@pytest.mark.parametrize(
    ("name", "body", "complaint"),
    [
        ("students.txt", b"", "must end in one of"),
        ("students.ndjson", b"\n", "contains no records"),
        ("students.csv", b"name\n", "unknown field"),
        ("students.ndjson.gz", b"no", "is not"),
        ("students.csv", "student_id,email".encode("utf-16"), "The file is UTF-16. Save it as UTF-8"),
        ("students.csv", b"student_id;email", "separated by semicolons"),
        ("students.ndjson.gz", gzip.compress(b"\n" * 20_000_000, mtime=0), "blank lines included"),
    ],
)
def test_an_invalid_file_leaves_nothing(tmp_path: Path, name: str, body: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(body)

    with pytest.raises(CommandError, match=complaint):
        ingest_file(tmp_path / name)

    assert not Ingestion.objects.exists()


@pytest.mark.parametrize("name", ["students.csv", "students.csv.gz"])
def test_a_byte_order_mark_before_a_quoted_header_is_skipped(tmp_path: Path, name: str) -> None:
    body = codecs.BOM_UTF8 + b'"student_id","first_name","last_name","email","grade"\r\n"B2","A","L","a@b.org","7"\r\n'
    (tmp_path / name).write_bytes(gzip.compress(body) if name.endswith(".gz") else body)

    assert "1 records as task" in ingest_file(tmp_path / name, no_wait=True)


def test_an_invalid_owner_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="at most 150 characters"):
        ingest_file(written(tmp_path / "students.ndjson", 3), owner="x" * 151)

    assert not Ingestion.objects.exists()


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"students\.csv cannot be read: No such file or directory\."):
        ingest_file(tmp_path / "students.csv")
