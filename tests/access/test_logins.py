"""Log-ins to the admin and wrong tokens: throttled, logged, bounded; and nobody locks an operator out."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest
from django.test import Client
from pytest_django import Settings

from access import logins
from tests.api import Api, Response
from tests.factories import make_user

pytestmark = pytest.mark.django_db

LOGIN = "/admin/login/"
GOOD = "right horse battery"
HOME, AWAY = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def operator() -> None:
    user = make_user("root", is_staff=True, is_superuser=True)
    user.set_password(GOOD)
    user.save()


def log_in(password: str, address: str = HOME, username: str = "root", **data: str) -> Response:
    form = {"username": username, "password": password, **data}
    return Client().post(LOGIN, form, REMOTE_ADDR=address)


@pytest.mark.usefixtures("operator")
def test_after_five_failures_an_account_cannot_be_tried_from_that_address() -> None:
    answers = [log_in("wrong").status_code for _ in range(5)]

    refused = log_in(GOOD)

    assert answers[:4] == [200] * 4
    assert (refused.status_code, int(refused["Retry-After"]) > 600) == (429, True)
    assert "Try again in 15 minutes" in refused.content.decode()


@pytest.mark.usefixtures("operator")
def test_nobody_can_lock_an_operator_out_from_elsewhere() -> None:
    for _ in range(6):
        log_in("wrong", AWAY)

    assert log_in(GOOD, HOME).status_code == 302


@pytest.mark.usefixtures("operator")
def test_an_address_that_tries_many_accounts_must_wait(settings: Settings) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, MAX_FAILED_LOGINS_PER_MINUTE=3)
    for number in range(3):
        log_in("wrong", username=f"user{number}")

    assert log_in(GOOD).status_code == 429
    assert log_in(GOOD, AWAY).status_code == 302


@pytest.mark.usefixtures("operator")
def test_each_failure_is_logged_with_its_address_and_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    log_in("s3cret-guess", "203.0.113.7")

    [line] = [record.getMessage() for record in caplog.records if record.name == "access.logins"]
    assert "'root' from 203.0.113.7" in line
    assert "s3cret-guess" not in caplog.text


@pytest.mark.usefixtures("operator")
def test_no_more_log_ins_than_allowed_are_under_way_at_once() -> None:
    taken = [logins.places.acquire(blocking=False) for _ in range(logins.MAX_LOGINS_AT_ONCE)]
    try:
        refused = log_in(GOOD)
    finally:
        for _ in filter(None, taken):
            logins.places.release()

    assert (refused.status_code, refused["Retry-After"]) == (429, "6")
    assert log_in(GOOD).status_code == 302


def test_passwords_are_hashed_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, lock = [0], [0], threading.Lock()
    both = threading.Barrier(3)

    def login() -> None:
        both.wait(10)
        with logins.place() as has_place:
            assert has_place
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            threading.Event().wait(0.05)
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=login) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert most == [1]


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize(
    ("asked", "led"),
    [
        ("/nowhere", "/admin/"),
        ("https://evil.example/", "/admin/"),
        ("//evil.example", "/admin/"),
        ("/admin/orchestrator/job/?status=FAILED", "/admin/orchestrator/job/?status=FAILED"),
    ],
)
def test_a_log_in_leads_to_a_page_that_exists(asked: str, led: str) -> None:
    assert log_in(GOOD, next=asked)["Location"] == led


@pytest.mark.usefixtures("asks_for_tokens")
def test_an_address_with_many_wrong_tokens_must_wait_but_who_was_let_in_before_need_not(
    settings: Settings, as_user: Callable[..., Api]
) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, MAX_FAILED_LOGINS_PER_MINUTE=3)
    known, new = as_user("ada"), as_user("grace")
    assert known.get("/jobs").status_code == 200

    wrong = [Api({"Authorization": f"Bearer {number}"}).get("/jobs") for number in range(4)]

    assert [answer.status_code for answer in wrong] == [401, 401, 401, 429]
    assert 0 < int(wrong[-1]["Retry-After"]) <= 60
    assert known.get("/jobs").status_code == 200
    assert new.get("/jobs").status_code == 429
    assert new.get("/jobs", X_Forwarded_For="203.0.113.9").status_code == 429
