"""How many slots of a queue one owner may hold, by whatever workers and kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from orchestrator.kinds import Kind
from orchestrator.models import Worker
from orchestrator.queue import owners, shares, transitions
from orchestrator.queue.recovery import declare_dead, take_back_from_ended
from orchestrator.submission import submit, submit_many
from orchestrator.worker.process import WorkerProcess
from tests.concurrency import at_once
from tests.orchestrator.workbench import DeclareKind, MakeWorker, claim, complete, lease


@pytest.fixture
def eight(make_worker: MakeWorker) -> list[WorkerProcess]:
    """Two workers of the queue with four slots each."""
    workers = [make_worker("one@here"), make_worker("two@here")]
    Worker.objects.update(slots=4)
    return workers


def claimed(kind: Kind, worker: WorkerProcess, at_most: int = 1) -> list[str]:
    """The owners of what one claim leases."""
    jobs = transitions.claim(kind, worker_id=worker.row_id, worker_name=worker.name, at_most=at_most).jobs
    return [job.owner for job in jobs]


def flat(lists: Iterable[list[str]]) -> list[str]:
    return [each for some in lists for each in some]


def test_an_owner_holds_half_the_slots_and_others_start_at_once(kind: DeclareKind, eight: list[WorkerProcess]) -> None:
    waits = kind()
    submit_many(waits, [{}] * 20, owner="ada")

    held = [claimed(waits, eight[n % 2]) for n in range(8)]
    submit(waits, owner="ben")

    assert held == [["ada"]] * 4 + [[]] * 4
    assert claimed(waits, eight[0]) == ["ben"]


def test_a_share_counts_for_all_kinds_of_a_queue(kind: DeclareKind, eight: list[WorkerProcess]) -> None:
    some, others = kind(), kind()
    for each in (some, others):
        submit_many(each, [{}] * 5, owner="ada")

    held = [claimed([some, others][n % 2], eight[0]) for n in range(8)]

    assert flat(held) == ["ada"] * 4


def test_a_slot_is_free_as_soon_as_a_job_ends_or_is_taken_back(kind: DeclareKind, eight: list[WorkerProcess]) -> None:
    waits = kind()
    submit_many(waits, [{}] * 20, owner="ada")
    first, *_ = [lease(waits, eight[0]) for _ in range(4)]

    complete(first)
    after_one = claim(waits, eight[1])
    declare_dead(eight[0].row_id)
    take_back_from_ended()

    assert after_one is not None
    # Of the four slots that are left two are its share, and one is held.
    assert [claimed(waits, eight[1]) for _ in range(2)] == [["ada"], []]


def test_no_number_of_workers_exceeds_a_share(kind: DeclareKind, eight: list[WorkerProcess]) -> None:
    waits = kind()
    for owner in ("ada", "ben", "eve"):
        submit_many(waits, [{}] * 20, owner=owner)

    held = at_once(*(lambda n=n: claimed(waits, eight[n % 2], at_most=1) for n in range(16)))

    assert max(Counter(flat(held)).values()) == 4


def test_a_group_that_one_slot_runs_in_turn_holds_one_slot(kind: DeclareKind, eight: list[WorkerProcess]) -> None:
    waits = kind()
    submit_many(waits, [{}] * 100, owner="ada")

    held = [len(claimed(waits, eight[n % 2], at_most=10)) for n in range(6)]

    assert held == [10, 10, 10, 10, 0, 0]


def test_what_has_no_owner_is_limited_only_where_an_operator_says_so(
    kind: DeclareKind, eight: list[WorkerProcess]
) -> None:
    waits = kind()
    submit_many(waits, [{}] * 20)

    unlimited = [claimed(waits, eight[0]) for _ in range(6)]
    owners.set_slot_share("", 0.5)

    assert unlimited == [[""]] * 6
    assert claimed(waits, eight[0]) == []


def test_an_operator_sets_an_owners_share(kind: DeclareKind, eight: list[WorkerProcess]) -> None:
    waits = kind()
    owners.set_slot_share("ada", 0.25)
    submit_many(waits, [{}] * 20, owner="ada")

    assert flat(claimed(waits, eight[0]) for _ in range(6)) == ["ada"] * 2


def test_an_owner_may_hold_one_slot_at_least(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit_many(waits, [{}] * 3, owner="ada")

    assert [claimed(waits, worker) for _ in range(2)] == [["ada"], []]


def test_a_share_of_one_is_no_limit(kind: DeclareKind, worker: WorkerProcess, settings: Any) -> None:
    waits = kind()
    submit_many(waits, [{}] * 3, owner="ada")
    settings.ENV = msgspec.structs.replace(settings.ENV, OWNER_SLOT_SHARE=1.0)

    assert [claimed(waits, worker) for _ in range(3)] == [["ada"]] * 3


def test_async_jobs_share_the_slots_of_the_event_loops(
    kind: DeclareKind, make_worker: MakeWorker, settings: Any
) -> None:
    async def waits(job: object) -> None:
        """Does nothing."""

    declared, worker = kind(waits, queue="io"), make_worker()
    Worker.objects.update(queues=["io"], slots=4)
    submit_many(declared, [{}] * 1_000, owner="ada")

    first = claimed(declared, worker, at_most=400)
    second = claimed(declared, worker, at_most=400)

    assert (len(first), len(second)) == (400, settings.ENV.ASYNC_SLOTS // 2 - 400)


def test_a_claim_picks_few_owners_where_the_last_one_took_many_jobs_of_each(
    kind: DeclareKind, eight: list[WorkerProcess]
) -> None:
    waits = kind()
    for owner in ("ada", "ben", "eve", "ida"):
        submit_many(waits, [{}] * 10, owner=owner)

    assert shares.parameters(waits, at_most=20)["most"] == 20
    assert set(claimed(waits, eight[0], at_most=20)) == {"ada", "ben"}

    assert shares.parameters(waits, at_most=20)["most"] == 4
    assert shares.parameters(waits, at_most=1)["most"] == 1


def test_a_claim_that_has_picked_too_few_owners_is_followed_by_one_that_picks_all(
    kind: DeclareKind, eight: list[WorkerProcess]
) -> None:
    waits = kind()
    submit_many(waits, [{}] * 10, owner="ada")
    claimed(waits, eight[0], at_most=10)
    for number in range(30):
        submit(waits, owner=f"owner {number:02}")

    taken = [len(claimed(waits, eight[0], at_most=10)) for _ in range(2)]

    assert taken == [2, 10]
