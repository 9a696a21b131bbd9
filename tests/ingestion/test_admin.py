"""The admin: ingestions, records and record errors, found, shown and cancelled."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from ingestion.models import Ingestion, Record, RecordError
from orchestrator.models import Job
from tests.api import Api
from tests.factories import staff_with
from tests.ingestion.conftest import Ingest, send_only, student, students

pytestmark = pytest.mark.django_db

# A page of a list reads the session, the user, the dates, the count and the rows.
MAX_QUERIES = 10


def listed(client: Client, model: str, **parameters: str) -> list[Any]:
    answer = client.get(reverse(f"admin:ingestion_{model}_changelist"), parameters)
    assert answer.status_code == 200
    return list(answer.context["cl"].result_list)


def shown(client: Client, row: Ingestion | Record | RecordError) -> str:
    answer = client.get(reverse(f"admin:ingestion_{row._meta.model_name}_change", args=[row.pk]))
    assert answer.status_code == 200
    return answer.content.decode()


def test_ingestions_are_found_by_status_task_and_owner(admin_client: Client, api: Api, ingest: Ingest) -> None:
    done, waiting = ingest(students(3)), send_only(api, students(2))
    Job.objects.filter(id=waiting).update(owner="ada")

    def found(**parameters: str) -> list[str]:
        return [str(row.job_id) for row in listed(admin_client, "ingestion", **parameters)]

    assert found() == [waiting, done]
    assert found(status="COMPLETED") == [done]
    assert found(q=done) == [done]
    assert found(q="ada") == [waiting]
    assert found(created_at__year="2001") == []


def test_a_list_of_many_reads_no_more_than_one_of_few(admin_client: Client, api: Api) -> None:
    for number in range(20):
        send_only(api, [student(number)])

    with CaptureQueriesContext(connection) as queries:
        listed(admin_client, "ingestion")

    assert len(queries) <= MAX_QUERIES


def test_what_became_of_an_ingestion_is_shown(admin_client: Client, ingest: Ingest) -> None:
    ingest([student(1), student(2, grade="13")])

    page = shown(admin_client, Ingestion.objects.get())
    error_page = shown(admin_client, RecordError.objects.get())
    record_page = shown(admin_client, Record.objects.get())

    assert "COMPLETED" in page
    assert "2 of 2" in page
    assert "invalid" in error_page
    assert "asha1@example.org" in record_page


def test_rejected_records_are_a_table_with_their_reasons_and_a_download(admin_client: Client, ingest: Ingest) -> None:
    task_id = ingest([student(1), student(2, grade="13"), student(3, grade="13", email="no")])

    page = shown(admin_client, Ingestion.objects.get())
    csv = admin_client.get(f"/api/data/status/{task_id}/errors/?format=csv")

    assert "Stored 1 of 3 records, rejected 2." in page
    assert "2 REJECTED" in page
    assert "<strong>2 ×</strong> grade: invalid" in page
    assert "S-0003" in page
    assert f"/api/data/status/{task_id}/errors/?format=csv" in page
    assert csv.status_code == 200


def test_rejected_records_are_shown_to_those_who_may_see_them(ingest: Ingest) -> None:
    ingest([student(1), student(2, grade="13")])

    page = shown(staff_with("view_ingestion"), Ingestion.objects.get())

    assert "Stored 1 of 2 records, rejected 1." in page
    assert "S-0002" not in page


def test_records_and_errors_are_found(admin_client: Client, ingest: Ingest) -> None:
    task_id = ingest([student(1, grade="7"), student(2), {}])
    ingestion = str(Ingestion.objects.get().id)

    assert len(listed(admin_client, "record", q="S-0001")) == 1
    assert len(listed(admin_client, "record", grade="7")) == 1
    assert len(listed(admin_client, "record", ingestion__id__exact=ingestion)) == 2
    assert len(listed(admin_client, "recorderror", q=task_id)) == 1
    assert len(listed(admin_client, "recorderror", ingestion__id__exact=ingestion)) == 1
    assert listed(admin_client, "recorderror", q="nothing") == []


def test_ingestions_are_cancelled_and_refusals_shown(admin_client: Client, api: Api, ingest: Ingest) -> None:
    ingest(students(1))
    waiting = send_only(api, students(2))
    rows = [str(id) for id in Ingestion.objects.values_list("id", flat=True)]

    page = admin_client.post(
        reverse("admin:ingestion_ingestion_changelist"),
        {"action": "cancel_selected", "_selected_action": rows, "confirmed": "yes"},
        follow=True,
    ).content.decode()

    assert Job.objects.get(id=waiting).status == "CANCELLED"
    assert "Requested cancellation of 1 ingestion." in page
    assert "already COMPLETED" in page


def test_nothing_is_added_changed_or_deleted_by_hand(admin_client: Client, ingest: Ingest) -> None:
    ingest(students(1))

    for name in ("ingestion", "record", "recorderror"):
        assert admin_client.get(reverse(f"admin:ingestion_{name}_add")).status_code == 403
