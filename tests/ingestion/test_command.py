"""manage.py ingest FILE."""

from __future__ import annotations

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
from orchestrator.workers import WorkerProcess
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


def test_it_need_not_be_watched(tmp_path: Path) -> None:
    said = ingest_file(written(tmp_path / "students.ndjson", 3), no_wait=True)

    assert f"3 records as task {Ingestion.objects.get().job_id}" in said


@pytest.mark.parametrize(
    ("name", "body", "complaint"),
    [
        ("students.txt", b"", "is to end in one of"),
        ("students.ndjson", b"\n", "holds no records"),
        ("students.csv", b"name\n", "which is no field"),
        ("students.ndjson.gz", b"no", "is not"),
    ],
)
def test_a_file_that_is_none_leaves_nothing(tmp_path: Path, name: str, body: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(body)

    with pytest.raises(CommandError, match=complaint):
        ingest_file(tmp_path / name)

    assert not Ingestion.objects.exists()


def test_an_owner_that_cannot_be_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="at most 150 characters"):
        ingest_file(written(tmp_path / "students.ndjson", 3), owner="x" * 151)

    assert not Ingestion.objects.exists()


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        ingest_file(tmp_path / "students.csv")
