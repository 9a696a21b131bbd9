"""A database of the release before, in which users had no accounts, is brought up to date, and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from pytest_django import Settings

from access.models import Account
from access.permissions import owner_of
from tests.factories import make_job

pytestmark = pytest.mark.django_db(transaction=True)

USER = """
INSERT INTO auth_user (
    username, password, first_name, last_name, email, is_staff, is_superuser, is_active, date_joined
)
VALUES (%s, '', '', '', '', false, false, true, now())
"""


@pytest.fixture
def release_before() -> Iterator[None]:
    """The tables as they were; those of today are there again for the next test."""
    call_command("migrate", "access", "zero", verbosity=0)
    with connection.cursor() as cursor:
        for username in ("ada", "grace"):
            cursor.execute(USER, [username])
    yield
    call_command("migrate", "access", verbosity=0)


@pytest.mark.usefixtures("release_before")
@pytest.mark.parametrize("is_open", [False, True])
def test_users_keep_their_work_and_former_users_names_are_reserved_unless_names_were_free(
    settings: Settings, is_open: bool
) -> None:
    for owner in ("ada", "gone", ""):
        make_job(owner=owner)
    settings.ENV = type(settings.ENV)(SECRET_KEY="x" * 50, REQUIRE_AUTH=not is_open, DEBUG=True)

    call_command("migrate", "access", verbosity=0)

    accounts = dict(Account.objects.values_list("owner", "user__username"))
    assert accounts == {"ada": "ada", "grace": "grace"} | ({} if is_open else {"gone": None})
    again = User.objects.create(username="gone")
    assert owner_of(again) == ("gone" if is_open else f"gone~{again.pk}")
