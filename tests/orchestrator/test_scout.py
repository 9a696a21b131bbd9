"""The scout: takes work that was not rung for, within the slots of its process, and ends a worker that is deaf."""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.db.models.functions import Now

from config.celery import CONTROL_QUEUE, app
from orchestrator import bell, scout, tasks, upkeep, workers
from orchestrator.kinds import Kind
from orchestrator.models import Job, Upkeep
from orchestrator.pausing import pause_kind
from orchestrator.scout import Scout
from orchestrator.submission import submit
from orchestrator.workers import WorkerProcess
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, Hire, again

WAITED = timedelta(seconds=scout.UNRUNG_SECONDS + 1)


def let_wait(*jobs: Job) -> None:
    """As if the jobs had been ready for longer than any bell takes."""
    Job.objects.filter(id__in=[job.id for job in jobs]).update(updated_at=Now() - WAITED)


def become_quiet(process: WorkerProcess) -> None:
    """As if the process had heard nothing for as long."""
    process._heard_at -= WAITED.total_seconds()


def look(process: WorkerProcess) -> None:
    """One look of a scout, until all that it started has ended."""
    scouting = Scout(process, os.getpid())
    scouting._take_unrung()
    for thread in scouting._answering:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


@pytest.fixture
def quiet(kind: DeclareKind, hire: Hire, monkeypatch: pytest.MonkeyPatch) -> tuple[Kind, WorkerProcess]:
    """A kind, and a process that serves it and has heard no bell for a while."""
    monkeypatch.setattr(bell, "ring", lambda kind: None)
    waiting = kind()
    process = hire()
    become_quiet(process)
    return waiting, process


# A job that runs, its process, the scout that started it, and the event that lets it end.
Busy = tuple[Job, WorkerProcess, Scout, threading.Event]


@pytest.fixture
def busy(kind: DeclareKind, hire: Hire) -> Busy:
    """A process whose only slot its scout has filled."""
    begun, finish = threading.Event(), threading.Event()

    def handler(running: Any) -> None:
        begun.set()
        assert finish.wait(PATIENCE_SECONDS)

    job, process = submit(kind(handler)), hire()
    let_wait(job)
    become_quiet(process)
    scouting = Scout(process, os.getpid())
    scouting._take_unrung()
    assert begun.wait(PATIENCE_SECONDS)
    return job, process, scouting, finish


@pytest.mark.parametrize("execution", ["leased", "transactional"])
def test_work_that_was_not_rung_for_is_taken(kind: DeclareKind, hire: Hire, execution: str) -> None:
    waiting = kind(execution=execution)
    process = hire()
    jobs = [submit(waiting) for _ in range(3)]
    let_wait(*jobs)
    become_quiet(process)

    look(process)

    assert {again(job).status for job in jobs} == {"COMPLETED"}
    assert {again(job).celery_task_id for job in jobs} == {""}


def test_work_whose_bell_may_still_come_is_left_to_it(quiet: tuple[Kind, WorkerProcess]) -> None:
    waiting, process = quiet
    job = submit(waiting)

    look(process)

    assert again(job).status == "CREATED"


def test_a_process_that_hears_bells_is_left_to_them(quiet: tuple[Kind, WorkerProcess]) -> None:
    waiting, process = quiet
    job = submit(waiting)
    let_wait(job)
    process.task_began()
    process.task_ended()

    look(process)

    assert again(job).status == "CREATED"


def test_work_of_other_queues_and_of_paused_kinds_is_left_alone(
    quiet: tuple[Kind, WorkerProcess], kind: DeclareKind, hire: Hire
) -> None:
    waiting, process = quiet
    elsewhere = kind(queue="io")
    hire()
    jobs = [submit(waiting), submit(elsewhere)]
    let_wait(*jobs)
    pause_kind(waiting.name)

    assert Scout(process, os.getpid())._unrung() == []


def test_a_process_without_a_free_slot_takes_nothing(quiet: tuple[Kind, WorkerProcess]) -> None:
    waiting, process = quiet
    job = submit(waiting)
    let_wait(job)

    with process.slots:
        look(process)

    assert again(job).status == "CREATED"


def test_a_bell_that_is_heard_meanwhile_waits_for_the_slot(busy: Busy) -> None:
    _, process, _, finish = busy

    def hear() -> None:
        process.task_began()
        process.slots.acquire()

    heard = threading.Thread(target=hear, daemon=True)
    heard.start()
    heard.join(0.2)
    waited = heard.is_alive()
    finish.set()
    heard.join(PATIENCE_SECONDS)

    assert waited
    assert not heard.is_alive()
    assert process.quiet_seconds < PATIENCE_SECONDS


def test_a_late_tick_is_made_by_control_itself(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[None] = []
    monkeypatch.setattr(upkeep, "tick", lambda: ticks.append(None))
    control, other = hire(), hire()
    control.queues = [CONTROL_QUEUE]
    for process in (control, other):
        become_quiet(process)

    for process in (control, other):
        look(process)
    Upkeep.objects.update_or_create(part="tick", defaults={"ran_at": Now()})
    look(control)

    assert ticks == [None], "none by a process that serves no ticks, none while the last one is recent"


def test_a_draining_process_waits_for_what_its_scout_started(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    job, process, scouting, finish = busy
    monkeypatch.setattr(workers, "_current", process)
    monkeypatch.setattr(tasks, "_scout", scouting)
    found: list[str] = []
    monkeypatch.setattr(process, "end", lambda: found.append(again(job).status))
    threading.Timer(0.2, finish.set).start()

    tasks.end()

    assert found == ["COMPLETED"]


class Broker:
    """What a scout finds when it listens, and whether it ended its worker."""

    def __init__(self) -> None:
        self.bells_lie = True
        self.ended = 0


@pytest.fixture
def deaf(hire: Hire, monkeypatch: pytest.MonkeyPatch, settings: Any) -> tuple[Scout, WorkerProcess, Broker]:
    """A scout that listens at every look, and ends its worker at the third at which it is deaf."""
    broker, process = Broker(), hire()
    settings.ENV = msgspec.structs.replace(settings.ENV, DEAF_SECONDS=0.03)
    monkeypatch.setattr(scout, "LISTEN_SECONDS", 0.01)
    monkeypatch.setattr(Scout, "_bells_lie", lambda self: broker.bells_lie)
    monkeypatch.setattr(Scout, "_end_worker", lambda self: setattr(broker, "ended", broker.ended + 1))
    become_quiet(process)
    return Scout(process, os.getpid()), process, broker


def listen(scouting: Scout, times: int) -> None:
    for _ in range(times):
        scouting._listened_at = time.monotonic() - 2 * scout.LISTEN_SECONDS
        scouting._listen()


def test_a_worker_is_ended_when_bells_lie_there_look_after_look(deaf: tuple[Scout, WorkerProcess, Broker]) -> None:
    scouting, _, broker = deaf

    listen(scouting, 2)
    early = broker.ended
    listen(scouting, 1)

    assert (early, broker.ended) == (0, 1)


def test_a_bell_that_is_heard_proves_that_a_worker_is_not_deaf(deaf: tuple[Scout, WorkerProcess, Broker]) -> None:
    scouting, process, broker = deaf

    for _ in range(3):
        listen(scouting, 2)
        process._heard_at = time.monotonic() + 1
        listen(scouting, 1)
        process._heard_at = 0

    assert broker.ended == 0


def test_a_queue_that_is_empty_once_proves_it_too(deaf: tuple[Scout, WorkerProcess, Broker]) -> None:
    scouting, _, broker = deaf

    for _ in range(3):
        listen(scouting, 2)
        broker.bells_lie = False
        listen(scouting, 1)
        broker.bells_lie = True

    assert broker.ended == 0


def test_with_one_slot_the_kind_whose_job_has_waited_longest_is_taken(
    kind: DeclareKind, hire: Hire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell, "ring", lambda kind: None)
    first_by_name, second_by_name = sorted([kind(), kind()], key=lambda each: each.name)
    process = hire()
    become_quiet(process)
    older, newer = submit(second_by_name), submit(first_by_name)
    let_wait(older, newer)

    look(process)

    assert [again(job).status for job in (older, newer)] == ["COMPLETED", "CREATED"]


def test_a_full_house_is_not_taken_for_deafness(deaf: tuple[Scout, WorkerProcess, Broker]) -> None:
    scouting, process, broker = deaf

    with process.slots:
        listen(scouting, 10)

    assert broker.ended == 0


def test_tasks_that_are_no_bells_fill_the_house_too(deaf: tuple[Scout, WorkerProcess, Broker]) -> None:
    scouting, process, broker = deaf

    process.task_began()
    process._heard_at = 0
    listen(scouting, 10)
    busy = broker.ended
    process.task_ended()
    process._heard_at = 0
    listen(scouting, 10)

    assert busy == 0
    assert broker.ended


def test_bells_that_lie_in_the_broker_are_seen(kind: DeclareKind, hire: Hire) -> None:
    waiting, process = kind(queue="io"), hire()
    process.queues = ["io"]
    scouting = Scout(process, os.getpid())
    with app.connection_for_write() as link:
        link.default_channel.queue_purge("io")
    before = scouting._bells_lie()
    waiting.task.apply_async()

    assert (before, scouting._bells_lie()) == (False, True)
