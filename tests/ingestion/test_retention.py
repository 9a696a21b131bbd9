"""An ingestion is pruned with its job; the records it stored are not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import models
from django.utils import timezone

from ingestion.models import Chunk, Ingestion, Record, RecordError
from orchestrator.models import Job
from orchestrator.upkeep import retention
from orchestrator.worker.process import WorkerProcess
from tests.api import Api
from tests.ingestion.conftest import Ingest, student, students
from tests.orchestrator.workbench import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is pruned at once, however busy the machine."""
    monkeypatch.setattr(retention, "PRUNING_SECONDS", PATIENCE_SECONDS)


def age(task_id: str) -> None:
    Job.objects.filter(id=task_id).update(finished_at=timezone.now() - timedelta(days=31))


def test_an_ingestion_goes_and_its_records_stay(api: Api, ingest: Ingest) -> None:
    task_id = ingest([student(1), student(2, email="no")])
    assert RecordError.objects.count() == 1
    age(task_id)

    retention.prune()

    assert [model.objects.count() for model in (Ingestion, Chunk, RecordError, Record)] == [0, 0, 0, 1]
    assert api.get(f"/api/data/status/{task_id}/").status_code == 404
    assert api.get(f"/api/data/status/{task_id}/errors/").status_code == 404
    assert api.get("/api/data/records/S-0001/").json()["task_id"] is None
    assert api.get("/api/data/records/").json()["results"][0]["task_id"] is None


def test_an_ingestion_with_more_errors_than_a_transaction_takes_goes_in_several(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_ROWS", 3)
    age(ingest(students(8, email="no")))
    counts = []

    while retention.jobs():
        counts.append(RecordError.objects.count())

    assert counts == [5, 2]
    assert not Ingestion.objects.exists()


def test_a_row_that_only_names_its_job_forgets_it(
    ingest: Ingest, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ingestion._meta.get_field("job").remote_field, "on_delete", models.SET_NULL)
    age(ingest([student(1)]))

    retention.prune()

    assert not Job.objects.exists()
    assert Ingestion.objects.get().job is None
