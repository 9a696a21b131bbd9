"""Jobs that take long: slots of a process claim them together, and go on while what they have run is completed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from orchestrator.kinds import Kind
from orchestrator.models import Job, Worker
from orchestrator.queue import endings, transitions
from orchestrator.running import RunningJob
from orchestrator.submission import submit, submit_many
from orchestrator.worker import completing, leased
from orchestrator.worker.process import WorkerProcess
from orchestrator.worker.runner import run_ready
from orchestrator.worker.shared_claims import IdleSlots, SharedClaims
from orchestrator.worker.slots import Slots
from tests.orchestrator.workbench import PATIENCE_SECONDS, DeclareKind, MakeWorker, again, run, threads


@pytest.fixture
def worker(make_worker: MakeWorker) -> Iterator[WorkerProcess]:
    """A process with four slots."""
    process = make_worker()
    process.slots = Slots(4)
    Worker.objects.update(slots=4)
    yield process
    process.completing.stop(PATIENCE_SECONDS)


def known_to_be_long(kind: Kind, worker: WorkerProcess) -> Kind:
    worker.pace.measured(kind.name, 0.05)
    return kind


def wait_for_completions(worker: WorkerProcess) -> None:
    mark = worker.completing.unfinished()
    assert mark is None or worker.completing.wait_for(mark, PATIENCE_SECONDS)


class Claims:
    """Claims that wait until they are released, and find a job for each slot as long as there are any."""

    def __init__(self, jobs: Sequence[Any]) -> None:
        self.jobs = list(jobs)
        self.asked: list[int] = []
        self.begun, self.released = threading.Semaphore(0), threading.Semaphore(0)
        self.failure: Exception | None = None

    def __call__(self, count: int) -> list[Any]:
        self.asked.append(count)
        self.begun.release()
        assert self.released.acquire(timeout=PATIENCE_SECONDS)
        if self.failure:
            failure, self.failure = self.failure, None
            raise failure
        claimed, self.jobs = self.jobs[:count], self.jobs[count:]
        return claimed


def wait_until_waiting(shared: SharedClaims, count: int) -> None:
    reached = threading.Event()
    while len(shared._waiting.get("a.kind", [])) < count:
        assert not reached.wait(0.001)


# Claiming


def test_slots_that_wait_while_another_claims_share_the_next_claim() -> None:
    shared, claims = SharedClaims(), Claims(["first", "second", "third"])

    with threads(3) as call:
        found: list[Future[Any]] = [call(shared.claim, "a.kind", claims)]
        assert claims.begun.acquire(timeout=PATIENCE_SECONDS)
        found += [call(shared.claim, "a.kind", claims) for _ in range(2)]
        wait_until_waiting(shared, 2)
        claims.released.release(2)
        jobs = [each.result(PATIENCE_SECONDS) for each in found]

    assert claims.asked == [1, 2]
    assert sorted(jobs) == ["first", "second", "third"]
    assert jobs[0] == "first"


def test_slots_for_which_a_shared_claim_finds_nothing_have_no_job() -> None:
    shared, claims = SharedClaims(), Claims(["only"])

    with threads(3) as call:
        found: list[Future[Any]] = [call(shared.claim, "a.kind", claims)]
        assert claims.begun.acquire(timeout=PATIENCE_SECONDS)
        found += [call(shared.claim, "a.kind", claims) for _ in range(2)]
        wait_until_waiting(shared, 2)
        claims.released.release(2)

        assert [each.result(PATIENCE_SECONDS) for each in found] == ["only", None, None]


def test_after_a_claim_that_failed_the_next_slot_claims() -> None:
    shared, claims = SharedClaims(), Claims(["job"])
    claims.failure = OSError("no connection")

    with threads(2) as call:
        failing = call(shared.claim, "a.kind", claims)
        assert claims.begun.acquire(timeout=PATIENCE_SECONDS)
        next_one = call(shared.claim, "a.kind", claims)
        wait_until_waiting(shared, 1)
        claims.released.release(2)

        with pytest.raises(OSError, match="no connection"):
            failing.result(PATIENCE_SECONDS)
        assert next_one.result(PATIENCE_SECONDS) == "job"


def test_kinds_are_claimed_beside_each_other() -> None:
    shared, claims = SharedClaims(), Claims(["job"])

    with threads(1) as call:
        waiting = call(shared.claim, "a.kind", claims)
        assert claims.begun.acquire(timeout=PATIENCE_SECONDS)

        assert shared.claim("another.kind", lambda count: []) is None
        claims.released.release()
        assert waiting.result(PATIENCE_SECONDS) == "job"


@pytest.mark.django_db(transaction=True)
def test_each_job_of_a_shared_claim_counts_as_a_slot_of_its_owner(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit_many(waits, [{}] * 10, owner="ada")
    claim = partial(transitions.claim, waits, worker_id=worker.row_id, worker_name=worker.name)

    together = claim(at_most=4, apart=True).jobs
    after_them = claim().jobs
    submit(waits, owner="ben")

    # A share is half of the slots.
    assert (len(together), after_them) == (2, [])
    assert [job.owner for job in claim(at_most=4, apart=True).jobs] == ["ben"]


# Going on


def test_a_slot_runs_the_next_job_while_its_last_one_is_completed(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_began = threading.Event()
    complete = endings.complete_together

    def complete_later(*args: Any) -> Any:
        assert second_began.wait(PATIENCE_SECONDS)
        return complete(*args)

    def handler(running: RunningJob, payload: dict[str, int]) -> int:
        if payload["n"] == 1:
            second_began.set()
        return payload["n"]

    monkeypatch.setattr(endings, "complete_together", complete_later)
    waits = known_to_be_long(kind(handler), worker)
    jobs = [submit(waits, {"n": n}) for n in range(2)]

    assert [run(waits, worker), run(waits, worker)] == [1, 1]
    wait_for_completions(worker)

    assert [(again(job).status, again(job).result, again(job).attempt) for job in jobs] == [
        ("COMPLETED", 0, 1),
        ("COMPLETED", 1, 1),
    ]
    assert worker.running.all() == []


def test_what_a_slot_has_written_is_completed_with_it(kind: DeclareKind, worker: WorkerProcess) -> None:
    def writes(running: RunningJob) -> int:
        return Worker.objects.count()

    waits = known_to_be_long(kind(writes), worker)
    job = submit(waits)

    assert run(waits, worker) == 1

    assert worker.completing.unfinished() is None
    assert again(job).status == "COMPLETED"


def test_an_owner_with_one_slot_goes_on_when_its_last_job_is_completed(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    Worker.objects.update(slots=2)
    asked_again = threading.Event()
    complete, claim = endings.complete_together, transitions.claim

    def complete_later(*args: Any) -> Any:
        assert asked_again.wait(PATIENCE_SECONDS)
        return complete(*args)

    def claim_and_tell(*args: Any, **options: Any) -> Any:
        found = claim(*args, **options)
        if not found.jobs:
            asked_again.set()
        return found

    monkeypatch.setattr(endings, "complete_together", complete_later)
    monkeypatch.setattr(transitions, "claim", claim_and_tell)
    waits = known_to_be_long(kind(), worker)
    jobs = [submit(waits, owner="ada") for _ in range(2)]

    run_ready(waits, worker)
    wait_for_completions(worker)

    assert [again(job).status for job in jobs] == ["COMPLETED"] * 2


def test_a_job_that_another_worker_has_by_now_is_not_completed(
    kind: DeclareKind, worker: WorkerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    def loses_it(running: RunningJob) -> None:
        with threads(1) as call:
            call(take_away, running).result(PATIENCE_SECONDS)

    def take_away(running: RunningJob) -> None:
        Job.objects.filter(id=running.row.id).update(attempt=running.row.attempt + 1)

    waits = known_to_be_long(kind(loses_it), worker)
    job = submit(waits)

    run(waits, worker)
    wait_for_completions(worker)

    assert (again(job).status, again(job).attempt) == ("RUNNING", 2)
    assert "no longer belongs to this worker" in caplog.text


def test_slots_claim_nothing_while_too_many_jobs_are_still_to_be_completed(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completing, "MAX_UNFINISHED", 2)
    monkeypatch.setattr(leased, "COMPLETION_SECONDS", 0)
    released = threading.Event()
    complete = endings.complete_together

    def complete_later(*args: Any) -> Any:
        assert released.wait(PATIENCE_SECONDS)
        return complete(*args)

    monkeypatch.setattr(endings, "complete_together", complete_later)
    waits = known_to_be_long(kind(), worker)
    submit_many(waits, [{}] * 3)

    assert [run(waits, worker) for _ in range(3)] == [1, 1, 0]

    released.set()
    wait_for_completions(worker)
    assert run(waits, worker) == 1


# Idle slots


class Pool:
    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.is_closed = False

    def submit(self, work: Callable[[], None]) -> None:
        if self.is_closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.work.append(work)

    def run(self) -> None:
        while self.work:
            self.work.pop(0)()


@pytest.mark.django_db(transaction=True)
def test_idle_slots_start_as_many_as_are_free_and_have_not_begun(kind: DeclareKind) -> None:
    pool, slots, ran = Pool(), Slots(4), list[str]()
    idle, waits = IdleSlots(slots, pool.submit, lambda kind: ran.append(kind.name)), kind()

    with slots:
        idle.start(2, waits)
        idle.start(2, waits)
        pool.run()

    assert ran == [waits.name] * 3
    assert slots.free_count == 4


@pytest.mark.django_db(transaction=True)
def test_an_idle_slot_that_is_taken_meanwhile_does_nothing(kind: DeclareKind) -> None:
    pool, slots, ran = Pool(), Slots(1), list[str]()
    idle, waits = IdleSlots(slots, pool.submit, lambda kind: ran.append(kind.name)), kind()
    idle.start(1, waits)

    with slots:
        pool.run()
    assert ran == []

    idle.start(1, waits)
    pool.run()
    assert ran == [waits.name]


@pytest.mark.django_db(transaction=True)
def test_an_idle_slot_that_fails_is_free_again(kind: DeclareKind, caplog: pytest.LogCaptureFixture) -> None:
    def fails(kind: Kind) -> None:
        raise OSError("no connection")

    pool, slots = Pool(), Slots(1)
    idle = IdleSlots(slots, pool.submit, fails)
    caplog.set_level(logging.ERROR)

    idle.start(1, kind())
    pool.run()

    assert slots.free_count == 1
    assert "no connection" in caplog.text


def test_a_pool_that_is_closed_starts_nothing(kind: DeclareKind) -> None:
    pool, slots = Pool(), Slots(2)
    idle, waits = IdleSlots(slots, pool.submit, lambda kind: None), kind()
    pool.is_closed = True
    idle.start(2, waits)

    pool.is_closed = False
    idle.start(2, waits)

    assert len(pool.work) == 2


@pytest.mark.django_db(transaction=True)
def test_slots_that_find_more_jobs_start_as_many_again(kind: DeclareKind, worker: WorkerProcess) -> None:
    pool = Pool()
    worker.idle_slots = IdleSlots(worker.slots, pool.submit, lambda kind: None)
    waits = known_to_be_long(kind(), worker)
    submit_many(waits, [{}] * 3)

    with worker.slots:
        run(waits, worker)
    wait_for_completions(worker)

    assert len(pool.work) == 1
