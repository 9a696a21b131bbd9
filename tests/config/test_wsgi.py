"""How Django answers behind granian."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import RequestFactory
from django.urls import URLResolver, get_resolver

from config.wsgi import application

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(("path", "times"), [("/jobs", 1), ("/tasks/", 1), ("/tasks", 2)])
def test_a_path_is_resolved_once_in_each_of_its_forms(monkeypatch: pytest.MonkeyPatch, path: str, times: int) -> None:
    resolved: list[str] = []
    resolve = URLResolver.resolve

    def noted(resolver: URLResolver, part: Any) -> Any:
        if resolver is get_resolver():
            resolved.append(part)
        return resolve(resolver, part)

    monkeypatch.setattr(URLResolver, "resolve", noted)
    statuses: list[str] = []
    environ = RequestFactory().generic("POST", path, b"not JSON", content_type="application/json").environ

    application(environ, lambda status, *_: statuses.append(status))

    assert len(resolved) == times
    assert statuses == ["400 Bad Request"]
