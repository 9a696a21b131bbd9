"""Whether the broker and the cache can be reached, and keep what they are given."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest
from pytest_django import Settings
from redis import Redis

from config.local.valkey import Valkey
from orchestrator.diagnostics import probes
from orchestrator.diagnostics.checks import Level, ask
from orchestrator.doctor import broker

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_reachable_broker_passes_with_its_version() -> None:
    assert ask(broker.broker).msg.startswith("Valkey 9")


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"])
def test_a_broker_that_is_down_fails(settings: Settings, url: str) -> None:
    settings.ENV = msgspec.structs.replace(settings.ENV, BROKER_URL=url)

    finding = ask(broker.broker)

    assert finding.level == Level.FAIL
    assert "BROKER_URL" in finding.hint


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_accepts_connections_but_never_responds_fails_soon(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(probes, "SERVER_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"{scheme}://127.0.0.1:{mute.getsockname()[1]}//"
        settings.ENV = msgspec.structs.replace(settings.ENV, BROKER_URL=url)
        began = time.monotonic()
        finding = ask(broker.broker)

    assert finding.level == Level.FAIL
    assert time.monotonic() - began < 10


@pytest.fixture
def valkey_memory(valkey: Valkey) -> Iterator[Callable[..., None]]:
    with Redis.from_url(valkey.url) as redis:
        yield lambda limit, policy: redis.config_set("maxmemory", limit, "maxmemory-policy", policy)
        redis.config_set("maxmemory", 0, "maxmemory-policy", "noeviction")


@pytest.mark.parametrize(
    ("limit", "policy", "level", "word"),
    [
        ("1gb", "noeviction", Level.OK, "is reachable"),
        ("1gb", "allkeys-lru", Level.WARN, "allkeys-lru"),
        ("1mb", "noeviction", Level.WARN, "90%"),
    ],
)
def test_a_broker_that_would_evict_bells_or_is_full_is_a_warning(
    valkey_memory: Callable[..., None], limit: str, policy: str, level: Level, word: str
) -> None:
    valkey_memory(limit, policy)

    finding = ask(broker.broker)

    assert finding.level == level
    assert word in finding.msg


def test_a_cache_that_is_down_is_a_warning_and_none_at_all_passes(settings: Settings) -> None:
    assert ask(broker.cache).msg == "It is reachable, and merges bells."

    settings.CACHES = {"default": {"LOCATION": "redis://127.0.0.1:1/0"}}
    assert ask(broker.cache).level == Level.WARN
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    assert ask(broker.cache).level == Level.OK
