"""Slots that run groups of short jobs: as many at once as one processor serves, and each turns to other kinds, too."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.queue import bell
from orchestrator.running import RunningJob
from orchestrator.submission import submit
from orchestrator.worker import short_work
from orchestrator.worker.process import WorkerProcess
from orchestrator.worker.runner import run_next, run_ready
from orchestrator.worker.short_work import ShortWork
from orchestrator.worker.slots import Slots
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, again, pipeline, threads


class Processor:
    """Shows what share of a slot's time its group has used the processor for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.used = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr(short_work, "processor_seconds", lambda: self.used)

    def run_group(self, work: ShortWork, kind: str, *, share: float) -> None:
        with work.measuring(kind):
            self.now += 0.1
            self.used += 0.1 * share


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Processor:
    return Processor(monkeypatch)


def begun(work: ShortWork, *kinds: str) -> list[bool]:
    """Whether each of so many slots that run already, and one after the other begin, is to run jobs of its kind."""
    with ExitStack() as stack:
        return [stack.enter_context(threads(1))(work.begin, kind).result(PATIENCE_SECONDS) for kind in kinds]


def test_as_many_slots_run_jobs_as_one_processor_serves(processor: Processor) -> None:
    work = ShortWork()

    processor.run_group(work, "test.adds", share=0.39)

    assert begun(work, *["test.adds"] * 4) == [True, True, False, False]


def test_one_slot_more_runs_jobs_that_are_committed_one_by_one(processor: Processor) -> None:
    work = ShortWork()
    processor.run_group(work, "test.adds", share=0.6)

    work.group_is_ending("test.adds", commits_each=True)
    committed = begun(work, *["test.adds"] * 3)
    work = ShortWork()
    processor.run_group(work, "test.adds", share=0.6)
    work.group_is_ending("test.adds", commits_each=False)

    assert (committed, begun(work, *["test.adds"] * 3)) == ([True, True, False], [True, False, False])


def test_all_slots_run_jobs_of_a_kind_that_is_not_known_yet() -> None:
    assert begun(ShortWork(), *["test.adds"] * 4) == [True] * 4


def test_many_slots_run_jobs_that_mostly_wait_whatever_others_do(processor: Processor) -> None:
    work = ShortWork()

    processor.run_group(work, "test.adds", share=0.9)
    processor.run_group(work, "test.waits", share=0.048)

    assert begun(work, "test.adds", *["test.waits"] * 20) == [True] * 17 + [False] * 4


def test_a_slot_that_is_late_keeps_no_other_from_beginning(processor: Processor) -> None:
    work = ShortWork()
    processor.run_group(work, "test.adds", share=0.9)

    first = begun(work, "test.adds", "test.adds")
    processor.now += 2 * short_work.LATE_SECONDS
    later = begun(work, "test.adds", "test.adds")

    assert (first, later) == ([True, False], [True, False])


def test_a_slot_turns_to_the_kinds_that_were_refused_meanwhile_before_it_goes_on(processor: Processor) -> None:
    work = ShortWork()
    processor.run_group(work, "test.adds", share=0.9)
    processor.run_group(work, "test.draws", share=0.9)
    assert work.begin("test.adds")
    assert begun(work, "test.draws", "test.adds") == [False, False]

    turns = [
        work.next("test.adds", is_dry=False),
        work.next("test.draws", is_dry=True),
        work.next("test.adds", is_dry=True),
    ]

    assert turns == ["test.draws", "test.adds", None]


def test_a_kind_is_full_for_a_while_after_a_slot_was_refused(processor: Processor) -> None:
    work = ShortWork()
    processor.run_group(work, "test.adds", share=0.9)

    before = work.is_full("test.adds")
    begun(work, "test.adds", "test.adds")
    after, other = work.is_full("test.adds"), work.is_full("test.draws")
    processor.now += short_work.FULL_SECONDS

    assert (before, after, other, work.is_full("test.adds")) == (False, True, False, False)


def test_who_leaves_last_leaves_nothing_behind(processor: Processor) -> None:
    work = ShortWork()
    processor.run_group(work, "test.adds", share=0.9)
    assert work.begin("test.adds")
    assert begun(work, "test.draws") == [True]
    assert begun(work, "test.adds") == [False]

    assert work.leave() == []
    assert begun(work, "test.adds") == [True]


def serving(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker that Celery has started."""
    monkeypatch.setattr(bell, "takes_bell", worker.takes_bell)
    worker.slots = Slots(2)


def test_a_slot_runs_what_its_own_jobs_make_ready_without_a_bell(
    kind: DeclareKind, worker: WorkerProcess, rung: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(worker, monkeypatch)
    step, last = kind(), kind(lambda running: sorted(running.inputs))
    parent, _ = pipeline(last, step, {"a": [], "b": ["a"]})
    rung.clear()

    run_ready(step, worker)

    assert (again(parent).result, rung) == (["a", "b"], [])


def test_what_becomes_ready_while_a_group_runs_is_rung_for(
    kind: DeclareKind, worker: WorkerProcess, rung: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(worker, monkeypatch)
    other = kind()

    def handler(running: RunningJob) -> None:
        submit(other)
        in_time.append(not rung)

    in_time: list[bool] = []
    submit(first := kind(handler))
    rung.clear()

    run_ready(first, worker)

    assert (in_time, rung) == ([True], [other.name])


def test_a_slot_of_a_process_that_drains_rings_for_what_was_left_to_it(
    kind: DeclareKind, worker: WorkerProcess, rung: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(worker, monkeypatch)
    other = kind()

    def refuse_other_and_fail(kind: Kind, process: WorkerProcess) -> int:
        monkeypatch.setattr(worker.short_work, "_shares", {kind.name: 0.9, other.name: 0.9})
        assert begun(worker.short_work, other.name) == [False]
        raise OSError("the database is away")

    monkeypatch.setattr("orchestrator.worker.runner.run_next", refuse_other_and_fail)

    with pytest.raises(OSError, match="away"):
        run_ready(kind(), worker)

    assert rung == [other.name]


@pytest.mark.parametrize("is_full", [True, False])
def test_a_claim_that_leaves_jobs_wakes_others_unless_a_slot_was_refused_just_now(
    is_full: bool, kind: DeclareKind, worker: WorkerProcess, rung: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker.short_work, "is_full", lambda name: is_full)
    declared = kind()
    submit(declared), submit(declared)
    rung.clear()

    run_next(declared, worker, at_most=1)

    assert rung == ([] if is_full else [declared.name])


def test_a_slot_tells_whether_the_jobs_of_its_latest_group_were_committed_one_by_one(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    writes, is_silent = kind(lambda _: Job.objects.exists()), kind()
    for each in (writes, is_silent):
        submit(each)
        run_next(each, worker)
        worker.short_work._shares[each.name] = 0.6

    assert begun(worker.short_work, *[writes.name] * 3) == [True, True, False]
    worker.short_work._slots.clear()
    assert begun(worker.short_work, *[is_silent.name] * 3) == [True, False, False]
