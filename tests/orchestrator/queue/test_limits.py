"""Limits on kinds: what waits for them, and who lets it go on."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import submission
from orchestrator.kinds import Kind
from orchestrator.models import Job
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.submission import submit, submit_many
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, again, claim, complete, fail, lease, run

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
