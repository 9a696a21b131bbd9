"""A worker whose consumer has stalled: idle although its queues have unread messages, it is restarted."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
import pytest
from celery import current_app
from kombu import Queue

from orchestrator.worker import broker_failures, consumer_stall
from orchestrator.worker.consumer_stall import ConsumerStall
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, MakeWorker, doorbell


class Broker:
    """What a check finds, and how often it ended its worker."""

    def __init__(self) -> None:
        self.has_unread = True
        self.ended = 0

    def end(self) -> None:
        self.ended += 1


Stalled = tuple[ConsumerStall, WorkerProcess, Broker]


@pytest.fixture
def stalled(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Stalled:
    """A process that ends its worker at the third check at which it is idle beside unread messages."""
    broker, process = Broker(), make_worker()
    settings.ENV = msgspec.structs.replace(settings.ENV, CONSUMER_STALL_SECONDS=0.03)
    monkeypatch.setattr(consumer_stall, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(ConsumerStall, "has_unread", lambda self: broker.has_unread)
    monkeypatch.setattr(ConsumerStall, "end_worker", lambda self: broker.end())
    process.slots.last_task_at = 0
    return ConsumerStall(process, os.getpid()), process, broker


def check(stall: ConsumerStall, times: int) -> None:
    for _ in range(times):
        stall.checked_at = time.monotonic() - 2 * consumer_stall.CHECK_SECONDS
        stall.check()


def test_a_worker_is_ended_when_messages_lie_unread_check_after_check(stalled: Stalled) -> None:
    stall, _, broker = stalled

    check(stall, 2)
    early = broker.ended
    check(stall, 1)

    assert (early, broker.ended) == (0, 1)


def test_a_worker_whose_broker_refuses_has_not_stalled(stalled: Stalled) -> None:
    stall, _, broker = stalled
    broker_failures.record()

    try:
        check(stall, 9)
    finally:
        broker_failures.clear()

    assert broker.ended == 0


def test_a_task_that_celery_begins_proves_that_its_consumer_has_not_stalled(stalled: Stalled) -> None:
    stall, process, broker = stalled

    for _ in range(3):
        check(stall, 2)
        process.slots.last_task_at = time.monotonic() + 1
        check(stall, 1)
        process.slots.last_task_at = 0

    assert broker.ended == 0


def test_an_empty_queue_proves_that_the_consumer_has_not_stalled(stalled: Stalled) -> None:
    stall, _, broker = stalled

    for _ in range(3):
        check(stall, 2)
        broker.has_unread = False
        check(stall, 1)
        broker.has_unread = True

    assert broker.ended == 0


def test_a_process_whose_slots_are_taken_has_not_stalled(stalled: Stalled) -> None:
    stall, process, broker = stalled

    with process.slots:
        check(stall, 10)

    assert broker.ended == 0


def test_tasks_that_are_no_bells_keep_a_process_busy_too(stalled: Stalled) -> None:
    stall, process, broker = stalled

    process.slots.task_began()
    process.slots.last_task_at = 0
    check(stall, 10)
    busy = broker.ended
    process.slots.task_ended()
    process.slots.last_task_at = 0
    check(stall, 10)

    assert busy == 0
    assert broker.ended


def test_unread_messages_of_the_broker_are_seen(kind: DeclareKind, make_worker: MakeWorker) -> None:
    waiting, process = kind(queue="io"), make_worker()
    process.lease.queues = ["io"]
    stall = ConsumerStall(process, os.getpid())
    with current_app.connection_for_write() as link:
        Queue("io", channel=link.default_channel).purge()
    before = stall.has_unread()
    doorbell(waiting).apply_async()

    assert (before, stall.has_unread()) == (False, True)
