"""One world for all that hurts the same broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests import servers
from tests.chaos.servers import BROKERS
from tests.chaos.world import World
from tests.system import rabbitmq


@contextmanager
def running_world(broker: str) -> Iterator[World]:
    """A world of the test's own, of which no process may be left."""
    folder = servers.new_folder("chaos")
    world = World(folder, BROKERS[broker](folder / "broker"))
    try:
        yield world
    finally:
        world.stop()
    assert world.left_processes() == []


@pytest.fixture(scope="package")
def world() -> Iterator[World]:
    with running_world("valkey") as world:
        yield world


@pytest.fixture
def rabbitmq_world() -> Iterator[World]:
    if not rabbitmq.SERVER.exists():
        pytest.skip("There is no RabbitMQ: apt-get install rabbitmq-server")
    with running_world("rabbitmq") as world:
        yield world


@pytest.fixture
def without(world: World) -> Iterator[Callable[[str], None]]:
    """Takes a guard away, see tests.sabotage, until the end of the test."""
    taken = []

    def take(guard: str) -> None:
        taken.append(world.sabotage / guard)
        taken[-1].touch()

    try:
        yield take
    finally:
        for path in taken:
            path.unlink()
