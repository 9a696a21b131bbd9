"""The poller: takes work that was not rung for, within the slots of its process."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from config.environment import CONTROL_QUEUE
from orchestrator import tasks
from orchestrator.kinds import Kind
from orchestrator.models import Job, Upkeep
from orchestrator.queue import bell
from orchestrator.queue.pausing import pause_kind
from orchestrator.submission import submit
from orchestrator.upkeep import tick
from orchestrator.worker.consumer_stall import ConsumerStall
from orchestrator.worker.poller import UNRUNG_SECONDS, Poller
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, MakeWorker, again

WAITED = timedelta(seconds=UNRUNG_SECONDS + 1)


def let_wait(*jobs: Job) -> None:
    """As if the jobs had been ready for longer than any bell takes."""
    Job.objects.filter(id__in=[job.id for job in jobs]).update(updated_at=Now() - WAITED)


def become_quiet(process: WorkerProcess) -> None:
    """As if Celery had begun nothing in the process for as long."""
    process.slots.last_task_at -= WAITED.total_seconds()


def make_poller(process: WorkerProcess) -> Poller:
    return Poller(process, ConsumerStall(process, os.getpid()))


def look(process: WorkerProcess) -> None:
    """One poll, until all that it started has ended."""
    poller = make_poller(process)
    poller.poll()
    assert poller.join()


@pytest.fixture
def quiet(kind: DeclareKind, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> tuple[Kind, WorkerProcess]:
    """A kind, and a process that serves it and that no bell has reached for a while."""
    monkeypatch.setattr(bell, "ring", lambda kind: None)
    waiting = kind()
    process = make_worker()
    become_quiet(process)
    return waiting, process


# A job that runs, its process, the poller that started it, and the event that lets it end.
Busy = tuple[Job, WorkerProcess, Poller, threading.Event]


@pytest.fixture
def busy(kind: DeclareKind, make_worker: MakeWorker) -> Busy:
    """A process whose only slot its poller has filled."""
    begun, finish = threading.Event(), threading.Event()

    def handler(running: Any) -> None:
        begun.set()
        assert finish.wait(PATIENCE_SECONDS)

    job, process = submit(kind(handler)), make_worker()
    let_wait(job)
    become_quiet(process)
    poller = make_poller(process)
    poller.poll()
    assert begun.wait(PATIENCE_SECONDS)
    return job, process, poller, finish


@pytest.mark.parametrize("execution", ["leased", "transactional"])
def test_jobs_without_a_bell_are_claimed(kind: DeclareKind, make_worker: MakeWorker, execution: str) -> None:
    waiting = kind(execution=execution)
    process = make_worker()
    jobs = [submit(waiting) for _ in range(3)]
    let_wait(*jobs)
    become_quiet(process)

    look(process)

    assert {again(job).status for job in jobs} == {"COMPLETED"}


def test_jobs_whose_bell_may_still_come_are_left_to_it(quiet: tuple[Kind, WorkerProcess]) -> None:
    waiting, process = quiet
    job = submit(waiting)

    look(process)

    assert again(job).status == "CREATED"


def test_a_process_that_bells_reach_is_left_to_them(quiet: tuple[Kind, WorkerProcess]) -> None:
    waiting, process = quiet
    job = submit(waiting)
    let_wait(job)
    process.slots.task_began()
    process.slots.task_ended()

    look(process)

    assert again(job).status == "CREATED"


def test_work_of_other_queues_and_of_paused_kinds_is_left_alone(
    quiet: tuple[Kind, WorkerProcess], kind: DeclareKind, make_worker: MakeWorker
) -> None:
    waiting, process = quiet
    other = kind(queue="io")
    make_worker()
    jobs = [submit(waiting), submit(other)]
    let_wait(*jobs)
    pause_kind(waiting.name)

    assert make_poller(process).unrung() == []


def test_a_process_without_a_free_slot_takes_nothing(quiet: tuple[Kind, WorkerProcess]) -> None:
    waiting, process = quiet
    job = submit(waiting)
    let_wait(job)

    with process.slots:
        look(process)

    assert again(job).status == "CREATED"


def test_a_bell_that_comes_meanwhile_waits_for_the_slot(busy: Busy) -> None:
    _, process, _, finish = busy

    def hear() -> None:
        process.slots.task_began()
        process.slots.acquire()

    heard = threading.Thread(target=hear, daemon=True)
    heard.start()
    heard.join(0.2)
    waited = heard.is_alive()
    finish.set()
    heard.join(PATIENCE_SECONDS)

    assert waited
    assert not heard.is_alive()
    assert process.slots.quiet_seconds < PATIENCE_SECONDS


def test_a_late_tick_is_made_by_control_itself(make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[None] = []
    monkeypatch.setattr(tick, "run_parts", lambda: ticks.append(None))
    control, other = make_worker(), make_worker()
    control.lease.queues = [CONTROL_QUEUE]
    for process in (control, other):
        become_quiet(process)

    for process in (control, other):
        look(process)
    Upkeep.objects.update_or_create(part="tick", defaults={"ran_at": Now()})
    look(control)

    assert ticks == [None], "none by a process that serves no ticks, none while the last one is recent"


def test_times_ahead_of_a_clock_that_was_set_back_count_as_late(
    quiet: tuple[Kind, WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[None] = []
    monkeypatch.setattr(tick, "run_parts", lambda: ticks.append(None))
    waiting, process = quiet
    process.lease.queues = ["default", CONTROL_QUEUE]
    job, ahead = submit(waiting), Now() + timedelta(minutes=5)
    Job.objects.update(updated_at=ahead)
    Upkeep.objects.update_or_create(part="tick", defaults={"ran_at": ahead})

    look(process)
    look(process)

    assert again(job).status == "COMPLETED"
    assert ticks


def test_a_draining_process_waits_for_what_its_poller_started(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    job, process, poller, finish = busy
    found: list[str] = []
    monkeypatch.setattr(process, "end", lambda: found.append(again(job).status))
    threading.Timer(0.2, finish.set).start()

    tasks.end_process(process, poller)

    assert found == ["COMPLETED"]


def test_with_one_slot_the_kind_whose_job_has_waited_longest_is_taken(
    kind: DeclareKind, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell, "ring", lambda kind: None)
    first_by_name, second_by_name = sorted([kind(), kind()], key=lambda each: each.name)
    process = make_worker()
    become_quiet(process)
    older, newer = submit(second_by_name), submit(first_by_name)
    let_wait(older, newer)

    look(process)

    assert [again(job).status for job in (older, newer)] == ["COMPLETED", "CREATED"]
