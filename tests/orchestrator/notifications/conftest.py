"""A receiver of webhooks, and notifications."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from pytest_django import Settings

from orchestrator.models import Notification
from orchestrator.notifications import services
from tests.orchestrator.notifications.receiver import Receiver

Notify = Callable[..., Notification]


@pytest.fixture
def receiver(settings: Settings) -> Iterator[Receiver]:
    """On this machine, to which messages may be sent."""
    settings.ENV = msgspec.structs.replace(settings.ENV, WEBHOOK_PRIVATE_NETWORKS="127.0.0.0/8")
    started = Receiver().start()
    yield started
    started.stop()


@pytest.fixture
def notify(receiver: Receiver) -> Notify:
    """Makes a notification, by default a webhook to the receiver for every job."""

    def make(**columns: Any) -> Notification:
        given = {"name": "hook", "via": "webhook", "target": receiver.url} | columns
        notification = Notification(**given)
        services.create(notification)
        return notification

    return make
