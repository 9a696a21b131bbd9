"""Whose work it is: it stays with its user through a rename, and goes to no namesake."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction

from access.models import Account
from access.permissions import owner_of
from ingestion.models import Record
from orchestrator.models import Job
from tests.api import Api
from tests.factories import make_job, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("asks_for_tokens")]

AsUser = Callable[..., Api]


def rename(before: str, after: str) -> None:
    User.objects.filter(username=before).update(username=after)


def test_work_stays_with_its_user_through_a_rename(as_user: AsUser) -> None:
    ada = as_user("ada")
    before = ada.post("/jobs").json()["job_id"]

    rename("ada", "grace")

    after = ada.post("/orchestrate/grace").json()["job_id"]
    assert [ada.get(f"/jobs/{id}").status_code for id in (before, after)] == [200, 200]
    assert ada.get(f"/status/grace/{after}").status_code == 200
    assert len(ada.get("/jobs?owner=grace&parent=none").json()["results"]) == 2
    assert ada.delete(f"/jobs/{before}").status_code == 200
    assert set(Job.objects.filter(parent=None).values_list("owner", flat=True)) == {"ada"}


def test_a_rename_splits_neither_records_nor_caps(as_user: AsUser) -> None:
    ada = as_user("ada")
    for _ in range(3):
        ada.post("/orchestrate/ada")
    Record.objects.create(owner="ada", student_id="S-1", first_name="A", last_name="B", email="a@b.org", grade="1")

    rename("ada", "grace")

    assert ada.post("/orchestrate/grace").status_code == 429
    assert ada.get("/api/data/records/S-1/").status_code == 200


def test_a_new_user_with_a_deleted_users_name_does_not_get_their_work(as_user: AsUser) -> None:
    job = as_user("ada").post("/jobs").json()["job_id"]
    User.objects.get(username="ada").delete()

    namesake = as_user("ada")

    own = namesake.post("/jobs").json()
    assert namesake.get(f"/jobs/{job}").status_code == 404
    assert namesake.delete(f"/jobs/{job}").status_code == 404
    assert [each["job_id"] for each in namesake.get("/jobs").json()["results"]] == [own["job_id"]]
    assert namesake.get(f"/status/ada/{namesake.post('/orchestrate/ada').json()['job_id']}").status_code == 200
    assert own["owner"] == f"ada~{User.objects.get(username='ada').pk}"


def test_a_new_user_with_a_renamed_users_old_name_does_not_get_their_work(as_user: AsUser) -> None:
    job = as_user("ada").post("/jobs").json()["job_id"]
    rename("ada", "grace")

    namesake = as_user("ada")
    rename("grace", "lin")
    second = as_user("grace")

    assert [each.get(f"/jobs/{job}").status_code for each in (namesake, second)] == [404, 404]


def test_a_user_renamed_to_a_former_name_does_not_get_its_work(as_user: AsUser) -> None:
    job = as_user("ada").post("/jobs").json()["job_id"]
    User.objects.get(username="ada").delete()
    grace = as_user("grace")

    rename("grace", "ada")

    assert grace.get(f"/jobs/{job}").status_code == 404


def test_an_idempotency_key_of_a_namesake_is_another_key(as_user: AsUser) -> None:
    first = as_user("ada").post("/jobs", Idempotency_Key="k").json()["job_id"]
    User.objects.get(username="ada").delete()

    again = as_user("ada").post("/jobs", Idempotency_Key="k")

    assert again.status_code == 202
    assert again.json()["job_id"] != first


def test_those_who_see_all_find_the_work_of_everyone_who_had_a_name(as_user: AsUser) -> None:
    jobs = [as_user("ada").post("/jobs").json()["job_id"]]
    rename("ada", "grace")
    jobs.append(as_user("ada").post("/jobs").json()["job_id"])
    viewer = as_user("viewer", group="viewers")

    found = {name: {job["job_id"] for job in viewer.get(f"/jobs?owner={name}").json()["results"]}
             for name in ("ada", "grace")}  # fmt: skip

    assert found == {"ada": set(jobs), "grace": {jobs[0]}}


def test_the_work_of_a_deleted_user_stays_for_those_who_see_all(as_user: AsUser) -> None:
    job = as_user("ada").post("/jobs").json()["job_id"]
    User.objects.get(username="ada").delete()

    shown = as_user("viewer", group="viewers").get(f"/jobs/{job}").json()

    assert shown["owner"] == "ada"


# Nothing gets around it


def test_every_way_to_make_a_user_gives_them_an_account(admin_client: object) -> None:
    User.objects.bulk_create([User(username="bulk")])
    User.objects.create(username="orm")
    call_command("createsuperuser", username="command", email="", interactive=False)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO auth_user (username, password, first_name, last_name, email, is_staff, is_superuser, "
            "is_active, date_joined) VALUES ('sql', '', '', '', '', false, false, true, now())"
        )

    owners = {name: owner_of(User.objects.get(username=name)) for name in ("bulk", "orm", "command", "sql", "admin")}

    assert owners == {name: name for name in owners}


def test_the_longest_name_can_be_taken_again() -> None:
    for _ in range(3):
        user = make_user("x" * 150)
        owner = owner_of(user)
        user.delete()

    assert len(owner) <= 150
    assert Account.objects.filter(user=None).count() == 3


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM access_account",
        "UPDATE access_account SET owner = 'grace'",
        "UPDATE access_account SET user_id = (SELECT id FROM auth_user WHERE username = 'grace')",
    ],
)
def test_an_account_is_neither_deleted_nor_given_to_another(statement: str) -> None:
    make_user("ada").delete()
    make_user("grace")

    refused = pytest.raises(IntegrityError, match="so that nobody else gets its work")
    with refused, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"{statement} WHERE owner = 'ada'")


def test_what_a_command_stores_for_a_renamed_user_is_theirs(as_user: AsUser, tmp_path: Path) -> None:
    ada = as_user("ada")
    rename("ada", "grace")
    file = tmp_path / "one.csv"
    file.write_text("student_id,first_name,last_name,email,grade\nS-1,A,B,a@example.org,1\n")

    call_command("ingest", str(file), owner="grace", no_wait=True, stdout=StringIO())

    assert {job["owner"] for job in ada.get("/jobs").json()["results"]} == {"ada"}


# Before the upgrade, and without tokens


def test_work_under_a_name_that_no_user_had_belongs_to_the_first_user_of_that_name(as_user: AsUser) -> None:
    job = make_job(owner="ada")

    assert as_user("ada").get(f"/jobs/{job.id}").status_code == 200


def test_names_of_users_who_were_gone_before_the_upgrade_are_reserved(as_user: AsUser) -> None:
    job = make_job(owner="gone")
    make_job(owner="")
    present = as_user("present")
    kept = make_job(owner="present")

    with connection.schema_editor() as editor:
        import_module("access.migrations.0001_initial").reserve_names_of_former_users(None, editor)

    assert as_user("gone").get(f"/jobs/{job.id}").status_code == 404
    assert present.get(f"/jobs/{kept.id}").status_code == 200
    assert set(Account.objects.filter(user=None).values_list("owner", flat=True)) == {"gone"}
