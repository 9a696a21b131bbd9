"""Who gets in, whose jobs they see, and what a token may do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from knox.models import AuthToken

from access.permissions import require_visible
from access.tokens import READ_ONLY_PREFIX
from orchestrator import queries
from orchestrator.models import Job
from orchestrator.states import Status
from tests.api import JSON, Api
from tests.factories import make_attempt, make_job, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("asks_for_tokens")]

AsUser = Callable[..., Api]

REQUESTS = [
    ("GET", "/jobs"),
    ("POST", "/jobs"),
    ("GET", "/kinds"),
    ("POST", "/orchestrate/ada"),
    ("GET", "/status/ada/01980c5e-7a00-7000-8000-000000000000"),
    ("GET", "/jobs/01980c5e-7a00-7000-8000-000000000000"),
    ("DELETE", "/jobs/01980c5e-7a00-7000-8000-000000000000"),
    ("POST", "/jobs/01980c5e-7a00-7000-8000-000000000000/retry"),
]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
@pytest.mark.parametrize(
    "authorization", [None, "Bearer x", "Bearer", "Bearer a b", "Bearer \xff", "Bearer " + "0" * 64]
)
def test_without_a_valid_token_nobody_gets_in(method: str, path: str, authorization: str | None) -> None:
    response = Api({"Authorization": authorization} if authorization else {}).send(method, path)

    assert (response.status_code, response["Content-Type"]) == (401, "application/problem+json")
    assert response["WWW-Authenticate"] == "Bearer"
    assert not Job.objects.exists()


@pytest.mark.parametrize("path", ["/api/health/", "/api/schema/", "/swagger/", "/api/docs/"])
def test_health_and_documentation_need_no_token(api: Api, path: str) -> None:
    assert api.get(path, Accept="*/*").status_code == 200


def test_a_users_jobs_are_their_own(as_user: AsUser) -> None:
    response = as_user("ada").post("/jobs")

    assert (response.status_code, response.json()["owner"]) == (202, "ada")


def test_a_user_sees_only_their_own_jobs(as_user: AsUser) -> None:
    own, _other = make_job(owner="ada"), make_job(owner="grace")

    jobs = as_user("ada").get("/jobs").json()["results"]

    assert [job["job_id"] for job in jobs] == [str(own.id)]


def test_an_anonymous_user_does_not_see_jobs_without_an_owner() -> None:
    job = make_job(owner="")

    for read in queries.job_detail, queries.version_of:
        with pytest.raises(Job.DoesNotExist):
            read(AnonymousUser(), job.id)
    with pytest.raises(Job.DoesNotExist):
        require_visible(AnonymousUser(), Job, job.id)


def test_anothers_job_is_not_found_and_not_touched(as_user: AsUser) -> None:
    ada, job = as_user("ada"), make_job(owner="grace", kind="orchestration.two_batches")
    failed = make_job(Status.FAILED, owner="grace")

    answers = [
        ada.get(f"/jobs/{job.id}"),
        ada.get(f"/jobs/{job.id}?wait=5"),
        ada.delete(f"/jobs/{job.id}"),
        ada.post(f"/jobs/{failed.id}/retry"),
        ada.get(f"/status/grace/{job.id}"),
        ada.get(f"/status/ada/{job.id}"),
    ]

    assert [answer.status_code for answer in answers] == [404] * 6
    assert set(Job.objects.values_list("status", flat=True)) == {"CREATED", "FAILED"}


def test_nobody_submits_in_anothers_name(as_user: AsUser) -> None:
    ada = as_user("ada")

    assert ada.post("/orchestrate/grace").status_code == 403
    assert ada.post("/jobs", {"owner": "grace"}).status_code == 403
    assert ada.post("/jobs", {"owner": ""}).status_code == 403
    assert not Job.objects.exists()
    assert ada.post("/orchestrate/ada").status_code == 202
    assert ada.post("/jobs", {"owner": "ada"}).status_code == 202


def test_superusers_see_and_touch_everything(as_user: AsUser) -> None:
    staff, job = as_user("root", is_superuser=True), make_job(owner="grace")
    make_user("grace")

    assert staff.get(f"/jobs/{job.id}").status_code == 200
    assert staff.delete(f"/jobs/{job.id}").status_code == 200
    assert staff.post("/orchestrate/grace").status_code == 202
    assert staff.post("/jobs", {"owner": "grace"}).json()["owner"] == "grace"


def test_tracebacks_are_for_those_who_may_see_all_attempts(as_user: AsUser) -> None:
    job = make_job(Status.FAILED, owner="ada")
    make_attempt(job, traceback="Traceback …")

    (for_user,) = as_user("ada").get(f"/jobs/{job.id}").json()["attempts"]
    (for_staff,) = as_user("root", is_superuser=True).get(f"/jobs/{job.id}").json()["attempts"]

    assert "traceback" not in for_user
    assert for_staff["traceback"] == "Traceback …"


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_a_read_only_token_only_reads(as_user: AsUser, method: str, path: str) -> None:
    reader = as_user("ada", token_prefix=READ_ONLY_PREFIX)

    response = reader.send(method, path)

    assert (response.status_code == 403) == (method != "GET")
    assert not Job.objects.exists()


def test_a_read_only_token_cannot_be_made_to_write(as_user: AsUser) -> None:
    reader = as_user("ada", token_prefix=READ_ONLY_PREFIX)

    stripped = Api({"Authorization": reader.headers["Authorization"].replace(READ_ONLY_PREFIX, "")})

    assert stripped.post("/jobs").status_code == 401


def test_an_expired_token_is_refused(as_user: AsUser) -> None:
    ada = as_user("ada")
    AuthToken.objects.update(expiry=timezone.now() - timedelta(seconds=1))

    assert ada.get("/jobs").status_code == 401


def test_a_user_that_was_locked_out_stays_out(as_user: AsUser) -> None:
    assert as_user("ada", is_active=False).get("/jobs").status_code == 401


def test_a_session_reads_and_needs_its_csrf_token_to_write() -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(make_user("ada"))

    assert browser.get("/jobs").status_code == 200
    response = browser.post("/jobs", b"", content_type=JSON)
    assert (response.status_code, response["Content-Type"]) == (403, "application/problem+json")
    assert not Job.objects.exists()


def test_a_token_is_printed_once_and_kept_as_a_hash() -> None:
    make_user("ada")
    out = StringIO()

    call_command("token", "ada", stdout=out, stderr=StringIO())

    token = out.getvalue().strip()
    row = AuthToken.objects.get()
    assert Api({"Authorization": f"Bearer {token}"}).post("/jobs").status_code == 202
    assert token not in (row.digest, row.token_key)
    assert timedelta(days=29) < row.expiry - timezone.now() < timedelta(days=31)


def test_a_token_can_be_made_for_reading_alone_and_for_a_new_user() -> None:
    out = StringIO()

    call_command("token", "grace", "--read-only", "--create", stdout=out, stderr=StringIO())

    reader = Api({"Authorization": f"Bearer {out.getvalue().strip()}"})
    assert reader.get("/jobs").status_code == 200
    assert reader.post("/jobs").status_code == 403


@pytest.mark.parametrize(
    "arguments", [["nobody"], ["a b", "--create"], ["x" * 151, "--create"], ["ada", "--days", "0"]]
)
def test_a_token_is_made_only_for_a_valid_user_and_lifetime(arguments: list[str]) -> None:
    make_user("ada")

    with pytest.raises(CommandError):
        call_command("token", *arguments, stdout=StringIO())

    assert not AuthToken.objects.exists()
