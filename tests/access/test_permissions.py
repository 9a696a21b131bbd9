"""Django's permissions decide in the API as in the admin: a table of who may do what to another's work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone
from knox.models import AuthToken
from pytest_django import DjangoAssertNumQueries, Settings

from access.groups import create_groups
from access.tokens import PREFIXES, Scope
from ingestion.models import Record
from ingestion.services.receiving import accept
from orchestrator.composition import submit_pipeline
from orchestrator.models import Job, Kind, Notification
from orchestrator.notifications import services as notifications
from orchestrator.states import Status
from orchestrator.submission import cancel, submit
from scheduler.services.tasks import NewTask, create_task
from tests.api import Api, pointers
from tests.factories import make_attempt, make_job, make_user
from tests.moves import put
from tests.scheduler.factories import make_schedule

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("asks_for_tokens")]

AsUser = Callable[..., Api]

OWN, UNSEEN, REFUSED, NOBODY = "as one's own", 404, 403, 401
# What each role may do to another's work: see it, do what operators do, and change, run or delete it.
ROLES: dict[str, tuple[Any, Any, Any]] = {
    "anonymous": (NOBODY, NOBODY, NOBODY),
    "another user": (UNSEEN, UNSEEN, UNSEEN),
    "staff without permissions": (UNSEEN, UNSEEN, UNSEEN),
    "viewer": (OWN, REFUSED, REFUSED),
    "operator": (OWN, OWN, REFUSED),
    "superuser": (OWN, OWN, OWN),
    "owner": (OWN, OWN, OWN),
    "owner, reading": (OWN, REFUSED, REFUSED),
    "owner, submitting": (OWN, REFUSED, REFUSED),
}
SEE, OPERATE, CHANGE = range(3)
# Each path that is about something of someone: what is asked for there, and what the owner is answered.
REQUESTS = [
    ("GET", "/jobs/{job}", SEE, 200),
    ("PATCH", "/jobs/{job}", OPERATE, 200),
    ("GET", "/jobs/{job}/logs", SEE, 200),
    ("GET", "/jobs/{job}/events", SEE, 200),
    ("DELETE", "/jobs/{job}", OPERATE, 200),
    ("POST", "/jobs/{failed}/retry", OPERATE, 202),
    ("POST", "/jobs/{waiting}/signals/approve", OPERATE, 202),
    ("GET", "/pipelines/{pipeline}", SEE, 200),
    ("DELETE", "/pipelines/{pipeline}", OPERATE, 200),
    ("POST", "/pipelines/{cancelled_pipeline}/retry", OPERATE, 202),
    ("POST", "/pipelines/{cancelled_pipeline}/fork?from=a", OPERATE, 202),
    ("GET", "/status/owner/{orchestration}", SEE, 200),
    ("GET", "/tasks/{task}/", SEE, 200),
    ("DELETE", "/tasks/{task}/", OPERATE, 204),
    ("POST", "/tasks/{ended_task}/run/", OPERATE, 202),
    ("GET", "/task-schedules/{schedule}/", SEE, 200),
    ("PUT", "/task-schedules/{schedule}/", CHANGE, 400),
    ("PATCH", "/task-schedules/{schedule}/", CHANGE, 200),
    ("DELETE", "/task-schedules/{schedule}/", CHANGE, 204),
    ("GET", "/task-schedules/{schedule}/preview/", SEE, 200),
    ("POST", "/task-schedules/{schedule}/pause/", OPERATE, 200),
    ("POST", "/task-schedules/{schedule}/resume/", OPERATE, 200),
    ("POST", "/task-schedules/{schedule}/run-now/", CHANGE, 202),
    ("POST", "/task-schedules/{schedule}/backfill/", CHANGE, 200),
    ("GET", "/api/data/status/{ingestion}/", SEE, 200),
    ("DELETE", "/api/data/status/{ingestion}/", OPERATE, 200),
    ("GET", "/api/data/status/{ingestion}/errors/", SEE, 200),
    ("GET", "/api/data/records/S-1/", SEE, 200),
    ("GET", "/notifications/{notification}", SEE, 200),
    ("PATCH", "/notifications/{notification}", CHANGE, 200),
    ("DELETE", "/notifications/{notification}", CHANGE, 204),
    ("POST", "/notifications/{notification}/test", CHANGE, 202),
    ("POST", "/notifications/{notification}/secret", CHANGE, 200),
    ("GET", "/notifications/{notification}/deliveries", SEE, 200),
    ("POST", "/notifications/{notification}/deliveries/{delivery}/send-again", CHANGE, 409),  # It is still to be sent.
]
# Lists: how many of the owner's each role finds there is what they see.
LISTS = ["/jobs", "/tasks/", "/task-schedules/", "/api/data/records/", "/notifications"]
# What everyone who is let in may do, since it is their own or nobody's, and the scope that it takes.
OPEN_TO_USERS = [
    ("POST", "/jobs", Scope.SUBMIT, 202),
    ("POST", "/pipelines", Scope.SUBMIT, 400),
    ("POST", "/jobs/bulk", Scope.SUBMIT, 400),
    *(("POST", f"/jobs/{verb}", Scope.MANAGE, 400) for verb in ("cancel", "retry", "change")),
    ("POST", "/orchestrate/{me}", Scope.SUBMIT, 202),
    ("POST", "/tasks/", Scope.SUBMIT, 400),
    ("POST", "/tasks/batch-request/", Scope.SUBMIT, 400),
    ("POST", "/batch-request/", Scope.SUBMIT, 400),
    ("POST", "/task-schedules/", Scope.MANAGE, 400),
    ("POST", "/task-schedules/preview/", Scope.MANAGE, 400),
    ("POST", "/api/data/ingest/", Scope.SUBMIT, 400),
    ("POST", "/api/data/ingest/stream/", Scope.SUBMIT, 415),
    ("POST", "/notifications", Scope.MANAGE, 400),
    ("GET", "/events", Scope.READ, 200),
    ("GET", "/kinds", Scope.READ, 200),
    ("GET", "/queues", Scope.READ, 200),
    ("GET", "/calendars/", Scope.READ, 200),
    *(("GET", path, Scope.READ, 200) for path in LISTS),
]
# Open to everyone.
READ_BY_AUDITORS = {"/audit"}  # See test_audit.
# See test_queues, test_kinds and test_owners.
STEERED_BY_OPERATORS = {"/queues/{queue}", "/kinds/{kind}", "/owners/{username}"}
SHARED_BY_ALL = {"/calendars/{name}/"}  # See test_calendars.
READ_BY_MONITORING = {"/metrics"}  # See test_metrics.
PUBLIC = {"/", "/api/health/", "/api/health/ready/", "/api/schema/", "/swagger/", "/api/docs/"}


@pytest.fixture
def client_of(as_user: AsUser, api: Api) -> Callable[[str], Api]:
    """Makes the client of a role. The owner of everything is named owner."""

    def client(role: str) -> Api:
        if role == "anonymous":
            return api
        if role.startswith("owner"):
            prefix = {"owner, reading": Scope.READ, "owner, submitting": Scope.SUBMIT}.get(role, Scope.MANAGE)
            return as_user("owner", token_prefix=PREFIXES[prefix])
        group = {"viewer": "viewers", "operator": "operators"}.get(role, "")
        return as_user("other", is_staff=role.startswith("staff"), is_superuser=role == "superuser", group=group)

    return client


def of_the_owner() -> dict[str, Any]:
    """One of everything that can be someone's, by the gaps in the paths."""
    ended = create_task(NewTask(a=Decimal(1), b=Decimal(2), owner="owner"))
    put(Job.objects.filter(id=ended.job_id), status=Status.COMPLETED, ready=False, finished_at=timezone.now())
    Record.objects.create(owner="owner", student_id="S-1", first_name="A", last_name="B", email="a@b.org", grade="1")
    notification = Notification(name="hook", via="webhook", target="https://example.org/", owner="owner")
    notifications.create(notification)
    pipeline, cancelled = (submit_pipeline({"a": {"kind": "demo.slices"}}, owner="owner").id for _ in range(2))
    return {
        "notification": notification.id,
        "delivery": notifications.send_test(notification.id).id,
        "pipeline": pipeline,
        "cancelled_pipeline": cancel(cancelled).id,
        "waiting": submit("demo.slices", owner="owner", wait_for="approve").id,
        "job": make_job(owner="owner").id,
        "failed": make_job(Status.FAILED, owner="owner").id,
        "orchestration": make_job(owner="owner", kind="orchestration.two_batches").id,
        "task": create_task(NewTask(a=Decimal(1), b=Decimal(2), owner="owner")).id,
        "ended_task": ended.id,
        "schedule": make_schedule(owner="owner").id,
        "ingestion": accept([{"student_id": "S-1"}], owner="owner").job_id,
    }


@pytest.fixture
def each_role(client_of: Callable[[str], Api]) -> Iterator[tuple[str, Api]]:
    """Each role with its client; what it has done is undone before the next one comes."""

    def turns() -> Iterator[tuple[str, Api]]:
        for role in ROLES:
            before = transaction.savepoint()
            yield role, client_of(role)
            transaction.savepoint_rollback(before)

    return turns()


@pytest.mark.parametrize(("method", "path", "deed", "answer"), REQUESTS)
def test_each_role_may_do_to_anothers_work_what_its_permissions_say(
    each_role: Iterator[tuple[str, Api]], method: str, path: str, deed: int, answer: int
) -> None:
    path = path.format(**of_the_owner())
    moment = timezone.now() - timedelta(days=1)
    body = b'{"from": "%s", "to": "%s", "dry_run": true}' % ((moment.isoformat().encode(),) * 2)
    if not path.endswith("backfill/"):
        body = b'{"priority": 4}' if method == "PATCH" and path.startswith("/jobs/") else b""

    answers = {role: client.send(method, path, body).status_code for role, client in each_role}

    assert answers == {role: answer if may[deed] is OWN else may[deed] for role, may in ROLES.items()}


@pytest.mark.parametrize("path", LISTS)
def test_each_role_finds_in_the_lists_what_it_may_see(each_role: Iterator[tuple[str, Api]], path: str) -> None:
    of_the_owner()

    found = {role: client.get(path) for role, client in each_role}

    assert found.pop("anonymous").status_code == 401
    assert {role: bool(response.json()["results"]) for role, response in found.items()} == {
        role: may[SEE] is OWN for role, may in ROLES.items() if role != "anonymous"
    }


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize(("method", "path", "needed", "answer"), OPEN_TO_USERS)
def test_a_token_goes_as_far_as_its_scope(
    as_user: AsUser, api: Api, scope: Scope, method: str, path: str, needed: Scope, answer: int
) -> None:
    me = as_user("me", token_prefix=PREFIXES[scope])
    path = path.format(me="me")

    response = me.send(method, path)

    reaches = list(Scope).index(scope) >= list(Scope).index(needed)
    assert response.status_code == (answer if reaches else 403), response.content
    assert reaches or f"scope {needed.value}" in response.json()["detail"]
    assert api.send(method, path).status_code == 401


def test_every_path_is_in_the_tables() -> None:
    tried = {shape(path) for _, path, *_ in [*REQUESTS, *OPEN_TO_USERS]} | {
        shape(path) for path in PUBLIC | READ_BY_AUDITORS | STEERED_BY_OPERATORS | SHARED_BY_ALL | READ_BY_MONITORING
    }

    assert {shape(path) for path in our_paths()} - {shape(path) for path in tried} == set()


def our_paths() -> list[str]:
    def below(resolver: Any, prefix: str) -> list[str]:
        found = []
        for each in resolver.url_patterns:
            path = prefix + str(each.pattern)
            if isinstance(each, URLResolver):
                found += [] if path.startswith("admin/") else below(each, path)
            elif isinstance(each, URLPattern):
                found.append("/" + path)
        return found

    return below(get_resolver(), "")


def shape(path: str) -> str:
    """The path with its variable parts alike."""
    variable = ("<", "{", "S-1", "owner", "approve")
    parts = path.partition("?")[0].strip("/").split("/")
    return "/".join("*" if part.startswith(variable) else part for part in parts)


# In another's name


@pytest.mark.parametrize("path", ["/jobs", "/orchestrate/grace"])
def test_work_is_submitted_for_others_by_those_permitted(as_user: AsUser, path: str) -> None:
    make_user("grace")
    body = {"owner": "grace"} if path == "/jobs" else None

    without = as_user("one", is_staff=True, group="operators").post(path, body)
    permitted = as_user("two", permissions=["submit_for_others", "view_job"]).post(path, body)

    assert (without.status_code, permitted.status_code) == (403, 202)
    assert "submit_for_others" in without.json()["detail"]
    assert [job.owner for job in Job.objects.filter(parent=None)] == ["grace"]


@pytest.mark.parametrize("owner", ["nobody", "", "grace\x00"])
def test_jobs_cannot_be_submitted_for_unknown_users(as_user: AsUser, owner: str) -> None:
    response = as_user("root", is_superuser=True).post("/jobs", {"owner": owner})

    assert (response.status_code, pointers(response)) == (400, ["/owner"])
    assert not Job.objects.exists()


def test_orchestrations_cannot_be_started_for_unknown_users(as_user: AsUser) -> None:
    response = as_user("root", is_superuser=True).post("/orchestrate/nobody")

    assert (response.status_code, "no user 'nobody'" in response.json()["detail"]) == (404, True)
    assert not Job.objects.exists()


def test_without_authentication_owners_may_have_any_name(api: Api, settings: Settings) -> None:
    settings.ENV = type(settings.ENV)(SECRET_KEY="x" * 50, REQUIRE_AUTH=False, DEBUG=True)

    assert api.post("/jobs", {"owner": "nobody at all"}).json()["owner"] == "nobody at all"
    assert api.post("/orchestrate/ada").status_code == 202


# What it costs, and what comes with Muster


def test_a_plain_users_permissions_are_not_asked_for(
    as_user: AsUser, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    ada, job = as_user("ada"), make_job(owner="ada")
    ada.get(f"/jobs/{job.id}")

    # The token with its user, and the job.
    with django_assert_num_queries(2):
        assert ada.get(f"/jobs/{job.id}").status_code == 200


def test_tracebacks_are_for_those_who_may_see_attempts(as_user: AsUser) -> None:
    job = make_job(Status.FAILED, owner="ada")
    make_attempt(job, traceback="Traceback …")

    seen = [
        "traceback" in client.get(f"/jobs/{job.id}").json()["attempts"][0]
        for client in (as_user("ada"), as_user("v", group="viewers"), as_user("j", permissions=["view_job"]))
    ]

    assert seen == [False, True, False]


def test_the_groups_are_made_once_and_stay_as_they_are_changed() -> None:
    operators = Group.objects.get(name="operators")
    operators.permissions.set([])
    Group.objects.get(name="viewers").delete()

    create_groups()

    viewers = set(Group.objects.get(name="viewers").permissions.values_list("codename", flat=True))
    assert {"view_job", "view_task", "view_taskschedule", "view_ingestion", "view_record"} <= viewers
    assert all(name.startswith("view_") for name in viewers)
    assert not operators.permissions.exists()


def test_operators_cancel_retry_and_pause() -> None:
    names = set(Group.objects.get(name="operators").permissions.values_list("codename", flat=True))

    assert {name for name in names if not name.startswith("view_")} == {
        "cancel_job", "retry_job", "reschedule_job", "signal_job", "exceed_client_limits",
        "pause_kind", "limit_kind", "pause_queue", "pause_ownershare", "add_ownershare", "change_ownershare",
        "cancel_task", "retry_task", "pause_taskschedule", "cancel_ingestion",
    }  # fmt: skip


# The admin, by the same rule


def staff(*, group: str = "", permissions: tuple[str, ...] = ()) -> Client:
    user = User.objects.create(username="staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    user.groups.set(Group.objects.filter(name=group))
    client = Client()
    client.force_login(user)
    return client


ACTIONS = [
    ("orchestrator_job", "cancel_selected"),
    ("orchestrator_job", "retry_selected"),
    ("orchestrator_kind", "pause_selected"),
    ("orchestrator_kind", "resume_selected"),
    ("scheduler_task", "cancel_selected"),
    ("scheduler_task", "run_selected"),
    ("scheduler_taskschedule", "pause_selected"),
    ("scheduler_taskschedule", "resume_selected"),
    ("ingestion_ingestion", "cancel_selected"),
]


@pytest.mark.parametrize(("page", "action"), ACTIONS)
def test_operators_are_offered_the_actions_and_viewers_are_not(page: str, action: str) -> None:
    Kind.objects.create(name="demo.slices", queue="io")
    of_the_owner()
    client = staff(group="operators")
    list_page = reverse(f"admin:{page}_changelist")

    offered = action in client.get(list_page).content.decode()
    User.objects.get(username="staff").groups.set(Group.objects.filter(name="viewers"))
    seen = client.get(list_page)

    assert offered
    assert seen.status_code == 200
    assert action not in seen.content.decode()


def test_the_admin_asks_for_permissions_also_where_the_api_does_not(settings: Settings) -> None:
    settings.ENV = type(settings.ENV)(SECRET_KEY="x" * 50, REQUIRE_AUTH=False, DEBUG=True)
    make_job()
    page = reverse("admin:orchestrator_job_changelist")

    assert staff().get(page).status_code == 403
    User.objects.all().delete()
    assert "cancel_selected" not in staff(group="viewers").get(page).content.decode()


def test_running_schedules_now_takes_a_permission_of_its_own() -> None:
    make_schedule()
    page = reverse("admin:scheduler_taskschedule_changelist")

    assert "run_selected_now" not in staff(group="operators").get(page).content.decode()
    User.objects.all().delete()
    permitted = staff(permissions=("view_taskschedule", "run_taskschedule"))
    assert "run_selected_now" in permitted.get(page).content.decode()


def test_beats_tasks_are_enabled_and_run_by_those_who_may_change_them() -> None:
    task = make_schedule().periodic_task
    assert task is not None
    page = reverse("admin:django_celery_beat_periodictask_changelist")
    viewer = staff(permissions=("view_periodictask",))

    for action in ("disable_tasks", "toggle_tasks", "run_tasks"):
        viewer.post(page, {"action": action, "_selected_action": [task.pk]})

    task.refresh_from_db()
    assert task.enabled
    assert not Job.objects.exists()
    assert "disable_tasks" not in viewer.get(page).content.decode()
    User.objects.get(username="staff").user_permissions.add(Permission.objects.get(codename="change_periodictask"))
    assert "disable_tasks" in viewer.get(page).content.decode()


def test_users_who_may_change_users_cannot_give_themselves_more_permissions(client: Client) -> None:
    root = User.objects.create_superuser("root")
    clerk = staff(permissions=("view_user", "change_user", "delete_user", "add_authtoken", "view_authtoken"))
    me = User.objects.get(username="staff")
    fields = {"username": "staff", "is_active": "on", "is_superuser": "on", "is_staff": "on",
              "date_joined_0": "2030-01-01", "date_joined_1": "00:00:00"}  # fmt: skip

    clerk.post(reverse("admin:auth_user_change", args=[me.pk]), fields)
    password = clerk.post(
        reverse("admin:auth_user_password_change", args=[root.pk]), {"password1": "x" * 20, "password2": "x" * 20}
    )
    clerk.post(reverse("admin:auth_user_delete", args=[root.pk]), {"post": "yes"})
    clerk.post(reverse("admin:auth_user_changelist"), {
        "action": "delete_selected", "_selected_action": [root.pk], "post": "yes"})  # fmt: skip
    clerk.post(reverse("admin:knox_authtoken_add"), {"user": root.pk})

    me.refresh_from_db()
    assert not me.is_superuser
    assert password.status_code == 403
    assert not AuthToken.objects.filter(user=root).exists()
