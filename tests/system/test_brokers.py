"""The same on Valkey and on RabbitMQ: a message carries no work and no priority, so nothing depends on the broker, and
what Celery's own tools see of jobs is the same: the events that Flower listens to, and remote control.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Queue

from config.celery import QUEUE_ARGUMENTS
from config.local.server import Server
from tests import servers
from tests.system.listener import Listener
from tests.system.rabbitmq import RabbitMQ
from tests.system.stack import CELERY_WORKERS, Stack, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# The events of an attempt that begins.
ONCE = ["received", "started"]


@pytest.fixture(scope="module")
def running(any_broker: Server) -> Iterator[Stack]:
    """A stack whose default queue one process serves, on each broker in turn."""
    settings = {"QUEUES": "default:prefork:1,io:threads:32", "BROKER_URL": any_broker.url}
    if isinstance(any_broker, RabbitMQ):
        settings["QUORUM_QUEUES"] = "true"
    with Stack(servers.new_folder("stack") / "data", **settings) as stack:
        yield stack


@pytest.fixture(scope="module")
def flower(running: Stack) -> Iterator[Listener]:
    listener = Listener(running)
    yield listener
    listener.stop()


def test_the_doctor_passes_a_running_stack(running: Stack) -> None:
    report = running.manage("doctor", "--json")

    assert report.returncode == 0, report.stdout + report.stderr
    checks = {check["name"]: check for check in json.loads(report.stdout)["checks"]}
    assert {name: check["msg"] for name, check in checks.items() if check["level"] != "ok"} == {}
    assert checks["broker"]["msg"].startswith("RabbitMQ" if "amqp" in running.broker_url else "Valkey")


def test_an_orchestration_runs_to_its_end(running: Stack) -> None:
    job_id = running.post("/orchestrate/ada").json()["job_id"]

    ended = running.end_of(job_id)

    assert ended["status"] == "COMPLETED"
    assert set(ended["result"]) == {"first_batch", "second_batch"}


def test_a_thousand_shuffled_tasks_finish_in_the_order_of_their_priority(running: Stack) -> None:
    priorities = [number % 10 for number in range(1_000)]
    random.shuffle(priorities)
    busy = running.submit("tests.wait_deaf", {"seconds": 3})
    running.running(busy)

    answer = running.post("/tasks/batch-request/", [{"a": 1, "b": 2, "priority": each} for each in priorities])

    ids = [task["id"] for task in answer.json()["tasks"]]
    finished = until(lambda: finished_priorities(running, ids), 60)
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
    with Connection(any_broker.url) as link, link.channel() as opened:
        channel: Any = opened
        queue = Queue("unread", channel=channel, queue_arguments=QUEUE_ARGUMENTS)
        queue.declare()
        for _ in range(QUEUE_ARGUMENTS["x-max-length"] + 50):
            link.Producer(channel).publish("bell", routing_key="unread")

        held = until(lambda: channel.queue_declare("unread", passive=True).message_count, 20)
        queue.delete()

    assert held <= QUEUE_ARGUMENTS["x-max-length"]


@pytest.mark.parametrize(("kind", "worker"), [("tests.wait_and_write", "io"), ("tests.wait_in_child", "default")])
def test_a_completed_job_is_a_task_of_its_id_and_kind(
    running: Stack, flower: Listener, kind: str, worker: str
) -> None:
    job_id = running.submit(kind, {"seconds": 0.2})

    succeeded = flower.last_of(job_id, "succeeded")

    assert flower.types_of(job_id) == [*ONCE, "succeeded"]
    assert {event["name"] for event in flower.of(job_id)} == {kind}
    assert flower.of(job_id)[0]["args"] == '{"seconds": 0.2}'
    assert 0.2 <= succeeded["runtime"] < 2
    [hostname] = {event["hostname"] for event in flower.of(job_id)}
    assert hostname in flower.workers()
    assert hostname.startswith(f"{worker}@")
    assert running.job(job_id)["celery_task_id"] == job_id
    clocks = [event["clock"] for event in flower.of(job_id)]
    assert clocks == sorted(clocks)


@pytest.mark.parametrize("kind", ["tests.effect_in_thread", "tests.effect_in_child", "tests.effect"])
def test_a_failed_job_is_a_failed_task_also_in_a_batch(running: Stack, flower: Listener, kind: str) -> None:
    job_id = running.submit(kind, {"hopeless": True})

    failed = flower.last_of(job_id, "failed")

    assert flower.types_of(job_id) == [*ONCE, "failed"]
    assert failed["exception"] == "Hopeless: as it was meant to"
    assert 'raise Hopeless("as it was meant to")' in failed["traceback"]
    assert running.job(job_id)["celery_task_id"] == job_id


def test_a_job_that_is_tried_again_is_retried(running: Stack, flower: Listener) -> None:
    job_id = running.submit("tests.effect_in_child", {"failures": 1})

    flower.last_of(job_id, "succeeded")

    assert flower.types_of(job_id) == [*ONCE, "retried", *ONCE, "succeeded"]


def test_a_job_that_takes_too_long_has_failed(running: Stack, flower: Listener) -> None:
    job_id = running.submit("tests.overdue")

    failed = flower.last_of(job_id, "failed")

    assert flower.types_of(job_id) == [*ONCE, "retried", *ONCE, "failed"]
    assert failed["exception"] == "It took longer than 0:00:01."


def test_what_hangs_is_reported_before_its_process_is_killed(running: Stack, flower: Listener) -> None:
    job_id = running.submit("tests.hang_in_child", {"times": 1})

    retried = until(lambda: [event for event in flower.of(job_id) if event["type"] == "task-retried"], 60)

    assert "its process was ended" in retried[0]["exception"]


def test_a_cancelled_job_is_revoked(running: Stack, flower: Listener) -> None:
    job_id = running.submit("tests.wait_and_write", {"seconds": 60})
    running.running(job_id)

    running.delete(f"/jobs/{job_id}")

    flower.last_of(job_id, "revoked")
    assert flower.types_of(job_id) == [*ONCE, "revoked"]


def test_a_job_cancelled_before_it_started_is_revoked(running: Stack, flower: Listener) -> None:
    job_id = running.submit("tests.wait_and_write", run_at="2035-01-01T00:00:00Z")

    running.delete(f"/jobs/{job_id}")

    revoked = flower.last_of(job_id, "revoked")
    assert flower.types_of(job_id) == ["revoked"]
    assert revoked["hostname"] in flower.workers()


def test_a_task_of_a_batch_is_a_task(running: Stack, flower: Listener) -> None:
    task = running.post("/tasks/", {"a": 1, "b": 2}).json()
    job_id = task["job"].rpartition("/")[2]

    succeeded = flower.last_of(job_id, "succeeded")

    assert flower.types_of(job_id) == [*ONCE, "succeeded"]
    assert succeeded["name"] == "scheduler.add"


def test_a_job_whose_worker_was_killed_each_time_has_failed(running: Stack, flower: Listener) -> None:
    job_id = running.submit("tests.kill_worker")

    failed = flower.last_of(job_id, "failed")

    assert failed["hostname"] in flower.workers()


def test_bells_and_ticks_are_no_tasks(running: Stack, flower: Listener) -> None:
    job_id = running.submit("tests.wait_in_child", {"seconds": 0})

    flower.last_of(job_id, "succeeded")

    jobs = {id for [id] in running.query("SELECT id::text FROM orchestrator_job")}
    assert {event["uuid"] for event in flower.of_tasks()} <= jobs


def test_inspect_active_shows_the_jobs_that_run_and_no_bells(running: Stack) -> None:
    jobs = [running.submit(kind, {"seconds": 60}) for kind in ("tests.wait_and_write", "tests.wait_in_child")]
    for job_id in jobs:
        running.running(job_id)

    with running.remote_control() as app:
        replies = app.control.inspect(timeout=5, limit=CELERY_WORKERS).active() or {}
        active = [each for tasks in replies.values() for each in tasks]

    assert {each["id"] for each in active} == set(jobs)
    assert {each["worker_pid"] for each in active} == {running.worker_of(job_id).pid for job_id in jobs}
    for job_id in jobs:
        running.delete(f"/jobs/{job_id}")
