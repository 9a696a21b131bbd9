"""A client that speaks JSON, with a token or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from django.http import HttpResponse
from django.test import Client
from knox.models import AuthToken
from pytest_django import Settings

from config.api import requests_counted
from tests.factories import make_user

JSON = "application/json"


@dataclass
class Api:
    """Sends requests as some user, or as nobody."""

    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **headers: str) -> HttpResponse:
        return self.send("GET", path, **headers)

    def delete(self, path: str, **headers: str) -> HttpResponse:
        return self.send("DELETE", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> HttpResponse:
        return self.send("POST", path, b"" if body is None else msgspec.json.encode(body), **headers)

    def send(
        self, method: str, path: str, body: bytes = b"", *, content_type: str = JSON, **headers: str
    ) -> HttpResponse:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return Client().generic(method, path, body, content_type=content_type, headers={**self.headers, **given})


@pytest.fixture
def api() -> Api:
    """Nobody in particular."""
    return Api()


@pytest.fixture
def asks_for_tokens(settings: Settings) -> None:
    """As in production, only users get in."""
    settings.ENV = msgspec.structs.replace(settings.ENV, REQUIRE_AUTH=True)


@pytest.fixture
def as_user(db: None) -> Callable[..., Api]:
    """Makes a user and answers a client with the user's token."""

    def client(username: str = "ada", *, token_prefix: str = "", **columns: Any) -> Api:
        _, token = AuthToken.objects.create(make_user(username, **columns), prefix=token_prefix)
        return Api({"Authorization": f"Bearer {token}"})

    return client


@pytest.fixture(autouse=True)
def unthrottled() -> Iterator[None]:
    """No test is counted against another."""
    yield
    requests_counted.clear()


def pointers(response: HttpResponse) -> list[str]:
    return [error["pointer"] for error in response.json()["errors"]]
