"""Owners take turns: who is served next, and what an owner's turns cost it."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from access.models import AuditEntry
from benchmarks import fairness
from orchestrator.ids import uuid7
from orchestrator.kinds import Kind
from orchestrator.models import Arrival, Job, OwnerShare, Turn
from orchestrator.queue import owners, turns
from orchestrator.queue.costs import Costs, costs
from orchestrator.submission import Submission, submit, submit_many
from orchestrator.upkeep import tick
from orchestrator.worker.process import WorkerProcess
from tests.orchestrator.workbench import DeclareKind, complete, fail, lease, make_due, run


def serve(kind: Kind, worker: WorkerProcess, count: int, *, seconds: float = 1.0) -> list[str]:
    """The owners of the next jobs, each of which takes so many seconds of a slot."""
    served = []
    for _ in range(count):
        job = lease(kind, worker)
        turns.charge(kind.name, {job.owner: seconds})
        complete(job)
        served.append(job.owner)
    return served


def test_who_comes_after_ten_thousand_jobs_of_another_is_next(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit_many(waits, [{}] * 10_000, owner="ada")
    first = serve(waits, worker, 2)

    submit(waits, owner="ben")

    assert first == ["ada", "ada"]
    assert serve(waits, worker, 2) == ["ben", "ada"]


def test_owners_with_ready_jobs_take_turns(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    for owner, count in (("ada", 6), ("ben", 3), ("", 2)):
        submit_many(waits, [{}] * count, owner=owner)

    served = serve(waits, worker, 11)

    assert [Counter(served[start : start + 3]) for start in (0, 3)] == [Counter(["ada", "ben", ""])] * 2
    assert Counter(served[6:8]) == Counter(["ada", "ben"])
    assert served[8:] == ["ada"] * 3


def test_an_owner_of_twice_the_weight_gets_twice_as_much(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    owners.set_weight("ada", 2)
    for owner in ("ada", "ben"):
        submit_many(waits, [{}] * 20, owner=owner)

    assert Counter(serve(waits, worker, 18)) == {"ada": 12, "ben": 6}


def test_fifty_owners_with_unequal_demand_get_equal_shares(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    for number in range(50):
        submit_many(waits, [{}] * (6 + 2 * number), owner=f"owner {number}")

    served = Counter(serve(waits, worker, 250)).values()

    assert len(served) == 50
    assert fairness.jain(list(served)) >= 0.95


def test_long_jobs_are_charged_by_their_time(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    for owner in ("ada", "ben"):
        submit_many(waits, [{}] * 12, owner=owner)

    served: list[str] = []
    for _ in range(12):
        job = lease(waits, worker)
        turns.charge(waits.name, {job.owner: 3.0 if job.owner == "ada" else 1.0})
        complete(job)
        served.append(job.owner)

    assert Counter(served) == {"ben": 9, "ada": 3}


def test_who_comes_back_has_saved_up_no_turns(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit_many(waits, [{}] * 30, owner="ada")
    submit(waits, owner="ben")
    serve(waits, worker, 20)

    submit_many(waits, [{}] * 10, owner="ben")

    assert Counter(serve(waits, worker, 8)) == {"ada": 4, "ben": 4}


def test_who_comes_back_still_pays_for_what_it_has_used(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit(waits, owner="ada")
    submit_many(waits, [{}] * 10, owner="ben")
    serve(waits, worker, 2)
    turns.charge(waits.name, {"ada": 5.0}, serving=False)

    submit_many(waits, [{}] * 10, owner="ada")

    assert serve(waits, worker, 6) == ["ben"] * 5 + ["ada"]


def test_priority_counts_within_an_owner(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit_many(waits, [{}] * 5, owner="ada")
    urgent = submit(waits, owner="ada", priority=0)

    assert lease(waits, worker).id == urgent.id


def test_priority_counts_between_owners_within_bounds(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit_many(waits, [{}] * 20, owner="ada", priority=5)
    submit_many(waits, [{}] * 20, owner="ben", priority=4)

    # A step is worth a minute of a slot.
    served = serve(waits, worker, 10, seconds=20)

    assert served[:3] == ["ben"] * 3
    assert Counter(served[3:]) in ({"ada": 3, "ben": 4}, {"ada": 4, "ben": 3})


def test_nobody_waits_for_ever_behind_newcomers(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit_many(waits, [{}] * 5, owner="ada")
    served = serve(waits, worker, 1)

    # They come faster than they are served, and each goes before who had a turn already.
    for number in range(25):
        submit(waits, owner=f"newcomer {number}")
        submit(waits, owner=f"another {number}")
        served += serve(waits, worker, 1)

    assert served.count("ada") == 1
    Turn.objects.filter(owner="ada").update(turn=-turns.MAX_PASSED_OVER)
    for number in range(25):
        submit(waits, owner=f"late {number}")
    assert serve(waits, worker, 27)[-2:] == ["ada", "late 0"]


def test_a_retried_job_takes_its_owners_next_turn_and_pays_for_each_attempt(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waits = kind(max_attempts=2, backoff_seconds=0)
    submit(waits, owner="ada")
    submit_many(waits, [{}] * 3, owner="ben")
    failing = lease(waits, worker)
    turns.charge(waits.name, {"ada": 1.0})

    fail(failing, retryable=True)

    assert serve(waits, worker, 3) == ["ben", "ada", "ben"]


def test_a_job_of_the_future_takes_its_place_when_its_time_comes(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    future = submit(waits, owner="ben", run_at=timezone.now() + timedelta(hours=1))
    submit_many(waits, [{}] * 5, owner="ada")
    serve(waits, worker, 3)

    make_due(future)
    tick.make_due_ready()

    assert serve(waits, worker, 2) == ["ben", "ada"]


def test_owners_of_a_batch_are_charged_by_its_time(kind: DeclareKind, worker: WorkerProcess) -> None:
    batching = kind(execution="transactional", batch_size=4)
    submit_many(batching, [Submission(payload={}, owner=owner) for owner in ("ada", "ada", "ada", "ben")])

    run(batching, worker)

    clocks = dict(Turn.objects.values_list("owner", "clock"))
    assert clocks["ada"] == pytest.approx(3 * clocks["ben"])
    assert clocks["ben"] > 0


def test_ten_thousand_owners_in_one_batch_take_their_places(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit_many(waits, [Submission(payload={}, owner=f"owner {number}") for number in range(10_000)])

    served = serve(waits, worker, 10)

    assert len(set(served)) == 10
    assert not Arrival.objects.exists()
    assert Turn.objects.filter(idle=False).count() == 9_990


def test_who_has_nothing_ready_is_out_of_the_order(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit(waits, owner="ada")
    turns.absorb(waits.name)
    Job.objects.update(ready=False)

    turns.tidy([waits.name])

    assert Turn.objects.get().idle


def test_a_job_that_comes_while_its_owner_is_found_idle_is_not_overlooked(
    kind: DeclareKind, worker: WorkerProcess
) -> None:
    waits = kind()
    submit(waits, owner="ada")
    claimed = lease(waits, worker)
    submit(waits, owner="ada")
    charged = Turn.objects.get()

    turns.absorb(waits.name)
    # As a statement would write that has seen no job, since it began before that one came.
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE orchestrator_turn SET idle = true WHERE id = %s AND version = %s", [charged.id, charged.version]
        )

    complete(claimed)
    assert lease(waits, worker).owner == "ada"


def test_places_that_say_nothing_any_more_are_forgotten(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit(waits, owner="ada")
    submit_many(waits, [{}] * 3, owner="ben")
    serve(waits, worker, 3, seconds=1_000)

    turns.forget([waits.name])

    assert list(Turn.objects.values_list("owner", flat=True)) == ["ben"]


def test_a_paused_owner_starts_nothing_until_it_is_resumed(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind()
    submit_many(waits, [{}] * 3, owner="ada")
    submit(waits, owner="ben")
    owners.pause_owner("ada")
    submit(waits, owner="ada")

    while_paused = serve(waits, worker, 1)
    nothing = run(waits, worker)
    owners.resume_owner("ada")

    assert while_paused == ["ben"]
    assert not nothing
    assert serve(waits, worker, 4) == ["ada"] * 4


@pytest.mark.django_db
def test_pausing_an_owner_twice_keeps_the_first_time_and_is_audited_once() -> None:
    owners.pause_owner("ada")
    since = OwnerShare.objects.get().paused_at
    owners.pause_owner("ada")

    assert OwnerShare.objects.get().paused_at == since
    assert AuditEntry.objects.filter(action="owner.pause", object_id="ada").count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize("weight", [0, -1, 101, float("nan")])
def test_a_weight_out_of_bounds_is_refused(weight: float) -> None:
    with pytest.raises(owners.BadShare, match=r"must be 0\.01 to 100"):
        owners.set_weight("ada", weight)


def test_the_engine_serves_owners_as_the_simulation_does(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits, simulated = kind(), fairness.Turns({"ada": 2.0})
    owners.set_weight("ada", 2)
    comes = {0: ("ada", 6), 1: ("ben", 4), 4: ("eve", 3), 9: ("ada", 2), 11: ("zoe", 2)}
    seconds = {"ada": 3.0, "ben": 1.0, "eve": 5.0, "zoe": 0.5}

    served: list[tuple[str, str]] = []
    for step in range(17):
        if step in comes:
            owner, count = comes[step]
            submit_many(waits, [{}] * count, owner=owner)
            simulated.arrive(owner, [seconds[owner]] * count)
        expected = simulated.claim()
        job = lease(waits, worker)
        turns.charge(waits.name, {job.owner: seconds[job.owner]})
        complete(job)
        served.append((job.owner, expected[0] if expected else ""))

    assert [by_engine for by_engine, _ in served] == [by_simulation for _, by_simulation in served]


def test_simulated_owners_with_unequal_demand_get_equal_shares() -> None:
    demand = fairness.unequal_demand(50, 200, random.Random(1))
    used = dict.fromkeys(demand, 0.0)

    for at, owner, seconds in fairness.simulate(demand, slots=32):
        if at < 100:
            used[owner] += seconds

    assert fairness.jain(list(used.values())) >= 0.95


def test_a_claim_goes_on_though_it_could_not_be_charged(
    kind: DeclareKind, worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = kind()
    job = submit(waits, owner="ada")
    monkeypatch.setattr(turns, "CHARGE", "SELECT 1 / 0 /* %(kind)s %(owners)s %(seconds)s */")

    run(waits, worker)

    job.refresh_from_db()
    assert job.status == "COMPLETED"


def test_a_job_that_took_longer_than_expected_is_charged_for_it(kind: DeclareKind, worker: WorkerProcess) -> None:
    waits = kind(typical_seconds=5)
    submit(waits, owner="ada")

    run(waits, worker)
    expected = Turn.objects.get().clock
    costs().settle()

    assert expected == 5
    assert Turn.objects.get().clock < 1


def test_a_negligible_difference_is_charged_once_it_has_added_up_or_with_the_next_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    charged: list[float] = []
    monkeypatch.setattr(turns, "charge", lambda kind, used, **_: charged.append(used["ada"]))
    jobs: list[Any] = [SimpleNamespace(id=uuid7(), attempt=1, kind="test.kind", owner="ada") for _ in range(4)]
    measured = Costs()

    measured.claimed("test.kind", jobs[:3])
    for job in jobs[:3]:
        measured.ended([(job, 1.0009)])
        measured.settle()
    measured.claimed("test.kind", jobs[3:])

    assert charged == pytest.approx([3, 0.0018, 1.0018])


# What a charge costs


def pages_of_a_charge(kind: Kind, owner: str) -> int:
    """Those that PostgreSQL looks at for it."""
    return pages_of(turns.CHARGE, kind=kind.name, owners=[owner], seconds=[0.1], serving=True)


def pages_of(statement: str, **given: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", {"middle": 5, "step": 60, **given})
        [[[answer]]] = cursor.fetchall()
    plan = answer["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.django_db
@pytest.mark.parametrize("analyzed", [False, True])
def test_a_charge_whose_plan_is_of_a_quiet_time_reads_as_little_when_thousands_wait(
    kind: DeclareKind, analyzed: bool
) -> None:
    waiting = kind()
    if analyzed:
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE orchestrator_job, orchestrator_turn")
    submit(waiting, owner="first")
    turns.absorb(waiting.name)
    for _ in range(10):  # PostgreSQL keeps a plan after some calls.
        turns.charge(waiting.name, {"first": 0.1})

    submit_many(waiting, [Submission(payload=None, owner=f"owner{number}") for number in range(3_000)])
    while turns.absorb(waiting.name):
        pass

    assert Turn.objects.filter(kind=waiting.name, idle=False).count() == 3_001
    assert pages_of_a_charge(waiting, "owner7") < 50


@pytest.mark.django_db
def test_an_arrival_has_one_index_entry_and_is_found_among_thousands_of_another_kind(kind: DeclareKind) -> None:
    other, waiting = kind(), kind()
    submit_many(other, [Submission(payload=None, owner=f"owner{number}") for number in range(5_000)])
    submit(waiting)

    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_index WHERE indrelid = 'orchestrator_arrival'::regclass")
        assert cursor.fetchone() == (1,)
    assert pages_of(turns.ABSORB, kind=waiting.name, limit=turns.MAX_ARRIVALS) < 50
