"""Limits on kinds: what waits for them, and who lets it go on."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import transaction
from django.db.models import F

from orchestrator import submission
from orchestrator.kinds import Kind
from orchestrator.models import Job, RateStart, RateWait
from orchestrator.models import Kind as KindRow
from orchestrator.queue import admission, kind_limits, transitions
from orchestrator.queue.limiting import change_limits
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.submission import submit, submit_many
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.concurrency import at_once, held_open, waiting
from tests.orchestrator.workbench import (
    PATIENCE_SECONDS,
    DeclareKind,
    MakeWorker,
    again,
    claim,
    complete,
    fail,
    lease,
    run,
)

pytestmark = pytest.mark.django_db(transaction=True)


def customer(payload: dict[str, Any]) -> Any:
    return payload.get("customer")


def submit_for(kind: Kind, *customers: str, **options: Any) -> list[Job]:
    return [submit(kind, {"customer": each}, **options) for each in customers]


def test_no_more_run_than_the_kind_allows(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(max_running=2)
    submit_many(limited, [{}] * 3)

    first, second, third = (claim(limited, worker) for _ in range(3))
    assert first is not None
    assert (second is None, third) == (False, None)

    complete(first)
    assert claim(limited, worker)


def test_a_key_that_is_full_does_not_hold_up_others(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(key=customer, max_running_per_key=1)
    one, two, other = submit_for(limited, "one", "one", "other")

    assert lease(limited, worker).id == one.id
    assert lease(limited, worker).id == other.id
    assert claim(limited, worker) is None
    assert (again(two).ready, again(two).blocked_by) == (False, "max_running_per_key:one")


def test_the_end_of_an_attempt_lets_the_most_urgent_job_of_its_key_go_on(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    limited = kind(key=customer, max_running_per_key=1)
    submit_for(limited, "one", "one")
    running = lease(limited, worker)
    assert claim(limited, worker) is None
    [urgent] = submit_for(limited, "one", priority=0)
    assert claim(limited, worker) is None

    complete(running)

    assert lease(limited, worker).id == urgent.id
    assert claim(limited, worker) is None


@pytest.mark.parametrize("owner", ["ada", ""])
def test_an_owner_that_is_full_does_not_hold_up_others(kind: DeclareKind, worker: WorkerProcess, owner: str) -> None:
    limited = kind(max_running_per_owner=1)
    submit_many(limited, [{}] * 2, owner=owner)
    bobs = submit(limited, owner="bob")

    lease(limited, worker)

    assert lease(limited, worker).id == bobs.id
    assert claim(limited, worker) is None


def test_a_job_without_a_key_does_not_wait_for_its_limit(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(key=customer, max_running_per_key=1)
    submit_many(limited, [{}] * 2)

    assert None not in (claim(limited, worker), claim(limited, worker))


def test_a_dead_workers_slot_is_free_once_its_job_is_taken_back(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(key=customer, max_running_per_key=1, max_attempts=1)
    _, two = submit_for(limited, "one", "one")
    lease(limited, worker)
    assert claim(limited, worker) is None

    declare_dead(worker.row_id)
    take_back_from_ended()

    assert again(two).ready


@pytest.mark.parametrize("end", [complete, lambda job: fail(job), lambda job: fail(job, retryable=True)])
def test_however_an_attempt_ends_the_next_of_its_key_goes_on(
    kind: DeclareKind, worker: WorkerProcess, end: Any
) -> None:
    limited = kind(key=customer, max_running_per_key=1, backoff_seconds=60)
    _, two = submit_for(limited, "one", "one")
    running = lease(limited, worker)
    assert claim(limited, worker) is None

    end(running)

    assert lease(limited, worker).id == two.id


def test_a_batch_takes_as_many_as_there_is_room_for(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(execution="transactional", key=customer, max_running=3, max_running_per_key=1)
    submit_for(limited, "one", "one", "two")

    assert run(limited, worker) == 2
    assert run(limited, worker) == 1
    assert set(Job.objects.values_list("status", flat=True)) == {"COMPLETED"}


def test_a_blocked_job_can_be_cancelled_and_retried(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(key=customer, max_running_per_key=1)
    _, two = submit_for(limited, "one", "one")
    lease(limited, worker)
    assert claim(limited, worker) is None

    submission.cancel(two.id)
    assert (again(two).status, again(two).blocked_by) == ("CANCELLED", None)

    submission.retry(two.id)
    assert again(two).ready


def test_a_rate_lets_no_more_start_in_its_period(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(rate="2/h")
    submit_many(limited, [{}] * 3)
    for _ in range(2):
        complete(lease(limited, worker))

    assert claim(limited, worker) is None
    pass_time(timedelta(minutes=59))
    assert claim(limited, worker) is None
    pass_time(timedelta(minutes=2))
    assert claim(limited, worker)


def test_a_burst_of_a_rate_is_no_larger_than_it_may_be(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(rate="60/h", burst=1)
    submit_many(limited, [{}] * 2)
    lease(limited, worker)

    assert claim(limited, worker) is None
    pass_time(timedelta(minutes=1))
    assert claim(limited, worker)


def test_a_rate_of_each_key_does_not_hold_up_other_keys(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(key=customer, rate="1/h", rate_per="key")
    one, two, other = submit_for(limited, "one", "one", "other")

    assert {lease(limited, worker).id, lease(limited, worker).id} == {one.id, other.id}
    assert claim(limited, worker) is None
    assert again(two).blocked_by == "rate_per_key:one"


def test_the_tick_lets_jobs_go_on_whose_rate_has_room_again(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(key=customer, rate="1/h", rate_per="key")
    submit_for(limited, "one", "one", "one")
    lease(limited, worker)
    assert claim(limited, worker) is None

    for _ in range(2):
        pass_time(timedelta(hours=1, minutes=1))
        tick.let_blocked_go()
        assert claim(limited, worker)
        assert claim(limited, worker) is None


def test_a_rate_holds_for_attempts_too(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(rate="1/h", backoff_seconds=0)
    submit(limited)
    fail(lease(limited, worker), retryable=True)

    assert claim(limited, worker) is None


def test_a_batch_starts_as_many_as_its_rate_allows(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(execution="transactional", rate="2/h")
    submit_many(limited, [{}] * 3)

    assert [run(limited, worker), run(limited, worker)] == [2, 0]


def test_an_operators_limit_outlives_the_next_release(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(max_running=1)
    worker.lease.register()
    change_limits(limited.name, {"max_running": 2})

    worker.lease.register()

    assert kind_limits.limits_of(limited).max_running == 2
    assert change_limits(limited.name, {"max_running": None}).max_running == 1
    assert change_limits(limited.name, {"max_running": "unlimited"}).max_running is None


def test_a_limit_set_now_counts_what_runs_already(kind: DeclareKind, worker: WorkerProcess) -> None:
    free = kind()
    worker.lease.register()
    submit_many(free, [{}] * 3)
    lease(free, worker)

    change_limits(free.name, {"max_running": 2})

    assert [claim(free, worker) is None for _ in range(2)] == [False, True]


def test_a_worker_that_does_not_know_of_a_limit_yet_starts_nothing(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.queue.kind_limits.KNOWN_SECONDS", 60)
    free, batches = kind(), kind(execution="transactional")
    worker.lease.register()
    submit(free)
    submit(batches)
    assert not admission.is_limited(free)
    KindRow.objects.update(limits={"max_running": 1}, limited=True)

    assert claim(free, worker) is None
    assert run(batches, worker) == 0


@pytest.mark.parametrize("limit", [3, "unlimited"])
def test_a_limit_that_is_raised_lets_what_waits_go_on_at_once(
    kind: DeclareKind, worker: WorkerProcess, limit: Any
) -> None:
    limited = kind(key=customer, max_running_per_key=1)
    worker.lease.register()
    submit_for(limited, "one", "one", "one")
    lease(limited, worker)
    assert claim(limited, worker) is None

    change_limits(limited.name, {"max_running_per_key": limit})

    assert None not in (claim(limited, worker), claim(limited, worker))


def test_what_a_process_that_died_has_not_let_go_on_the_tick_does(kind: DeclareKind, worker: WorkerProcess) -> None:
    limited = kind(key=customer, max_running_per_key=1)
    _, two = submit_for(limited, "one", "one")
    running = lease(limited, worker)
    assert claim(limited, worker) is None
    with transaction.atomic():
        transitions.complete(running, "null")

    tick.let_blocked_go()

    assert again(two).ready


def test_a_claim_that_blocks_a_job_misses_no_end_that_comes_meanwhile(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    limited = kind(key=customer, max_running_per_key=1)
    _, two = submit_for(limited, "one", "one")
    running = lease(limited, worker)

    with held_open(lambda: claim(limited, worker)):
        ended = waiting(lambda: complete(running))
    ended.result(PATIENCE_SECONDS)

    assert again(two).ready


def test_many_claims_and_ends_at_once_never_exceed_a_limit(kind: DeclareKind, make_worker: MakeWorker) -> None:
    limited = kind(key=customer, max_running=3, max_running_per_key=1)
    submit_for(limited, *["one", "two", "three", "four"] * 5)
    most: list[int] = []

    def work(worker: WorkerProcess) -> None:
        idle = 0
        while idle < 20:
            job = claim(limited, worker)
            idle = 0 if job else idle + 1
            if job:
                most.append(counted(limited))
                complete(job)

    at_once(*(partial(work, make_worker(f"{n}@here")) for n in range(6)))

    assert 1 <= max(most) <= 3
    assert set(Job.objects.values_list("status", flat=True)) == {"COMPLETED"}


def counted(kind: Kind) -> int:
    """How many run of the kind; more than one of a key must not."""
    running = list(Job.objects.filter(kind=kind.name, status="RUNNING").values_list("limit_key", flat=True))
    assert len(running) == len(set(running))
    return len(running)


def pass_time(by: timedelta) -> None:
    """As if so much time had passed since whatever has started."""
    RateStart.objects.update(started_at=F("started_at") - by)
    RateWait.objects.update(due_at=F("due_at") - by)
