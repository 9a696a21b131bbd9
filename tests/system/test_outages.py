"""What becomes of work while there is no broker, and when a worker hears no bells; on Valkey and on RabbitMQ alike."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

import psutil
import pytest
from celery import Celery

from config.local.server import Server
from tests import servers
from tests.system.stack import Stack, until

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(300)]

STALL_SECONDS = 10


@pytest.fixture(scope="module")
def running(any_broker: Server) -> Iterator[Stack]:
    settings = {"BROKER_URL": any_broker.url, "CONSUMER_STALL_SECONDS": str(STALL_SECONDS)}
    with Stack(servers.new_folder("stack") / "data", **settings) as stack:
        yield stack


@pytest.fixture
def outage(running: Stack, any_broker: Server) -> Iterator[Stack]:
    """The stack, after its broker was killed; it is started again for the next test."""
    running.wait_until_ready(120)
    any_broker.kill()
    yield running
    any_broker.start()


def test_without_a_broker_all_kinds_of_work_go_on(outage: Stack, any_broker: Server) -> None:
    jobs = [outage.submit("tests.write") for _ in range(20)]
    jobs += [outage.submit("tests.wait_and_write", {"seconds": 0.2}) for _ in range(10)]
    jobs += [outage.submit("tests.wait_in_child", {"seconds": 0.2}) for _ in range(5)]
    jobs += [outage.submit("tests.write", run_at=(datetime.now(UTC) + timedelta(seconds=3)).isoformat())]
    pipeline = outage.post("/orchestrate/ada").json()["job_id"]

    ends = [outage.end_of(job_id, 60) for job_id in (*jobs, pipeline)]
    any_broker.start()

    assert {ended["status"] for ended in ends} == {"COMPLETED"}
    assert all(len(outage.effects_of(job_id)) == 1 for job_id in jobs)


def test_when_the_broker_is_back_bells_are_received_again(running: Stack, any_broker: Server) -> None:
    any_broker.kill()
    started_late = not running.starts_at_once("tests.wait_in_child")

    any_broker.start()

    for kind in ("tests.wait_in_child", "tests.wait_and_write"):
        until(partial(running.starts_at_once, kind), 60)
    assert started_late


def test_workers_that_shut_down_during_an_outage_hand_their_jobs_back(outage: Stack) -> None:
    in_child, in_thread = (
        outage.submit(kind, {"seconds": 15}) for kind in ("tests.wait_in_child", "tests.wait_and_write")
    )
    for job_id in (in_child, in_thread):
        outage.running(job_id)

    for name in ("worker-default", "worker-io"):
        outage.process(name).send_signal(signal.SIGTERM)

    for job_id in (in_child, in_thread):
        ended = outage.end_of(job_id, 120)
        assert (ended["status"], ended["attempt"]) == ("COMPLETED", 2)
        assert [attempt["outcome"] for attempt in ended["attempts"]] == ["INTERRUPTED"]
        assert outage.effects_of(job_id) == [(2, 0)]


def test_a_child_killed_during_an_outage_takes_no_job_with_it(outage: Stack) -> None:
    job_id = outage.submit("tests.wait_in_child", {"seconds": 2})
    outage.running(job_id)

    outage.worker_of(job_id).kill()

    ended = outage.end_of(job_id, 60)
    assert (ended["status"], ended["attempt"]) == ("COMPLETED", 2)
    assert outage.effects_of(job_id) == [(2, 0)]


def test_a_worker_whose_children_are_all_killed_during_an_outage_is_replaced(outage: Stack) -> None:
    # The poller has found it, so the worker has noticed the outage.
    outage.end_of(outage.submit("tests.wait_in_child", {"seconds": 0.1}), 60)
    for child in outage.process("worker-default").children():
        child.kill()

    job_id = outage.submit("tests.wait_in_child", {"seconds": 0.1})

    assert outage.end_of(job_id, 60)["status"] == "COMPLETED"


def leaves_its_queue(broker: Server, queue: str) -> bool:
    """Stalls the consumer of that queue's worker: it reads no more messages. True once it has said so."""
    with Celery(broker=broker.url, set_as_current=False) as remote:
        remote.conf.broker_transport_options = {"global_keyprefix": "muster:"}
        replies = remote.control.cancel_consumer(queue, reply=True, timeout=3)
    return any(worker.startswith(f"{queue}@") for reply in replies or [] for worker in reply)


@pytest.mark.parametrize("name", ["worker-default", "worker-io", "control"])
def test_a_worker_whose_consumer_stalls_is_replaced_while_its_work_goes_on(
    running: Stack, any_broker: Server, name: str
) -> None:
    running.wait_until_ready(120)
    before = running.process(name)
    until(lambda: leaves_its_queue(any_broker, name.removeprefix("worker-")), 60)

    for kind in ("tests.wait_in_child", "tests.wait_and_write"):
        assert running.end_of(running.submit(kind, {"seconds": 0}))["status"] == "COMPLETED"
    until(lambda: not before.is_running(), STALL_SECONDS + 60)
    running.wait_until_ready(120)
    assert running.process(name).pid != before.pid


def test_a_broker_that_hangs_and_then_dies_holds_nobody_up(running: Stack, any_broker: Server) -> None:
    running.wait_until_ready(120)
    waits, jobs = [], []

    psutil.Process(any_broker.pid).suspend()
    for _ in range(10):
        began_at = time.monotonic()
        jobs.append(running.submit("tests.write"))
        waits.append(time.monotonic() - began_at)
    ends = [running.end_of(job_id, 60)["status"] for job_id in jobs]
    any_broker.kill()
    any_broker.start()

    assert max(waits) < 1.5
    assert set(ends) == {"COMPLETED"}
    until(lambda: running.starts_at_once("tests.wait_in_child"), 90)


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_broker_that_starts_again_under_load_loses_and_doubles_nothing(
    running: Stack, any_broker: Server, way: str
) -> None:
    running.wait_until_ready(120)
    jobs = []

    for _ in range(2):
        jobs += [running.submit("tests.wait_and_write", {"seconds": 0.1}) for _ in range(10)]
        jobs += [running.submit("tests.wait_in_child", {"seconds": 0.1}) for _ in range(5)]
        getattr(any_broker, way)()
        jobs += [running.submit("tests.write") for _ in range(10)]
        any_broker.start()

    assert {running.end_of(job_id, 60)["status"] for job_id in jobs} == {"COMPLETED"}
    assert [len(running.effects_of(job_id)) for job_id in jobs] == [1] * len(jobs)
