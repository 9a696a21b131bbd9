"""GET /queues and PATCH /queues/{queue}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from django.utils import timezone

from orchestrator.models import Backlog, Kind
from tests.api import Api
from tests.factories import make_worker_row

pytestmark = pytest.mark.django_db


def pause(api: Api, queue: str, body: Any) -> Any:
    return api.send("PATCH", f"/queues/{queue}", msgspec.json.encode(body))


def test_each_queue_is_listed_with_what_waits_runs_and_serves_it(api: Api) -> None:
    now = timezone.now()
    for name, queue in {"a.b": "io", "a.c": "io", "a.d": "old"}.items():
        Kind.objects.create(name=name, queue=queue)
        Backlog.objects.create(kind=name, waiting=2, oldest_since=now, running=1, counted_at=now)
    make_worker_row("io", slots=32)
    make_worker_row("io", slots=32, ended_at=now)

    default, io, old = api.get("/queues").json()["results"]

    assert (default["name"], default["waiting"], default["workers"]) == ("default", 0, 0)
    assert (io["kinds"], io["waiting"], io["running"], io["workers"], io["slots"]) == (2, 4, 2, 1, 32)
    assert (old["name"], old["pool"], old["waiting"]) == ("old", None, 2)


def test_a_queue_is_paused_and_resumed(api: Api) -> None:
    Kind.objects.create(name="a.b", queue="io")

    assert pause(api, "io", {"paused": True}).json()["paused_at"] is not None
    assert Kind.objects.get().paused_at is not None
    assert pause(api, "io", {"paused": False}).json()["paused_at"] is None
    assert Kind.objects.get().paused_at is None


@pytest.mark.parametrize(("queue", "body", "status"), [("oi", {"paused": True}, 404), ("io", {}, 400)])
def test_what_cannot_be_paused_is_refused(api: Api, queue: str, body: Any, status: int) -> None:
    assert pause(api, queue, body).status_code == status


def test_only_operators_pause_queues(as_user: Callable[..., Api], asks_for_tokens: None) -> None:
    assert pause(as_user("ada"), "io", {"paused": True}).status_code == 403
    assert pause(as_user("op", group="operators"), "io", {"paused": True}).status_code == 200
