"""One running stack for all system tests that need one."""

from collections.abc import Iterator

import pytest

from config.local.ports import free_port
from config.local.server import Server
from config.local.valkey import Valkey
from tests import servers
from tests.system.rabbitmq import SERVER, RabbitMQ
from tests.system.stack import Stack


@pytest.fixture(scope="session")
def running_stack() -> Iterator[Stack]:
    with Stack(servers.new_folder("stack") / "data") as stack:
        yield stack


@pytest.fixture
def stack(running_stack: Stack) -> Stack:
    """The stack, whole again after whatever the test before did to it."""
    running_stack.wait_until_ready()
    return running_stack


@pytest.fixture(scope="module", params=["Valkey", "RabbitMQ"])
def any_broker(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A broker that nobody but the test starts again, of each kind in turn."""
    if request.param == "RabbitMQ" and not SERVER.exists():
        pytest.skip("There is no RabbitMQ: apt-get install rabbitmq-server")
    folder = servers.new_folder("broker")
    broker = RabbitMQ(folder / "rabbitmq") if request.param == "RabbitMQ" else Valkey(folder / "valkey", free_port())
    broker.start()
    yield broker
    broker.stop()
    if isinstance(broker, RabbitMQ):
        broker.destroy()
