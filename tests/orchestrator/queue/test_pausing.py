"""While a kind or its queue is paused, none of its jobs starts."""

from __future__ import annotations

import pytest

from access.models import AuditEntry
from orchestrator.models import Kind as KindRow
from orchestrator.models import PausedQueue
from orchestrator.queue import pausing
from orchestrator.queue.pausing import UnknownQueue
from orchestrator.submission import submit
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, claim, lease, run

pytestmark = pytest.mark.django_db


def report(name: str, queue: str = "default") -> KindRow:
    return KindRow.objects.create(name=name, queue=queue)


def paused() -> set[str]:
    return set(KindRow.objects.exclude(paused_at=None).values_list("name", flat=True))


@pytest.mark.parametrize("execution", ["leased", "transactional"])
def test_no_job_of_a_paused_queue_starts(kind: DeclareKind, worker: WorkerProcess, execution: str) -> None:
    waits = kind(execution=execution)
    report(waits.name)
    submit(waits)

    pausing.pause_queue("default")
    assert run(waits, worker) == 0

    pausing.resume_queue("default")
    assert run(waits, worker) == 1


def test_what_runs_in_a_paused_queue_goes_on(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    report(waits.name)
    submit(waits)
    submit(waits)
    lease(waits, worker)

    pausing.pause_queue("default")

    assert claim(waits, worker) is None
    assert waits.name in paused()


def test_another_queue_is_not_paused_with_it() -> None:
    report("a.b")
    report("a.c", "io")

    pausing.pause_queue("io")

    assert paused() == {"a.c"}


def test_a_kind_that_was_paused_by_itself_stays_so() -> None:
    report("a.b")
    report("a.c")
    pausing.pause_kind("a.b")
    pausing.pause_queue("default")
    pausing.pause_kind("a.c")

    pausing.resume_queue("default")

    assert paused() == {"a.b", "a.c"}


def test_a_kind_is_not_resumed_while_its_queue_is_paused() -> None:
    report("a.b")
    pausing.pause_kind("a.b")
    pausing.pause_queue("default")

    pausing.resume_kind("a.b")
    assert paused() == {"a.b"}

    pausing.resume_queue("default")
    assert paused() == set()


def test_a_tick_pauses_kinds_that_come_to_a_paused_queue_and_resumes_those_that_leave_it(rung: list[str]) -> None:
    pausing.pause_queue("default")
    report("a.b")
    tick.pause_new_kinds_of_paused_queues()
    assert paused() == {"a.b"}

    KindRow.objects.update(queue="io")
    tick.pause_new_kinds_of_paused_queues()
    assert paused() == set()


@pytest.mark.django_db(transaction=True)
def test_resuming_a_queue_wakes_its_workers(rung: list[str]) -> None:
    report("a.b")
    pausing.pause_queue("default")

    pausing.resume_queue("default")

    assert rung == ["a.b"]


def test_who_paused_a_queue_is_in_the_audit_trail_once() -> None:
    for _ in range(2):
        pausing.pause_queue("io")
    for _ in range(2):
        pausing.resume_queue("io")

    assert list(AuditEntry.objects.order_by("id").values_list("action", "object_id")) == [
        ("queue.pause", "io"), ("queue.resume", "io"),
    ]  # fmt: skip
    assert not PausedQueue.objects.exists()


def test_a_queue_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnknownQueue, match="no queue 'oi' in QUEUES: default, io"):
        pausing.pause_queue("oi")
