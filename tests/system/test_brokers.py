"""The same on Valkey and on RabbitMQ: a message carries no work and no priority, so nothing depends on the broker."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
from kombu import Connection, Queue

from config.celery import QUEUE_ARGUMENTS
from config.embedded import Server
from tests import servers
from tests.system.rabbitmq import RabbitMQ
from tests.system.stack import Stack, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one_worker(any_broker: Server) -> Iterator[Stack]:
    """A stack whose default queue one process serves, on each broker in turn."""
    settings = {"WORKER_PROCESSES": "1", "BROKER_URL": any_broker.url}
    if isinstance(any_broker, RabbitMQ):
        settings["QUORUM_QUEUES"] = "true"
    with Stack(servers.new_folder("stack") / "data", **settings) as stack:
        yield stack


def test_the_doctor_finds_a_running_stack_well(one_worker: Stack) -> None:
    report = one_worker.manage("doctor", "--json")

    assert report.returncode == 0, report.stdout + report.stderr
    checks = {check["name"]: check for check in json.loads(report.stdout)["checks"]}
    assert {name: check["found"] for name, check in checks.items() if check["level"] != "ok"} == {}
    assert checks["broker"]["found"].startswith("RabbitMQ" if "amqp" in one_worker.broker_url else "Valkey")


def test_an_orchestration_runs_to_its_end(one_worker: Stack) -> None:
    job_id = one_worker.post("/orchestrate/ada").json()["job_id"]

    ended = one_worker.end_of(job_id)

    assert ended["status"] == "COMPLETED"
    assert set(ended["result"]) == {"first_batch", "second_batch"}


def test_a_thousand_shuffled_tasks_finish_in_the_order_of_their_priority(one_worker: Stack) -> None:
    priorities = [number % 10 for number in range(1_000)]
    random.shuffle(priorities)
    busy = one_worker.submit("tests.wait_deaf", {"seconds": 3})
    one_worker.running(busy)

    answer = one_worker.post("/tasks/batch-request/", [{"a": 1, "b": 2, "priority": each} for each in priorities])

    ids = [task["id"] for task in answer.json()["tasks"]]
    finished = until(lambda: finished_priorities(one_worker, ids), 60)
    assert finished == sorted(priorities)


def finished_priorities(stack: Stack, ids: list[str]) -> list[int]:
    """The priorities of the tasks in the order in which they finished, once all have."""
    rows = stack.query(
        "SELECT task.priority FROM scheduler_task task JOIN orchestrator_job job ON job.id = task.job_id"
        " WHERE task.id = ANY(%s::uuid[]) AND job.status = 'COMPLETED' ORDER BY job.finished_at",
        ids,
    )
    return [priority for [priority] in rows] if len(rows) == len(ids) else []


def test_a_queue_of_rabbitmq_holds_no_more_than_its_bound(any_broker: Server) -> None:
    if not isinstance(any_broker, RabbitMQ):
        pytest.skip("Valkey does not bound its lists.")
    with Connection(any_broker.url) as link, link.channel() as channel:
        queue = Queue("unread", channel=channel, queue_arguments=QUEUE_ARGUMENTS)
        queue.declare()
        for _ in range(QUEUE_ARGUMENTS["x-max-length"] + 50):
            link.Producer(channel).publish("bell", routing_key="unread")

        held = until(lambda: channel.queue_declare("unread", passive=True).message_count, 20)
        queue.delete()

    assert held <= QUEUE_ARGUMENTS["x-max-length"]
