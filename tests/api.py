"""A client of the API that sends JSON, with a token or without, and the fixtures that make one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import pytest
from django.contrib.auth.models import Group, Permission
from django.test import Client
from knox.models import AuthToken
from pytest_django import Settings

from access.failed_attempts import failures
from orchestrator.http.throttling import requests_counted
from tests.factories import make_user

if TYPE_CHECKING:
    from django.test.client import _MonkeyPatchedWSGIResponse

# What the test client returns.
Response: TypeAlias = "_MonkeyPatchedWSGIResponse"

JSON = "application/json"


@dataclass
class Api:
    """Sends requests as some user, or as nobody."""

    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **headers: str) -> Response:
        return self.send("GET", path, b"", **headers)

    def delete(self, path: str, **headers: str) -> Response:
        return self.send("DELETE", path, b"", **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Response:
        return self.send("POST", path, b"" if body is None else msgspec.json.encode(body), **headers)

    def send(self, method: str, path: str, body: bytes = b"", *, content_type: str = JSON, **headers: str) -> Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return Client().generic(method, path, body, content_type=content_type, headers={**self.headers, **given})


@pytest.fixture
def api() -> Api:
    """Nobody in particular."""
    return Api()


@pytest.fixture
def asks_for_tokens(settings: Settings) -> None:
    """As in production, only users get in; they may submit the demo kinds."""
    settings.ENV = msgspec.structs.replace(settings.ENV, REQUIRE_AUTH=True, DEMO_KINDS=True)


@pytest.fixture
def as_user(db: None) -> Callable[..., Api]:
    """Makes a user and answers a client with the user's token."""

    def client(
        username: str = "ada",
        *,
        token_prefix: str = "",
        permissions: Collection[str] = (),
        group: str = "",
        **columns: Any,
    ) -> Api:
        user = make_user(username, **columns)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        if group:
            user.groups.set([Group.objects.get(name=group)])
        _, token = AuthToken.objects.create(user, prefix=token_prefix)
        return Api({"Authorization": f"Bearer {token}"})

    return client


@pytest.fixture(autouse=True)
def unthrottled() -> Iterator[None]:
    """No test is counted against another."""
    yield
    requests_counted.clear()
    failures.clear()


def pointers(response: Response) -> list[str]:
    return [error["pointer"] for error in response.json()["errors"]]
