"""What becomes of work while the broker answers, but with errors, nonsense, or messages that are none."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from amqp import Message
from amqp.exceptions import ChannelError
from kombu import Connection

from config.local.ports import free_port
from config.local.valkey import Valkey
from tests import servers
from tests.chaos.proxy import Proxy
from tests.system.rabbitmq import SERVER, RabbitMQ
from tests.system.stack import Stack, until

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]

SPARED = ("worker-default", "worker-io", "control", "beat", "flower")
STALL_SECONDS = 10
# As long as it takes for a worker that takes refusals for a stall to end.
REFUSED_SECONDS = STALL_SECONDS + 5
NONSENSE_SECONDS = 3
QUEUES = ("default", "io", "control")
CONTROL = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")


def lives(stack: Stack) -> dict[str, psutil.Process]:
    return {name: stack.process(name) for name in SPARED}


def tick_age(stack: Stack) -> float:
    [[seconds]] = stack.query(
        "SELECT extract(epoch FROM clock_timestamp() - ran_at) FROM orchestrator_upkeep WHERE part = 'tick'"
    )
    return float(seconds)


def outlive(
    stack: Stack, refuse: Callable[[], Any], mend: Callable[[], Any], *, seconds: float = REFUSED_SECONDS
) -> None:
    """Work and ticks go on while the broker refuses, no process ends of it, and bells are heard again afterwards."""
    stack.wait_until_ready(120)
    before, began_at = lives(stack), time.monotonic()
    ages: list[float] = []

    refuse()
    try:
        jobs = [stack.submit(kind, {"seconds": 0.1}) for kind in ("tests.wait_in_child", "tests.wait_and_write") * 3]
        ends = [stack.end_of(job_id, 40)["status"] for job_id in jobs]
        while not ages or time.monotonic() - began_at < seconds:
            ages.append(tick_age(stack))
            time.sleep(0.2)
    finally:
        mend()

    assert set(ends) == {"COMPLETED"}
    assert max(ages) < 10
    until(lambda: tick_age(stack) < 2, 5)
    for kind in ("tests.wait_in_child", "tests.wait_and_write"):
        until(partial(stack.starts_at_once, kind), 30)
    assert lives(stack) == before


# Valkey


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with Valkey(servers.new_folder("broker") / "valkey", free_port()) as broker:
        yield broker


@pytest.fixture(scope="module")
def proxy(valkey: Valkey) -> Iterator[Proxy]:
    between = Proxy(valkey.port)
    yield between
    between.stop()


@pytest.fixture(scope="module")
def running(proxy: Proxy) -> Iterator[Stack]:
    settings = {
        "BROKER_URL": f"redis://127.0.0.1:{proxy.port}/0",
        "CONSUMER_STALL_SECONDS": str(STALL_SECONDS),
    }
    with Stack(servers.new_folder("stack") / "data", **settings) as stack:
        yield stack


@pytest.fixture
def server(valkey: Valkey) -> redis.Redis:
    """The broker as its operator reaches it."""
    return redis.Redis.from_url(valkey.url)


def take_keys(server: redis.Redis, *keys: str) -> None:
    """Replaces the broker's keys by some of another type."""
    for key in keys:
        server.delete(key)
        server.set(key, "taken")


def deny(server: redis.Redis, *rights: str) -> None:
    """As ACLs do; what is connected is held to them at once."""
    server.execute_command("ACL", "SETUSER", "default", *rights)


REFUSALS: dict[str, tuple[Callable[[redis.Redis], Any], Callable[[redis.Redis], Any]]] = {
    "a read-only replica": (
        lambda server: server.replicaof("127.0.0.1", str(free_port())),
        lambda server: server.replicaof("NO", "ONE"),
    ),
    "a replica that serves no stale data": (
        lambda server: (
            server.config_set("replica-serve-stale-data", "no"),
            server.replicaof("127.0.0.1", str(free_port())),
        ),
        lambda server: (server.replicaof("NO", "ONE"), server.config_set("replica-serve-stale-data", "yes")),
    ),
    "keys of the wrong type": (
        lambda server: take_keys(server, "muster:unacked", "muster:unacked_index", "muster:unacked_mutex"),
        lambda server: server.delete("muster:unacked", "muster:unacked_index", "muster:unacked_mutex"),
    ),
    "queues of the wrong type": (
        lambda server: take_keys(server, *(f"muster:{queue}" for queue in QUEUES)),
        lambda server: server.delete(*(f"muster:{queue}" for queue in QUEUES)),
    ),
    "no memory": (
        lambda server: server.config_set("maxmemory", "1"),
        lambda server: server.config_set("maxmemory", "0"),
    ),
    "no permission to read": (
        lambda server: deny(server, "-brpop"),
        lambda server: deny(server, "+@all"),
    ),
    "no permission to write": (
        lambda server: deny(server, "-@write"),
        lambda server: deny(server, "+@all"),
    ),
    "another password": (
        lambda server: (server.config_set("requirepass", "secret"), server.client_kill_filter(_type="normal")),
        lambda server: server.config_set("requirepass", ""),
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_work_goes_on_and_no_process_ends_while_valkey_refuses(
    running: Stack, server: redis.Redis, refusal: str
) -> None:
    refuse, mend = REFUSALS[refusal]

    outlive(running, lambda: refuse(server), lambda: mend(server))


@pytest.mark.parametrize(
    "reply",
    [
        b"-LOADING Valkey is loading the dataset in memory\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        b"-MOVED 3999 127.0.0.1:6381\r\n",
        b"-CLUSTERDOWN The cluster is down\r\n",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        b"-EXECABORT Transaction discarded because of previous errors.\r\n",
        b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n",
        b"-NEWKINDOFERROR nobody knows this one\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$1000\r\ncut short",
        b"*2\r\n$5\r\nhello\r\n:12\r\n",
        b":x\r\n",
        b"\x00\xff\xfe\r\n",
    ],
    ids=lambda reply: reply.split()[0].decode(errors="replace"),
)
def test_work_goes_on_and_no_process_ends_whatever_valkey_answers(running: Stack, proxy: Proxy, reply: bytes) -> None:
    outlive(running, lambda: proxy.answer(reply), lambda: proxy.answer(None), seconds=NONSENSE_SECONDS)


NO_MESSAGES = (
    b"",
    b"\x80\x04\x95 not json",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"{}",
    b"[" * 100_000,
    b'{"body": "!!", "properties": {"body_encoding": "base64"}}',
    b'{"body": "e30=", "properties": {"body_encoding": "base64", "delivery_info": null, "delivery_tag": null}}',
    b'{"body": "e30=", "headers": {}, "content-type": "application/json", "content-encoding": "utf-8",'
    b' "properties": {"body_encoding": "rot13", "delivery_info": {}, "delivery_tag": "1"}}',
)
HEADERS: tuple[Any, ...] = (
    None,
    [],
    "text",
    {"task": "tests.write"},
    {"task": ["tests.write"], "id": "1"},
    {"task": "tests.write", "id": {"a": 1}, "timelimit": "nonsense"},
    {"task": "tests.write", "id": "1", "timelimit": [None, None], "eta": "whenever", "expires": []},
    {"task": "tests.write", "id": "1", "lang": 5, "argsrepr": {}, "retries": "many", "timelimit": [None]},
)


def test_malformed_messages_are_dropped_and_no_worker_ends(running: Stack, server: redis.Redis) -> None:
    running.wait_until_ready(120)
    before = lives(running)

    for queue in QUEUES:
        for number, headers in enumerate(HEADERS):
            server.lpush(f"muster:{queue}", as_kombu_writes(headers, queue, str(number)))
        server.lpush(f"muster:{queue}", *(b"x" if raw == b"" else raw for raw in NO_MESSAGES))
    for raw in NO_MESSAGES:
        server.publish("muster:/0.celery.pidbox", raw)

    until(lambda: not any(server.llen(f"muster:{queue}") > 1 for queue in QUEUES), 60)
    for kind in ("tests.wait_in_child", "tests.wait_and_write"):
        until(partial(running.starts_at_once, kind), 30)
    assert lives(running) == before


def as_kombu_writes(headers: Any, queue: str, tag: str) -> bytes:
    return json.dumps(
        {
            "body": "W1tdLCB7fSwge31d",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": queue},
                "delivery_mode": 2,
                "delivery_tag": tag,
                "priority": "urgent",
            },
        }
    ).encode()


# RabbitMQ


class Rabbit(RabbitMQ):
    """A node with its operator's hands on it."""

    def __init__(self) -> None:
        super().__init__(servers.new_folder("broker") / "rabbitmq")
        self.undo = ExitStack()

    def control(self, *command: str) -> None:
        subprocess.run([str(CONTROL), *command], env=self._environment(), check=True, capture_output=True, timeout=60)

    def control_anew(self, *command: str) -> None:
        """For whoever is connected, too."""
        self.control(*command)
        self.close_connections()

    def close_connections(self) -> None:
        self.control("close_all_connections", "a test")

    @contextmanager
    def channel(self) -> Iterator[Any]:
        with Connection(self.url) as link, link.channel() as channel:
            yield channel

    def replace_queues(self, **options: Any) -> None:
        """Deletes the queues under their consumers, and declares others of their names, if it comes first."""
        channel = self.undo.enter_context(self.channel())
        for queue in QUEUES:
            with suppress(ChannelError):
                channel.queue_delete(queue)
                channel.queue_declare(queue, auto_delete=False, **options)

    def delete_queues(self) -> None:
        self.undo.close()
        with self.channel() as channel:
            for queue in QUEUES:
                channel.queue_delete(queue)


@pytest.fixture(scope="module")
def rabbit() -> Iterator[Rabbit]:
    if not SERVER.exists():
        pytest.skip("There is no RabbitMQ: apt-get install rabbitmq-server")
    broker = Rabbit()
    with broker:
        yield broker
    broker.destroy()


@pytest.fixture(scope="module")
def rabbit_proxy(rabbit: Rabbit) -> Iterator[Proxy]:
    between = Proxy(rabbit.port)
    yield between
    between.stop()


@pytest.fixture(scope="module")
def on_rabbit(rabbit_proxy: Proxy) -> Iterator[Stack]:
    url = f"amqp://guest:guest@127.0.0.1:{rabbit_proxy.port}//"
    with Stack(
        servers.new_folder("stack") / "data",
        BROKER_URL=url,
        CACHE_URL="",
        CONSUMER_STALL_SECONDS=str(STALL_SECONDS),
    ) as stack:
        yield stack


RABBIT_REFUSALS: dict[str, tuple[Callable[[Rabbit], Any], Callable[[Rabbit], Any]]] = {
    "queues with other arguments (PRECONDITION_FAILED)": (
        lambda rabbit: rabbit.replace_queues(arguments={"x-max-length": 5}),
        lambda rabbit: rabbit.delete_queues(),
    ),
    "queues that are another's (RESOURCE_LOCKED)": (
        lambda rabbit: rabbit.replace_queues(exclusive=True),
        lambda rabbit: rabbit.undo.close(),
    ),
    "no permissions (ACCESS_REFUSED)": (
        lambda rabbit: rabbit.control_anew("set_permissions", "guest", "^$", "^$", "^$"),
        lambda rabbit: rabbit.control("set_permissions", "guest", ".*", ".*", ".*"),
    ),
    "another password": (
        lambda rabbit: rabbit.control_anew("change_password", "guest", "other"),
        lambda rabbit: rabbit.control("change_password", "guest", "guest"),
    ),
    "no memory, so that publishers are blocked": (
        lambda rabbit: rabbit.control("set_vm_memory_high_watermark", "absolute", "1MB"),
        lambda rabbit: rabbit.control("set_vm_memory_high_watermark", "0.4"),
    ),
    "no application on the node": (
        lambda rabbit: rabbit.control("stop_app"),
        lambda rabbit: rabbit.control("start_app"),
    ),
}


@pytest.mark.parametrize("refusal", RABBIT_REFUSALS)
def test_work_goes_on_and_no_process_ends_while_rabbitmq_refuses(
    on_rabbit: Stack, rabbit: Rabbit, refusal: str
) -> None:
    refuse, mend = RABBIT_REFUSALS[refusal]

    outlive(on_rabbit, lambda: refuse(rabbit), lambda: mend(rabbit))


def test_queues_deleted_under_their_consumers_are_declared_again(on_rabbit: Stack, rabbit: Rabbit) -> None:
    outlive(on_rabbit, rabbit.delete_queues, lambda: None, seconds=NONSENSE_SECONDS)


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00" * 100, b"AMQP\x01\x01\x00\x0a"])
def test_work_goes_on_and_no_process_ends_whatever_rabbitmq_answers(
    on_rabbit: Stack, rabbit_proxy: Proxy, reply: bytes
) -> None:
    def mend() -> None:
        rabbit_proxy.answer(None)
        rabbit_proxy.reset()

    outlive(on_rabbit, lambda: rabbit_proxy.answer(reply), mend, seconds=NONSENSE_SECONDS)


def test_malformed_messages_of_rabbitmq_are_dropped_and_no_worker_ends(on_rabbit: Stack, rabbit: Rabbit) -> None:
    on_rabbit.wait_until_ready(120)
    before = lives(on_rabbit)

    with rabbit.channel() as channel:
        for queue in QUEUES:
            for body in (b"", b"\x80\x04\x95 no json", b"[]", b"[[], {}, {}]", b"[" * 100_000):
                for headers in (each for each in HEADERS if isinstance(each, dict)):
                    for content_type in (None, "application/json", "application/x-python-serialize", "no/thing"):
                        message = Message(body, content_type=content_type, application_headers=headers)
                        channel.basic_publish(message, routing_key=queue)

    for kind in ("tests.wait_in_child", "tests.wait_and_write"):
        until(partial(on_rabbit.starts_at_once, kind), 60)
    assert lives(on_rabbit) == before
