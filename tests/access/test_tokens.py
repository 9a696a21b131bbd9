"""Tokens: made with a name, a scope and an end; used, listed, revoked, and gone with the password."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from io import StringIO

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from knox.models import AuthToken
from pytest_django import DjangoAssertNumQueries

from access import tokens
from access.models import TokenDetails
from access.tokens import BadToken, Scope, create_token
from tests.api import Api
from tests.factories import make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("asks_for_tokens")]

AsUser = Callable[..., Api]


def client_with(token: str) -> Api:
    return Api({"Authorization": f"Bearer {token}"})


def run(*words: str) -> str:
    out = StringIO()
    call_command("token", *words, stdout=out, stderr=StringIO())
    return out.getvalue().strip()


# Their end


@pytest.mark.parametrize("days", [0, -1, 366, float("nan"), float("inf")])
def test_a_token_expires_within_bounds(days: float) -> None:
    with pytest.raises(BadToken, match="at most 365 days"):
        create_token(make_user(), days=days)

    assert not AuthToken.objects.exists()


def test_no_token_lives_longer_than_the_maximum_whatever_it_was_made_with() -> None:
    for expiry in (None, timedelta(days=3_000)):
        _, token = AuthToken.objects.create(make_user(f"of {expiry}"), expiry=expiry)
        assert client_with(token).get("/kinds").status_code == 200

        AuthToken.objects.update(created=timezone.now() - timedelta(days=365, seconds=1))

        assert client_with(token).get("/kinds").status_code == 401
        assert tokens.expired().count() == 1
        AuthToken.objects.all().delete()


def change_with_a_form(user: User) -> None:
    """As the admin and the commands do."""
    user.set_password("another long password")
    user.save()


def change_with_sql(user: User) -> None:
    User.objects.filter(pk=user.pk).update(password="pbkdf2_sha256$1$salt$hash")


def take_the_password_away(user: User) -> None:
    user.set_unusable_password()
    user.save()


def deactivate(user: User) -> None:
    user.is_active = False
    user.save()


def delete(user: User) -> None:
    user.delete()


@pytest.mark.parametrize("end", [change_with_a_form, change_with_sql, take_the_password_away, deactivate, delete])
def test_tokens_are_gone_with_the_password_and_with_the_user(end: Callable[[User], None]) -> None:
    ada, grace = make_user("ada"), make_user("grace")
    gone, kept = create_token(ada)[1], create_token(grace)[1]

    end(ada)

    assert client_with(gone).get("/kinds").status_code == 401
    assert client_with(kept).get("/kinds").status_code == 200
    assert list(AuthToken.objects.values_list("user", flat=True)) == [grace.pk]
    assert TokenDetails.objects.count() == 1


def test_tokens_stay_when_something_else_of_the_user_changes() -> None:
    ada = make_user("ada")
    _, token = create_token(ada)

    ada.last_login, ada.email = timezone.now(), "ada@example.org"
    ada.save()

    assert client_with(token).get("/kinds").status_code == 200


def test_a_user_who_is_active_again_needs_a_new_token() -> None:
    ada = make_user("ada")
    _, token = create_token(ada)

    for is_active in (False, True):
        User.objects.filter(pk=ada.pk).update(is_active=is_active)

    assert client_with(token).get("/kinds").status_code == 401


# Their use


def last_use() -> datetime:
    last_used_at = TokenDetails.objects.get().last_used_at
    assert last_used_at is not None
    return last_used_at


def test_the_last_use_is_noted_once_a_minute(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    _, token = create_token(make_user())
    ada = client_with(token)
    ada.get("/kinds")
    first = last_use()

    with CaptureQueriesContext(connection) as asked:
        ada.get("/kinds")
    TokenDetails.objects.update(last_used_at=first - timedelta(minutes=2))
    ada.get("/kinds")

    assert not [query for query in asked if "INSERT" in query["sql"]]
    assert last_use() > first


def test_a_token_that_was_made_without_details_has_its_use_noted_too() -> None:
    row, token = AuthToken.objects.create(make_user())

    client_with(token).get("/kinds")

    assert TokenDetails.objects.get(token=row).last_used_at


def test_a_token_works_although_its_use_cannot_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = create_token(make_user())
    monkeypatch.setattr(tokens, "NOTE_USE", "SELECT 1 / 0")

    assert client_with(token).get("/kinds").status_code == 200


def test_tokens_with_the_same_beginning_are_distinguished() -> None:
    ada, grace = create_token(make_user("ada")), create_token(make_user("grace"))
    AuthToken.objects.update(token_key=ada[0].token_key)

    found = tokens.find(ada[1])
    assert found is not None
    assert found.user.username == "ada"
    assert tokens.find(ada[1][:15] + grace[1][15:]) is None


@pytest.mark.parametrize("token", ["\x00", "a\x00b", "x" * 10_000, "'", "\x7f"])
def test_malformed_tokens_are_refused(token: str) -> None:
    assert client_with(token).get("/kinds").status_code == 401


# The command


def test_tokens_are_listed_without_what_would_let_anyone_use_them() -> None:
    make_user("ada")
    token = run("ada", "--name", "nightly import", "--scope", "submit")
    client_with(token).get("/kinds")
    run("grace", "--create")

    listed = run("--list").splitlines()

    assert len(listed) == 2
    assert len(run("--list", "ada").splitlines()) == 1
    [line] = [line for line in listed if "ada" in line.split()]
    assert "submit" in line
    assert "nightly import" in line
    assert "last used 2" in line
    assert token not in "".join(listed)


def test_a_token_is_revoked_by_how_it_begins() -> None:
    make_user("ada")
    token, other = run("ada"), run("ada")

    run("--revoke", token[:15])

    assert client_with(token).get("/kinds").status_code == 401
    assert client_with(other).get("/kinds").status_code == 200


@pytest.mark.parametrize("words", [["--revoke", "zzz"], ["--revoke", ""], ["grace", "--revoke", ""], []])
def test_revoking_a_token_that_is_not_found_fails(words: list[str]) -> None:
    make_user("ada")
    run("ada")

    with pytest.raises(CommandError):
        run(*words)

    assert AuthToken.objects.count() == 1


@pytest.mark.parametrize("words", [["ada", "--days", "366"], ["ada", "--name", "x" * 101], ["ada", "--scope", "all"]])
def test_a_token_with_invalid_options_is_not_created(words: list[str]) -> None:
    make_user("ada")

    with pytest.raises(CommandError):
        run(*words)

    assert not AuthToken.objects.exists()


# The admin


def test_a_token_made_in_the_admin_has_an_expiry_a_name_and_a_scope(admin_client: Client, admin_user: User) -> None:
    given = {"user": admin_user.pk, "name": "laptop", "scope": "read", "days": "7"}

    page = admin_client.post(reverse("admin:knox_authtoken_add"), given, follow=True).content.decode()

    row = AuthToken.objects.get()
    assert "TOKEN ro_" in page
    assert (row.details.name, tokens.scope_of(row)) == ("laptop", Scope.READ)
    assert timedelta(days=6) < row.expiry - timezone.now() < timedelta(days=7)
    assert "TOKEN" not in admin_client.get(reverse("admin:knox_authtoken_changelist")).content.decode()


@pytest.mark.parametrize("days", ["", "400", "0", "-3", "nan"])
def test_a_token_made_in_the_admin_always_expires(admin_client: Client, admin_user: User, days: str) -> None:
    admin_client.post(reverse("admin:knox_authtoken_add"), {"user": admin_user.pk, "days": days})

    assert not AuthToken.objects.filter(expiry=None).exists()
    assert AuthToken.objects.count() == (1 if days == "" else 0)


def test_a_token_is_looked_at_and_revoked_in_the_admin(admin_client: Client) -> None:
    row, token = create_token(make_user("ada"), name="laptop")
    page = reverse("admin:knox_authtoken_change", args=[row.pk])

    shown = admin_client.get(page).content.decode()
    admin_client.post(reverse("admin:knox_authtoken_delete", args=[row.pk]), {"post": "yes"})

    assert "laptop" in shown
    assert token not in shown
    assert client_with(token).get("/kinds").status_code == 401


def test_others_tokens_are_for_superusers_to_make() -> None:
    clerk = make_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(codename__in=["add_authtoken", "view_authtoken"]))
    client, root = Client(), make_user("root", is_superuser=True)
    client.force_login(clerk)

    for user in (root, clerk):
        client.post(reverse("admin:knox_authtoken_add"), {"user": user.pk})

    assert list(AuthToken.objects.values_list("user__username", flat=True)) == ["clerk"]
