"""The audit trail: one entry a change, by whom and from where; nobody edits it; it is read by those permitted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from knox.models import AuthToken
from pytest_django import Settings

from access import audit
from access.models import AuditEntry
from access.tokens import create_token
from ingestion.services.receiving import accept
from orchestrator import submission
from orchestrator.models import Job, Kind
from orchestrator.queue.pausing import pause_kind, resume_kind
from orchestrator.states import Status
from orchestrator.upkeep import retention
from scheduler.models import Task, TaskSchedule
from scheduler.services.periodic_tasks import follower
from scheduler.services.tasks import NewTask, create_task
from scheduler.tasks import follow_beat
from tests.api import Api, pointers
from tests.factories import make_job, make_user
from tests.moves import put
from tests.scheduler.factories import make_schedule

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("asks_for_tokens")]

AsUser = Callable[..., Api]


@pytest.fixture
def ada(as_user: AsUser) -> Api:
    """Someone who may do everything. What it took to make her is no part of the trail."""
    client = as_user("ada", is_superuser=True)
    forget()
    return client


@pytest.fixture
def browser(admin_user: User) -> Client:
    client = Client(REMOTE_ADDR="192.0.2.9")
    client.force_login(admin_user)
    forget()
    return client


def forget() -> None:
    """Only tests can: they own the table."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE access_auditentry DISABLE TRIGGER access_keep_audit")
        cursor.execute("DELETE FROM access_auditentry")
        cursor.execute("ALTER TABLE access_auditentry ENABLE TRIGGER access_keep_audit")


def values(entry: AuditEntry) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the entry says was there before, and after."""
    return entry.before or {}, entry.after or {}


def trail() -> list[tuple[str, str]]:
    return list(AuditEntry.objects.order_by("id").values_list("action", "object_id"))


def post(browser: Client, page: str, *ids: Any, data: dict[str, Any], **options: Any) -> None:
    response = browser.post(reverse(f"admin:{page}", args=ids), data, **options)
    assert response.status_code == 302, response.content.decode()


def act(browser: Client, page: str, action: str, *rows: Any) -> None:
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows], "post": "yes", "confirmed": "yes"}
    post(browser, f"{page}_changelist", data=chosen)


# By the API


def test_an_entry_says_who_did_what_with_which_token_from_where(ada: Api) -> None:
    job = make_job(owner="grace")

    ada.delete(f"/jobs/{job.id}")

    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.via, entry.address) == ("ada", "api", "127.0.0.1")
    assert entry.token == ada.headers["Authorization"].removeprefix("Bearer ")[:15]
    assert (entry.action, entry.object_id, entry.object_name) == ("job.cancel", str(job.id), "demo.slices")
    assert entry.before == {"status": "CREATED"}
    assert entry.keep_until is not None
    assert entry.keep_until - entry.at > timedelta(days=364)


def test_every_change_by_the_api_is_one_entry(ada: Api) -> None:
    failed = make_job(Status.FAILED)
    task = create_task(NewTask(a=Decimal(1), b=Decimal(2)))
    ended = create_task(NewTask(a=Decimal(1), b=Decimal(2)))
    put(Job.objects.filter(id=ended.job_id), status=Status.COMPLETED, ready=False, finished_at=timezone.now())
    ingestion = accept([{"student_id": "S-1"}])

    ada.post(f"/jobs/{failed.id}/retry")
    ada.delete(f"/tasks/{task.id}/")
    ada.post(f"/tasks/{ended.id}/run/")
    ada.delete(f"/api/data/status/{ingestion.job_id}/")
    made = ada.post(
        "/task-schedules/", {"a": 1, "b": 2, "interval": 60, "scheduled_at": "2020-01-01T00:00:00Z"}
    ).json()
    path = f"/task-schedules/{made['id']}/"
    ada.send("PATCH", path, b'{"interval": 120}')
    ada.post(f"{path}pause/")
    ada.post(f"{path}resume/")
    ada.post(f"{path}run-now/")
    ada.post(f"{path}backfill/", {"from": "2020-01-01T00:00:00Z", "to": "2020-01-01T00:10:00Z"})
    ada.delete(path)

    assert trail() == [
        ("job.retry", str(failed.id)),
        ("task.cancel", str(task.id)),
        ("task.retry", str(ended.id)),
        ("ingestion.cancel", str(ingestion.job_id)),
        *[
            (f"schedule.{deed}", made["id"])
            for deed in ("create", "change", "pause", "resume", "run", "backfill", "delete")
        ],
    ]
    changed = AuditEntry.objects.get(action="schedule.change")
    assert (changed.before, changed.after) == ({"interval": 60}, {"interval": 120})


def test_requests_that_change_nothing_or_are_refused_leave_no_entry(ada: Api, as_user: AsUser) -> None:
    cancelled, completed = make_job(Status.CANCELLED), make_job(Status.COMPLETED)
    running = make_job(Status.RUNNING, cancel_requested_at=timezone.now())
    schedule = make_schedule()
    viewer = as_user("viewer", group="viewers")
    forget()

    for job in (cancelled, completed, running):
        ada.delete(f"/jobs/{job.id}")
    ada.post(f"/task-schedules/{schedule.id}/resume/")
    ada.post(
        f"/task-schedules/{schedule.id}/backfill/",
        {"from": "2020-01-01T00:00:00Z", "to": "2020-01-01T00:10:00Z", "dry_run": True},
    )
    viewer.delete(f"/jobs/{make_job(owner='grace').id}")
    ada.post("/jobs")
    ada.post("/tasks/", {"a": 1, "b": 2})

    assert trail() == []


def test_a_replayed_request_is_one_entry(ada: Api) -> None:
    job = make_job(Status.FAILED)

    for _ in range(2):
        assert ada.post(f"/jobs/{job.id}/retry", Idempotency_Key="k").status_code == 202

    assert trail() == [("job.retry", str(job.id))]


def test_the_entry_and_the_change_commit_together(ada: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no entry")

    monkeypatch.setattr(audit, "record", fail)

    with pytest.raises(RuntimeError), transaction.atomic():
        submission.cancel(job.id)
    assert Job.objects.get(id=job.id).status == Status.CREATED


# By the admin


def test_changes_to_jobs_kinds_and_schedules_in_the_admin_are_in_the_trail(browser: Client) -> None:
    Kind.objects.create(name="demo.slices", queue="io")
    job, failed, kind, schedule = make_job(), make_job(Status.FAILED), Kind.objects.get(), make_schedule()
    created, ingestion = create_task(NewTask(a=Decimal(1), b=Decimal(2))), accept([{"student_id": "S-1"}])
    task = Task.objects.get(id=created.id)
    forget()

    act(browser, "orchestrator_job", "cancel_selected", job)
    act(browser, "orchestrator_job", "retry_selected", failed)
    act(browser, "orchestrator_kind", "pause_selected", kind)
    act(browser, "orchestrator_kind", "resume_selected", kind)
    act(browser, "scheduler_task", "cancel_selected", task)
    act(browser, "ingestion_ingestion", "cancel_selected", ingestion)
    act(browser, "scheduler_taskschedule", "pause_selected", schedule)
    act(browser, "scheduler_taskschedule", "resume_selected", schedule)
    act(browser, "scheduler_taskschedule", "run_selected_now", schedule)
    act(browser, "scheduler_taskschedule", "delete_selected", schedule)

    assert trail() == [
        ("job.cancel", str(job.id)),
        ("job.retry", str(failed.id)),
        ("kind.pause", "demo.slices"),
        ("kind.resume", "demo.slices"),
        ("task.cancel", str(task.id)),
        ("ingestion.cancel", str(ingestion.job_id)),
        *[(f"schedule.{deed}", str(schedule.id)) for deed in ("pause", "resume", "run", "delete")],
    ]
    assert set(AuditEntry.objects.values_list("actor", "via", "address")) == {("admin", "admin", "192.0.2.9")}


def test_users_and_groups_changed_in_the_admin_are_in_the_trail(browser: Client) -> None:
    password = "a long enough password"
    post(
        browser,
        "auth_user_add",
        data={"username": "grace", "usable_password": "true", "password1": password, "password2": password},
    )
    grace = User.objects.get(username="grace")
    operators = Group.objects.get(name="operators")
    post(
        browser,
        "auth_user_change",
        grace.pk,
        data={
            "username": "grace",
            "is_staff": "on",
            "is_active": "on",
            "groups": [operators.pk],
            "date_joined_0": grace.date_joined.date(),
            "date_joined_1": f"{grace.date_joined:%H:%M:%S}",
        },
    )
    post(browser, "auth_user_password_change", grace.pk, data={"password1": password * 2, "password2": password * 2})
    post(browser, "auth_group_add", data={"name": "helpers"})
    post(browser, "auth_user_delete", grace.pk, data={"post": "yes"})

    assert [action for action, _ in trail()] == [
        "user.create", "user.change", "user.change", "group.create", "user.delete",
    ]  # fmt: skip
    rights, password_changed = AuditEntry.objects.filter(action="user.change").order_by("id")
    before, after = values(rights)
    assert (before["groups"], after["groups"]) == ([], ["operators"])
    assert (before["is_staff"], after["is_staff"]) == (False, True)
    assert password_changed.after == {"password": "changed"}
    assert password not in str(list(AuditEntry.objects.values()))


def test_changes_to_tokens_are_in_the_trail_without_the_tokens(browser: Client, admin_user: User) -> None:
    page = browser.post(reverse("admin:knox_authtoken_add"), {"user": admin_user.pk, "name": "laptop"}, follow=True)
    row = AuthToken.objects.get(user=admin_user)
    act(browser, "knox_authtoken", "delete_selected", row)

    assert trail() == [("token.create", row.token_key), ("token.revoke", row.token_key)]
    created = AuditEntry.objects.order_by("id")[0]
    _, after = values(created)
    assert (created.object_name, after["user"], after["scope"]) == ("laptop", "admin", "manage")
    token = page.content.decode().partition("TOKEN ")[2][:64]
    assert token
    assert token not in str(list(AuditEntry.objects.values()))


def test_changes_in_beats_own_admin_are_in_the_trail(browser: Client) -> None:
    every = IntervalSchedule.objects.create(every=1, period="days")
    task = PeriodicTask.objects.create(name="theirs", task="no.such_task", interval=every)

    act(browser, "django_celery_beat_periodictask", "disable_tasks", task)
    act(browser, "django_celery_beat_periodictask", "disable_tasks", task)
    act(browser, "django_celery_beat_periodictask", "toggle_tasks", task)
    act(browser, "django_celery_beat_periodictask", "delete_selected", task)
    post(browser, "django_celery_beat_intervalschedule_delete", every.pk, data={"post": "yes"})

    assert trail() == [
        *[(f"periodic_task.{deed}", str(task.pk)) for deed in ("disable", "enable", "delete")],
        ("interval.delete", str(every.pk)),
    ]


def test_log_ins_and_failed_ones_are_in_the_trail() -> None:
    user = User.objects.create_superuser("root", password="a long enough password")
    forget()
    client = Client(REMOTE_ADDR="2001:db8::1")

    for username, given in (
        ("root", "wrong"),
        ("ro\x00ot" + "x" * 300, "wrong"),
        ("root", "a long enough password"),
    ):
        client.post(reverse("admin:login"), {"username": username, "password": given})
    client.post(reverse("admin:logout"))

    entries = list(AuditEntry.objects.order_by("id"))
    actions = [entry.action for entry in entries]
    assert actions[0] == "user.log_in_failed"
    assert actions[-2:] == ["user.log_in", "user.log_out"]
    assert (entries[0].object_name, entries[0].actor, entries[0].address) == ("root", "", "2001:db8::1")
    assert (entries[-2].object_id, entries[-2].actor) == (str(user.pk), "root")
    assert "a long enough password" not in str(list(AuditEntry.objects.values()))


# By commands and code


def test_changes_by_commands_are_in_the_trail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["manage.py", "createsuperuser"])

    call_command("createsuperuser", username="root", email="", interactive=False)
    call_command("token", "root")
    row = AuthToken.objects.get()
    call_command("token", "--revoke", row.token_key)

    assert [action for action, _ in trail()] == ["user.create", "token.create", "token.revoke"]
    entry = AuditEntry.objects.order_by("id")[0]
    assert (entry.via, bool(entry.actor), entry.address) == ("command", True, None)
    _, after = values(entry)
    assert after["is_superuser"] is True


def test_a_command_called_from_code_is_recorded_as_a_command() -> None:
    call_command("token", "ada", "--create")

    assert set(AuditEntry.objects.values_list("via", flat=True)) == {"command"}


def test_changes_by_code_are_in_the_trail_as_done_by_muster() -> None:
    Kind.objects.create(name="demo.slices", queue="io")
    user = make_user("grace")
    user.groups.add(Group.objects.get(name="viewers"))
    Group.objects.get(name="viewers").permissions.remove(Permission.objects.get(codename="view_record"))
    pause_kind("demo.slices")
    pause_kind("demo.slices")
    resume_kind("demo.slices")
    resume_kind("demo.slices")

    entries = AuditEntry.objects.order_by("id")

    assert [entry.action for entry in entries] == [
        "user.create", "user.change", "group.change", "kind.pause", "kind.resume",
    ]  # fmt: skip
    assert entries[1].after == {"groups": ["viewers"]}
    assert {entry.via for entry in entries} == {"system"}


def test_the_trail_names_an_account_and_no_namesake(as_user: AsUser) -> None:
    as_user("ada").delete(f"/jobs/{make_job(owner='ada').id}")
    User.objects.get(username="ada").delete()
    second = as_user("ada")
    forget()

    second.delete(f"/jobs/{second.post('/jobs').json()['job_id']}")

    assert AuditEntry.objects.get().actor == f"ada~{User.objects.get(username='ada').pk}"


def test_long_values_are_cut() -> None:
    audit.record("x.y", "i" * 500, "n" * 500, after={"text": "t" * 5_000, "list": range(3), "many": list(range(500))})

    entry = AuditEntry.objects.get()
    _, after = values(entry)
    assert (len(entry.object_id), len(entry.object_name), len(after["text"])) == (150, 200, 200)
    assert len(after["many"]) == 50


# Nobody edits it


@pytest.mark.parametrize(
    "statement", ["UPDATE access_auditentry SET actor = 'grace'", "DELETE FROM access_auditentry"]
)
def test_an_entry_is_neither_changed_nor_deleted_before_its_time(statement: str) -> None:
    audit.record("job.cancel", "1")

    refused = pytest.raises(IntegrityError, match="kept as it was written")
    with refused, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)


def test_an_entry_that_is_kept_for_ever_is_not_deleted_either(settings: Settings) -> None:
    settings.ENV = type(settings.ENV)(SECRET_KEY="x" * 50, AUDIT_DAYS=0)
    audit.record("job.cancel", "1")

    retention.prune()

    with pytest.raises(IntegrityError), transaction.atomic():
        AuditEntry.objects.all().delete()


def test_an_entry_is_pruned_when_its_time_is_over(settings: Settings) -> None:
    settings.ENV = type(settings.ENV)(SECRET_KEY="x" * 50, AUDIT_DAYS=1e-9)
    audit.record("job.cancel", "old")
    settings.ENV = type(settings.ENV)(SECRET_KEY="x" * 50)
    audit.record("job.cancel", "new")

    retention.audit_entries()

    assert trail() == [("job.cancel", "new")]


def test_the_admin_shows_the_trail_and_changes_nothing(browser: Client) -> None:
    audit.record("job.cancel", "1", "demo.slices", before={"status": "CREATED"})
    entry = AuditEntry.objects.get()
    page = reverse("admin:access_auditentry_change", args=[entry.pk])

    listed = browser.get(reverse("admin:access_auditentry_changelist"), {"q": "job.cancel"}).content.decode()

    assert "demo.slices" in listed
    assert "CREATED" in browser.get(page).content.decode()
    assert browser.post(page, {"actor": "grace"}).status_code == 403
    assert browser.post(reverse("admin:access_auditentry_delete", args=[entry.pk]), {"post": "yes"}).status_code == 403
    assert browser.get(reverse("admin:access_auditentry_add")).status_code == 403
    assert not Permission.objects.filter(content_type__app_label="access", codename__contains="change_audit").exists()


# GET /audit


def test_the_trail_is_read_page_by_page_by_those_permitted(as_user: AsUser) -> None:
    auditor = as_user("auditor", permissions=["view_auditentry"])
    forget()
    for number in range(5):
        audit.record("job.cancel", number)

    first = auditor.get("/audit?limit=3").json()
    second = auditor.get(first["next"]).json()

    assert [entry["object_id"] for entry in first["results"] + second["results"]] == ["4", "3", "2", "1", "0"]
    assert second["next"] is None
    assert first["results"][0].keys() == {
        "id", "at", "actor", "token", "address", "via", "action", "object_id", "object_name", "before", "after",
    }  # fmt: skip


@pytest.mark.parametrize("role", [{}, {"is_staff": True}, {"group": "viewers"}, {"group": "operators"}])
def test_the_trail_is_for_those_permitted_alone(as_user: AsUser, role: dict[str, Any]) -> None:
    response = as_user("other", **role).get("/audit")

    assert response.status_code == 403
    assert "access.view_auditentry" in response.json()["detail"]


def test_the_trail_needs_a_token(api: Api) -> None:
    assert api.get("/audit").status_code == 401


def test_the_trail_is_filtered(ada: Api) -> None:
    job, other = make_job(), make_job()
    ada.delete(f"/jobs/{job.id}")
    ada.delete(f"/jobs/{other.id}")
    ada.post(f"/jobs/{job.id}/retry")
    between = AuditEntry.objects.order_by("id")[1].at
    User.objects.filter(username="ada").update(username="countess")

    def found(query: str) -> list[str]:
        return [entry["action"] for entry in ada.get(f"/audit?{query}").json()["results"]]

    moment = between.isoformat().replace("+00:00", "Z")
    assert found(f"object={job.id}") == ["job.retry", "job.cancel"]
    assert found("action=job.retry") == ["job.retry"]
    assert found("actor=countess") == found("actor=ada") == ["job.retry", "job.cancel", "job.cancel"]
    assert found("actor=nobody") == []
    assert found(f"since={moment}") == ["job.retry", "job.cancel"]
    assert found(f"until={moment}") == ["job.cancel"]


@pytest.mark.parametrize("query", ["colour=red", "since=yesterday", "cursor=x", "limit=0"])
def test_an_invalid_filter_is_refused(ada: Api, query: str) -> None:
    response = ada.get(f"/audit?{query}")

    assert (response.status_code, len(pointers(response))) == (400, 1)


def test_a_cursor_beyond_all_ids_is_accepted(ada: Api) -> None:
    assert ada.get("/audit?cursor=999999999999999999").json()["results"] == []


def test_without_authentication_the_trail_has_the_address(api: Api, settings: Settings) -> None:
    settings.ENV = type(settings.ENV)(SECRET_KEY="x" * 50, REQUIRE_AUTH=False, DEBUG=True)
    job = make_job()
    forget()

    api.delete(f"/jobs/{job.id}")

    [entry] = api.get("/audit").json()["results"]
    assert (entry["actor"], entry["address"], entry["action"]) == ("", "127.0.0.1", "job.cancel")


def test_a_schedule_that_beats_admin_paused_is_followed_in_the_trail(browser: Client) -> None:
    follower.followed_until = None
    schedule = make_schedule()
    forget()
    act(browser, "django_celery_beat_periodictask", "disable_tasks", schedule.periodic_task)

    follow_beat()

    assert [action for action, _ in trail()] == ["periodic_task.disable", "schedule.pause"]
    assert not TaskSchedule.objects.get().enabled
    follower.followed_until = None


def test_an_entry_names_the_token_that_was_used() -> None:
    row, token = create_token(make_user("ada"), name="nightly")
    job = make_job(owner="ada")

    Api({"Authorization": f"Bearer {token}"}).delete(f"/jobs/{job.id}")

    assert AuditEntry.objects.get(action="job.cancel").token == row.token_key
