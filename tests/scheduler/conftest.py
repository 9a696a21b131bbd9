"""What tests of the scheduler use: a client of the API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.test import Client

from scheduler.services.periodic_tasks import follower
from tests.api import api, as_user, asks_for_tokens, unthrottled
from tests.orchestrator.workbench import kind

__all__ = ["api", "as_user", "asks_for_tokens", "kind", "unthrottled"]


@pytest.fixture
def admin_client(db: None) -> Client:
    """As pytest-django's, but without the second that it takes to hash a password."""
    client = Client()
    client.force_login(User.objects.create(username="admin", is_staff=True, is_superuser=True))
    return client


@pytest.fixture(autouse=True)
def beat_unknown() -> Iterator[None]:
    """No test takes what another has seen of Beat for its own."""
    follower.followed_until = None
    yield
    follower.followed_until = None
