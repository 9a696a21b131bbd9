"""Known traps of Celery and its brokers, set off on purpose. docs/celery-traps.md lists them all."""

from __future__ import annotations

import psutil
import pytest
import redis
from celery import Celery

from tests.system.stack import Stack, until

pytestmark = pytest.mark.slow

# What a queue, its bindings and the flag of a lying bell are called in Valkey; nothing else may stay there.
KEYS = ("muster:_kombu.", "muster:1:bell:", "muster:default", "muster:io", "muster:control", "muster:unacked")


def keys(broker: redis.Redis) -> set[str]:
    return {key.decode() for key in broker.scan_iter("*")}


def test_messages_of_unknown_tasks_and_of_no_task_at_all_are_dropped_without_harm(stack: Stack) -> None:
    before = {name: stack.process(name).pid for name in ("worker-default", "worker-io", "control")}
    with Celery(broker=stack.broker_url, set_as_current=False) as sender, sender.connection_for_write() as link:
        link.transport_options = {"global_keyprefix": "muster:"}
        for queue in ("default", "io", "control"):
            producer = sender.amqp.Producer(link)
            for body, headers in (
                ([[], {}, {}], {"task": "no.such.task", "id": "1"}),
                ("nonsense", {}),
                ([[], {}, {}], {"task": None, "id": None}),
            ):
                producer.publish(body, routing_key=queue, exchange="", headers=headers, serializer="json")
            producer.publish(
                b"\x80not a pickle",
                routing_key=queue,
                exchange="",
                content_type="application/x-python-serialize",
                content_encoding="binary",
            )
            producer.publish(
                b"{not json", routing_key=queue, exchange="", content_type="application/json", content_encoding="utf-8"
            )

    broker = redis.Redis.from_url(stack.broker_url)
    until(lambda: not any(broker.llen(f"muster:{queue}") for queue in ("default", "io")), 30)
    jobs = [stack.submit(kind, {"seconds": 0}) for kind in ("tests.wait_in_child", "tests.wait_and_write")]
    assert {stack.end_of(job_id)["status"] for job_id in jobs} == {"COMPLETED"}
    assert {name: stack.process(name).pid for name in before} == before


def test_the_broker_keeps_nothing_of_jobs_that_have_ended(stack: Stack) -> None:
    broker = redis.Redis.from_url(stack.broker_url)
    # What a process held when it was killed comes back after the visibility timeout; other tests kill some.
    left_by_killed_processes = set(broker.hkeys("muster:unacked"))

    jobs = [stack.submit("tests.write") for _ in range(150)]
    jobs += [stack.submit("tests.wait_and_write", {"seconds": 0}) for _ in range(50)]
    for job_id in jobs:
        stack.end_of(job_id)

    until(lambda: not any(broker.llen(f"muster:{queue}") for queue in ("default", "io")), 30)
    until(lambda: set(broker.hkeys("muster:unacked")) <= left_by_killed_processes, 30)
    assert {key for key in keys(broker) if not key.startswith(KEYS)} == set()
    assert len(keys(broker)) < 30
    assert broker.llen("muster:control") <= 1


def test_children_forked_early_or_late_inherit_no_database_connection(stack: Stack) -> None:
    parent = stack.process("worker-default")
    port = int(stack.ports["POSTGRES_PORT"])
    early = [database_connections(child, port) for child in parent.children()]
    for child in parent.children():
        child.kill()
    until(
        lambda: len(parent.children()) == 2 and all(database_connections(each, port) for each in parent.children()), 60
    )
    for _ in range(4):
        stack.end_of(stack.submit("tests.wait_in_child", {"seconds": 0.1}))

    late = [database_connections(child, port) for child in parent.children()]

    assert database_connections(parent, port) == set(), "there is none to inherit"
    assert all(early + late)
    assert not set.intersection(*early)
    assert not set.intersection(*late)


def test_workers_keep_their_connections_from_one_message_to_the_next(stack: Stack) -> None:
    def sessions() -> int:
        return int(stack.query("SELECT sessions FROM pg_stat_database WHERE datname = current_database()")[0][0])

    before = sessions()
    for _ in range(20):
        stack.end_of(stack.submit("tests.wait_in_child", {"seconds": 0}))

    assert sessions() - before < 15


def database_connections(process: psutil.Process, port: int) -> set[int]:
    """This end's ports of its connections to PostgreSQL; none of a process that has just ended."""
    try:
        return {one.laddr.port for one in process.net_connections("tcp") if one.raddr and one.raddr.port == port}
    except psutil.NoSuchProcess:
        return set()
