"""Half a minute of chaos, the same faults in the same order each time; a crash at failpoints; and what they
would notice: each guard is taken away once, and what it guards against is seen. `make chaos` does more of the first.

All in one file, since they share a world, which takes long to start.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import psutil
import pytest

from tests.chaos import load
from tests.chaos.faults import CHILD, FAULTS, SHORT, Fault
from tests.chaos.invariants import Books, fenced_off
from tests.chaos.report import Report
from tests.chaos.run import Planned, Run, plan
from tests.chaos.sweep import crash_at, every_failpoint
from tests.chaos.world import World, frozen
from tests.sabotage.apps import UNWATCHED
from tests.system.stack import until

SEED, SECONDS = 9, 30
SWEEP_SEED = 6
# Of the failpoints, when not all are to be crashed at: each takes seconds.
SOME_FAILPOINTS = 8
# On RabbitMQ what the broker and its messages have to do with; everything else does not know the difference.
RABBITMQ_SECONDS = 25
RABBITMQ_FAULTS = ("broker_killed", "flush_broker", "messages_replayed", "SIGKILL child", "SIGKILL control")
# Without a guard: long enough for what ends at all.
ENOUGH_SECONDS = 5
PATIENCE_SECONDS = 60

EFFECTS = "every database effect is there exactly once"
ENDS = "every accepted job is in a final state"

Without = Callable[[str], None]


def no_hurt(world: World, rng: object) -> None:
    """Nothing happens."""


def a_fault(name: str, touches: str, seconds: float, skipped: str = "") -> Fault:
    return Fault(
        name=name, hurt=no_hurt, weight=1, touches=touches, seconds=seconds, probes=(), group="other", skipped=skipped
    )


def test_a_plan_depends_on_its_seed_alone() -> None:
    assert plan(1, 300, FAULTS.values()) == plan(1, 300, FAULTS.values())
    assert plan(1, 300, FAULTS.values()) != plan(2, 300, FAULTS.values())


def test_a_plan_has_every_fault_that_can_be_done_and_never_two_at_once_that_touch_the_same() -> None:
    faults = [a_fault("long", "a", 10), a_fault("short", "a", 1), a_fault("other", "b", 1), a_fault("no", "b", 1, "-")]

    planned = plan(1, 300, faults)

    assert {each.fault.name for each in planned} == {"long", "short", "other"}
    on_a = [each for each in planned if each.fault.touches == "a"]
    assert all(earlier.at_seconds + earlier.fault.seconds <= later.at_seconds for earlier, later in pairwise(on_a))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(400)
def test_half_a_minute_of_chaos_loses_nothing_and_does_nothing_twice(world: World) -> None:
    run = Run(world, "half a minute", seed=SEED)

    run.go(plan(SEED, SECONDS, FAULTS.values()), SECONDS)

    report = Report(Books(run))
    assert report.holds, report.text()
    assert len(report.summary["faults"]) > 5
    assert report.summary["jobs"]["tests.effect"]["COMPLETED"] > 25


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(400)
def test_chaos_on_rabbitmq_loses_nothing_and_does_nothing_twice(rabbitmq_world: World) -> None:
    run = Run(rabbitmq_world, "rabbitmq", seed=SEED)

    run.go(plan(SEED, RABBITMQ_SECONDS, [FAULTS[name] for name in RABBITMQ_FAULTS]), RABBITMQ_SECONDS)

    report = Report(Books(run))
    assert report.holds, report.text()
    assert report.summary["recovery"]["broker"]["count"] > 0


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("count", [SOME_FAILPOINTS, pytest.param(None, marks=pytest.mark.long)])
def test_a_crash_at_a_failpoint_loses_nothing_and_does_nothing_twice(world: World, count: int | None) -> None:
    run = Run(
        world,
        f"sweep of {count or 'all'}",
        seed=SWEEP_SEED,
        works=dict.fromkeys(load.WORK, 1) | {load.a_job_that_kills_its_worker_each_time: 0},
    )
    names = every_failpoint(SWEEP_SEED)[:count]

    with run.load():
        for place, name in enumerate(names):
            # Whichever process it is, a request may be under way in it.
            crash = Fault(
                name=name,
                hurt=partial(crash_at, name),
                weight=1,
                touches="web",
                seconds=1,
                probes=(CHILD,),
                group="kill",
            )
            run.hurt(Planned(0, crash, f"{SWEEP_SEED}/{place}"))
    run.settle()

    report = Report(Books(run))
    assert report.holds, report.text()
    assert len(names) == count or len(names) > 30
    assert {entry["fault"] for entry in run.ledger.entries("fault_ended")} == set(names)


def a_worker_frozen_beyond_its_lease(world: World, without: Without) -> Run:
    """A job that does not listen, in a process that hangs until another has completed the job, and then goes on.

    Its watchdog would end it then if that took some seconds longer than a lease.
    """
    without("no_watchdog")
    run = Run(world, "frozen", seed=0)
    job_id = run.client().job(CHILD, {"number": 1, "seconds": 3, "deaf": True}, priority=0)
    sql = (
        "SELECT worker.pid FROM orchestrator_job job JOIN orchestrator_worker worker ON worker.id = job.worker_id"
        " WHERE job.id = %s"
    )
    [[pid]] = until(lambda: world.query(sql, job_id), 20)
    until(lambda: is_unwatched(run, pid), 20)
    with frozen([psutil.Process(pid)]):
        until(lambda: not run.unfinished(), PATIENCE_SECONDS)
    until(lambda: world.outside.read_text().count(f'"event": "done", "key": "{job_id}"') == 2, 20)
    # The zombie has ended when the process asks for the next job.
    run.client().job(CHILD, {"number": 2}, priority=0)
    run.settle()
    return run


def is_unwatched(run: Run, pid: int) -> bool:
    told = run.world.outside.read_text()[run.outside_from :]
    return re.search(rf'"event": "{UNWATCHED}".*"pid": {pid}\D', told) is not None


@pytest.mark.slow
def test_a_zombie_that_completes_its_job_is_fenced_off(world: World, without: Without) -> None:
    run = a_worker_frozen_beyond_its_lease(world, without)

    report = Report(Books(run))
    assert report.holds, report.text()
    assert fenced_off(report.books) == 1


@pytest.mark.slow
def test_without_the_attempt_guard_an_effect_is_there_twice(world: World, without: Without) -> None:
    without("no_attempt_guard")

    run = a_worker_frozen_beyond_its_lease(world, without)

    report = Report(Books(run))
    assert EFFECTS in report.broken
    assert report.summary["doubles"] == 1


@pytest.mark.slow
def test_without_the_tick_a_job_waiting_for_a_retry_is_lost_and_a_new_job_is_not(
    world: World, without: Without
) -> None:
    without("no_tick")
    run = Run(world, "no tick", seed=0)
    short, again = run.client().job(SHORT, {}), run.client().job(SHORT, {"failures": 1})

    run.settle(ENOUGH_SECONDS)

    report = Report(Books(run))
    assert [(each.invariant, each.job_id) for each in report.violations] == [(ENDS, again)]
    assert report.summary["losses"] == 1
    assert report.books.jobs[short]["status"] == "COMPLETED"


@pytest.mark.slow
def test_a_bell_rung_before_the_commit_loses_a_job_if_no_worker_polls(world: World, without: Without) -> None:
    without("no_tick")
    without("no_poller")
    without("bell_before_commit")
    run = Run(world, "bell before commit", seed=0)
    run.client().job(SHORT, {})

    run.settle(ENOUGH_SECONDS)

    report = Report(Books(run))
    assert report.broken == {ENDS}


@pytest.mark.slow
def test_with_the_guards_back_the_lost_jobs_end_and_nothing_is_left(world: World) -> None:
    until(lambda: not world.query("SELECT id FROM orchestrator_job WHERE status IN ('CREATED', 'RUNNING')"), 20)

    report = Report(Books(Run(world, "guarded again", seed=0)))
    assert report.holds, report.text()
