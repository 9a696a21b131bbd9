"""Every refusal is a problem that says what was wrong; nothing is half done, and no traceback leaves."""

from __future__ import annotations

import logging
from io import BytesIO
from typing import Any

import msgspec
import pytest
from django.db import OperationalError, connection
from django.test import Client
from pytest_django import Settings

from orchestrator import queries, submission
from orchestrator.http.throttling import AddressThrottle, Counts, MinuteThrottle, UserThrottle
from orchestrator.models import Job
from tests.api import JSON, Api, Response, pointers
from tests.factories import make_job

pytestmark = pytest.mark.django_db


def assert_problem(response: Response, status: int) -> dict[str, Any]:
    assert (response.status_code, response["Content-Type"]) == (status, "application/problem+json")
    problem = response.json()
    assert problem.keys() - {"errors"} == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert problem["detail"]
    return dict(problem)


@pytest.mark.parametrize("path", ["/nothing", "/jobs/a/b/c", "/api", "/api/nothing/"])
def test_an_unknown_path_is_a_404(api: Api, path: str) -> None:
    assert_problem(api.get(path), 404)
    assert_problem(api.post(path, {}), 404)


@pytest.mark.parametrize(
    "path", ["/task\x00s", "/jobs/%00", "/jobs?owner=%00", "/jobs?owner=%FF", "/jobs?%ED%A0%80=1"]
)
def test_an_address_with_a_nul_or_invalid_utf_8_is_a_400(api: Api, path: str) -> None:
    assert "NUL" in assert_problem(api.get(path), 400)["detail"]


@pytest.mark.parametrize(
    ("query", "found"),
    [("owner=%00", ["/owner"]), ("kind=a&owner=%FF&kind%00=b", ["/owner", "/kind\0"]), ("%ED%A0%80", ["/???"])],
)
def test_a_parameter_with_a_nul_or_invalid_utf_8_is_pointed_at(api: Api, query: str, found: list[str]) -> None:
    assert pointers(api.get(f"/jobs?{query}")) == found


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/jobs", "GET, POST, HEAD, OPTIONS"),
        ("GET", "/orchestrate/ada", "POST, OPTIONS"),
        ("POST", "/kinds", "GET, HEAD, OPTIONS"),
        ("PUT", "/jobs/01980c5e-7a00-7000-8000-000000000000", "GET, PATCH, DELETE, HEAD, OPTIONS"),
        ("DELETE", "/api/health/", "GET, HEAD, OPTIONS"),
        ("BREW", "/jobs", "GET, POST, HEAD, OPTIONS"),
    ],
)
def test_a_405_says_what_is_allowed(api: Api, method: str, path: str, allowed: str) -> None:
    response = api.send(method, path)

    assert_problem(response, 405)
    assert response["Allow"] == allowed


@pytest.mark.parametrize("path", ["/", "/metrics", "/metrics/", "/swagger/", "/api/docs/", "/api/schema/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "CONNECT", "TRACE", "BREW"])
def test_pages_that_are_only_read_refuse_other_methods_as_such(method: str, path: str) -> None:
    response = Client(enforce_csrf_checks=True).generic(method, path)

    assert_problem(response, 405)
    assert "GET, HEAD" in response["Allow"]


def test_an_accept_header_without_json_is_refused_with_the_reason(api: Api) -> None:
    assert "application/json" in assert_problem(api.get("/jobs", Accept="text/html"), 406)["detail"]


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "x", ""]
)
def test_a_body_without_the_content_type_of_json_is_refused_with_advice(api: Api, content_type: str) -> None:
    response = api.send("POST", "/jobs", b"{}", content_type=content_type)

    assert "application/json" in assert_problem(response, 415)["detail"]
    assert not Job.objects.exists()


def test_json_may_name_its_encoding(api: Api) -> None:
    assert api.send("POST", "/jobs", b"{}", content_type="application/json; charset=utf-8").status_code == 202


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"true", b"null", b"[{}]"])
def test_a_body_that_is_not_an_object_is_refused(api: Api, body: bytes) -> None:
    for path in ("/jobs", "/orchestrate/ada"):
        assert "object" in assert_problem(api.send("POST", path, body), 400)["detail"]


@pytest.mark.parametrize("body", [b'{"kind"', b"{'kind': 1}", b'{"priority": NaN}', b"\xff", b'{"a": "\\ud800"}'])
def test_malformed_json_is_refused_wherever_it_is_sent(api: Api, body: bytes) -> None:
    for path in ("/jobs", "/orchestrate/ada", f"/jobs/{make_job().id}/retry"):
        assert_problem(api.send("POST", path, body), 400)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"kind": "demo.slice"}, "/kind"),
        ({"kind": 5}, "/kind"),
        ({"kind": None}, "/kind"),
        ({"kind": ""}, "/kind"),
        ({"kind": "x" * 101}, "/kind"),
        ({"payload": {"slices": 0}}, "/payload/slices"),
        ({"payload": {"slices": "5"}}, "/payload/slices"),
        ({"payload": {"speed": 1}}, "/payload"),
        ({"payload": []}, "/payload"),
        ({"priority": 10}, "/priority"),
        ({"priority": -1}, "/priority"),
        ({"priority": "5"}, "/priority"),
        ({"priority": 5.5}, "/priority"),
        ({"priority": True}, "/priority"),
        ({"priority": 10**99}, "/priority"),
        ({"max_attempts": 0}, "/max_attempts"),
        ({"max_attempts": 1_001}, "/max_attempts"),
        ({"run_at": "tomorrow"}, "/run_at"),
        ({"run_at": 7}, "/run_at"),
        ({"run_at": "2030-01-31T12:00:00"}, "/run_at"),
        ({"run_at": "2030-01-31"}, "/run_at"),
        ({"run_at": "9999-12-31T23:59:59Z"}, "/run_at"),
        ({"run_at": "0001-01-01T00:00:00+23:59"}, "/run_at"),
        ({"owner": "x" * 151}, "/owner"),
        ({"owner": 7}, "/owner"),
        ({"owner": "a\x00"}, "/owner"),
        ({"colour": "red"}, "/colour"),
        ({"a/b~c": 1}, "/a~1b~0c"),
    ],
    ids=str,
)
def test_bad_input_is_refused_with_the_pointer_to_it(api: Api, body: dict[str, Any], pointer: str) -> None:
    response = api.post("/jobs", body)

    assert_problem(response, 400)
    assert pointers(response) == [pointer]
    assert not Job.objects.exists()


def test_all_errors_are_reported_at_once(api: Api) -> None:
    response = api.post("/jobs", {"priority": 10, "max_attempts": 0, "colour": "red"})

    assert set(pointers(response)) == {"/priority", "/max_attempts", "/colour"}


def test_a_kind_is_suggested_for_a_typing_error(api: Api) -> None:
    assert "demo.slices" in api.post("/jobs", {"kind": "demo.slice"}).json()["detail"]


def test_a_body_that_is_too_large_is_refused_unread(api: Api, settings: Settings) -> None:
    class Unread(BytesIO):
        def read(self, *_: Any) -> bytes:
            raise AssertionError("It was read.")

    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000
    environ: Any = {"wsgi.input": Unread(), "CONTENT_TYPE": JSON, "CONTENT_LENGTH": "10000000"}
    response = Client().post("/jobs", **environ)

    assert_problem(response, 413)


class Chunks(BytesIO):
    """A body without a length."""

    def environ(self) -> dict[str, Any]:
        return {
            "wsgi.input": self, "CONTENT_TYPE": JSON, "CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked",
        }  # fmt: skip


def test_a_body_in_chunks_is_read() -> None:
    response = Client().post("/jobs", **Chunks(b'{"priority": 3}').environ())

    assert (response.status_code, response.json()["priority"]) == (202, 3)


def test_a_body_in_chunks_is_read_no_further_than_allowed(settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, MAX_BODY_BYTES=1_000)
    chunks = Chunks(b" " * 10_000_000)

    assert_problem(Client().post("/jobs", **chunks.environ()), 413)
    assert chunks.tell() == 1_001


def test_a_foreign_host_is_refused_and_is_no_error_in_the_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    assert_problem(api.get("/jobs", Host="evil.example"), 400)

    [logged] = [each for each in caplog.records if each.name.startswith("django.security")]
    assert (logged.levelname, logged.exc_info) == ("WARNING", None)


def test_too_many_query_parameters_are_refused(api: Api) -> None:
    assert_problem(api.get("/jobs?" + "&".join(f"a{n}=1" for n in range(2_000))), 400)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The throttle's time, which the test sets."""
    now = [600.0]
    monkeypatch.setattr(MinuteThrottle, "timer", lambda _: now[0])
    return now


def test_one_request_too_many_in_a_minute_is_refused(
    api: Api, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UserThrottle, "rate", "2/minute", raising=False)

    statuses = [api.get("/kinds").status_code for _ in range(3)]
    refused = api.get("/kinds", X_Forwarded_For="203.0.113.9")

    assert statuses == [200, 200, 429]
    assert_problem(refused, 429)
    assert refused["Retry-After"] == "60"
    assert api.get("/api/health/").status_code == 200


def test_every_response_says_what_is_left_of_the_limit(
    api: Api, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UserThrottle, "rate", "2/minute", raising=False)
    clock[0] = 615.5

    left = [api.get("/kinds")["RateLimit"] for _ in range(3)]

    assert left == [f'"user";r={remaining};t=45' for remaining in (1, 0, 0)]
    assert api.get("/kinds")["RateLimit-Policy"] == '"user";q=2;w=60'
    assert "RateLimit" not in api.get("/api/health/")


def test_an_address_is_refused_before_its_token_is_looked_up(
    api: Api, asks_for_tokens: None, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AddressThrottle, "rate", "2/minute", raising=False)

    answers = [api.get("/kinds", Authorization=f"Bearer {n:064}") for n in range(3)]

    assert [answer.status_code for answer in answers] == [401, 401, 429]
    assert (answers[2]["Retry-After"], answers[2]["RateLimit"]) == ("60", '"address";r=0;t=60')


def test_the_next_minute_is_a_new_one(api: Api, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UserThrottle, "rate", "1/minute", raising=False)

    statuses = []
    for clock[0] in (600.0, 659.0, 660.0):
        statuses.append(api.get("/kinds").status_code)

    assert statuses == [200, 429, 200]


def test_every_user_is_counted_however_many_there_are() -> None:
    counts = Counts()
    for user in range(1_000):
        counts.add(user, 10.0)

    assert counts.add(0, 10.0) == 2


def test_an_unexpected_error_is_a_500_that_only_the_log_explains(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def surprise(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret cause")

    monkeypatch.setattr(queries, "known_kinds", surprise)

    with caplog.at_level(logging.ERROR):
        response = api.get("/kinds")

    assert_problem(response, 500)
    assert b"secret" not in response.content
    assert "RuntimeError: the secret cause" in caplog.text


def test_with_a_read_only_database_writes_are_a_503_and_reads_work(api: Api) -> None:
    job = make_job()
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION READ ONLY")

    refused = api.post("/jobs", {})

    assert api.get(f"/jobs/{job.id}").status_code == 200
    assert_problem(refused, 503)
    assert "Retry-After" in refused


def test_a_database_that_cannot_be_reached_is_a_503_with_when_to_try_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError("connection to 10.0.0.7 failed for user muster")

    monkeypatch.setattr(submission, "submit", fail)

    response = api.post("/jobs")

    assert_problem(response, 503)
    assert int(response["Retry-After"]) > 0
    assert b"10.0.0.7" not in response.content


@pytest.mark.parametrize(
    "path",
    ["/jobs", "/kinds", "/api/health", "/swagger", "/api/docs", "/api/schema", "/jobs/{id}", "/status/ada/{id}"],
)
def test_every_path_is_answered_with_and_without_its_last_slash(api: Api, path: str) -> None:
    job = make_job(kind="orchestration.two_batches", owner="ada")
    path = path.format(id=job.id)

    assert api.get(path, Accept="*/*").status_code == api.get(f"{path}/", Accept="*/*").status_code == 200


def test_a_slash_more_or_less_loses_no_body_and_no_method(api: Api) -> None:
    posted = api.post("/jobs/", {"priority": 2})
    deleted = api.delete(f"/jobs/{posted.json()['job_id']}/")

    assert (posted.status_code, posted.json()["priority"]) == (202, 2)
    assert (deleted.status_code, deleted.json()["status"]) == (200, "CANCELLED")
    assert api.post(f"/jobs/{posted.json()['job_id']}/retry/").status_code == 202
    assert api.post("/orchestrate/ada/").status_code == 202


MANY = b"{" + b",".join(b'"%06d": 1' % number for number in range(100_000)) + b"}"
LONG = b'{"' + b"k" * 1_000_000 + b'": 1}'


@pytest.mark.parametrize("body", [MANY, LONG, b'{"kind": "' + b"k" * 1_000_000 + b'"}'], ids=["many", "long", "value"])
@pytest.mark.parametrize(
    "path", ["/jobs", "/orchestrate/ada", "/tasks/", "/tasks/batch-request/", "/task-schedules/", "/api/data/ingest/"]
)
def test_a_refusal_is_short_however_much_is_wrong(api: Api, path: str, body: bytes) -> None:
    response = api.send("POST", path, body)

    assert_problem(response, 400)
    assert len(response.json()["errors"]) <= 40
    assert len(response.content) < 40_000
